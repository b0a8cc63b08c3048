package edge

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
	"callswitch/sessions/sessionstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var key = []byte("0123456789abcdef")

// rig is an edge with a far end on loopback and a scripted worker.
type rig struct {
	t    *testing.T
	bus  *sessionstest.MemBus
	edge *Edge
	stop func()
	far  *net.UDPConn // the phone
	step chan sessions.Delivery
	plan atomic.Pointer[codecore.Plan]

	lim     Limits        // of the last start
	own     func(*Config) // changes the configuration of the next start
	release string        // that takes new calls; "r1" is the scripted worker
	ordered uint64        // actions by order
	pumps   [][]*pump     // that each generation has left behind

	mu     sync.Mutex
	script func(sessions.Delivery) *sessions.Answer // nil answer = lost

	stepping sync.Mutex
	answered map[string]*sessions.Answer // by call, incarnation and number
}

// guard ends what waits for ever; it measures nothing.
const guard = 20 * time.Second

// quick are limits of tests in which nothing but a time that runs out is waited for:
// a transaction is over after 2 s. Who needs one to be there still takes patient.
func quick() Limits {
	return Limits{T1: 30 * time.Millisecond, T2: 120 * time.Millisecond, T4: 100 * time.Millisecond, Confirm: 40 * time.Millisecond, Forget: 200 * time.Millisecond, OrphanAfter: 60 * time.Millisecond}
}

// patient are limits by which nothing that a test needs is over, and no answer asked
// for again, however slow the machine.
func patient() Limits {
	lim := quick()
	lim.T1, lim.AnswerWait = 500*time.Millisecond, 5*time.Second
	return lim
}

func newRig(t *testing.T, lim Limits) *rig {
	t.Helper()
	r := &rig{t: t, release: "r1", bus: sessionstest.NewBus(1), step: make(chan sessions.Delivery, 64), answered: map[string]*sessions.Answer{}}
	far, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r.far = far
	r.script = func(d sessions.Delivery) *sessions.Answer {
		return &sessions.Answer{Call: d.Call, Num: d.Num, Status: sessions.StatusOK}
	}
	on := func(m sessions.Msg) {
		var d sessions.Delivery
		if strings.HasPrefix(m.Subject, "orphan") {
			var o sessions.Orphan
			if err := wire.Open(m.Data, &o); err != nil {
				t.Error(err)
				return
			}
			d = o.Delivery
		} else if err := wire.Open(m.Data, &d); err != nil {
			t.Error(err)
			return
		}
		if a := r.worker(d); a != nil {
			data, _ := wire.Seal(a)
			_ = r.bus.Publish(m.Reply, data)
		}
	}
	for _, s := range []string{"new.r1", "call.*.in"} {
		sub, err := r.bus.Subscribe(s, "", on)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sub.Unsubscribe() })
	}
	r.start("b1", "udp:127.0.0.1:0", lim)
	t.Cleanup(func() { r.stop(); far.Close() })
	return r
}

// worker answers an event as its script has it; what it has answered it answers again,
// and does not step it.
func (r *rig) worker(d sessions.Delivery) *sessions.Answer {
	r.stepping.Lock()
	defer r.stepping.Unlock()
	key := fmt.Sprint(d.Call, d.Boot, d.Num)
	if a := r.answered[key]; a != nil && d.Num > 0 {
		return a
	}
	r.mu.Lock()
	script := r.script
	r.mu.Unlock()
	a := script(d)
	r.answered[key] = a
	select {
	case r.step <- d:
	default: // a test that does not look
	}
	return a
}

func (r *rig) start(boot, udp string, lim Limits) {
	r.t.Helper()
	r.lim = lim
	r.plan.Store(&codecore.Plan{Peers: []codecore.PlanPeer{{Name: "phone", Kind: "phone", Sources: []string{"127.0.0.1"}}}})
	cfg := Config{
		Node: "n1", Boot: boot, Listen: []string{udp, "tcp:127.0.0.1:0"}, ClusterKey: key, Bus: r.bus, Limits: lim,
		Plan: func() *codecore.Plan { return r.plan.Load() }, Weights: func() []Weight { return []Weight{{r.release, 100}} },
	}
	if r.own != nil {
		r.own(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	var once sync.Once
	r.edge, r.stop = e, func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				r.t.Error(err)
			}
		})
	}
}

// again starts the next incarnation with the UDP socket of the last, as the host keeps
// it: nobody else gets its port meanwhile.
func (r *rig) again(boot string, lim Limits) {
	r.t.Helper()
	files, err := r.edge.Files()
	if err != nil {
		r.t.Fatal(err)
	}
	socket, own := files[r.edge.specs[0]], r.own
	r.stop()
	r.own = func(c *Config) {
		if own != nil {
			own(c)
		}
		c.Sockets = map[string]*os.File{c.Listen[0]: socket}
	}
	r.start(boot, "udp:"+r.edge.Addrs()[0].String(), lim)
	r.own = own
	closeFiles(nil, files)
}

func (r *rig) says(f func(sessions.Delivery) *sessions.Answer) {
	r.mu.Lock()
	r.script = f
	r.mu.Unlock()
}

func (r *rig) send(msg string) {
	r.t.Helper()
	if _, err := r.far.WriteToUDPAddrPort([]byte(msg), r.edge.Addrs()[0]); err != nil {
		r.t.Fatal(err)
	}
}

// begins tells whether a message's start line has want; three digits are a status.
func begins(msg, want string) bool {
	line, _, _ := strings.Cut(msg, "\r\n")
	if _, err := strconv.Atoi(want); err == nil && len(want) == 3 { // a port may have them, too
		return strings.HasPrefix(line, "SIP/2.0 "+want)
	}
	return strings.Contains(line, want)
}

// hear reads the next message whose start line has want.
func (r *rig) hear(want string) string {
	r.t.Helper()
	buf := make([]byte, 65536)
	_ = r.far.SetReadDeadline(time.Now().Add(guard))
	for {
		n, err := r.far.Read(buf)
		if err != nil {
			r.t.Fatalf("waiting for %q: %v (reasons %v)", want, err, r.edge.stats.Reasons())
		}
		if msg := string(buf[:n]); begins(msg, want) {
			return msg
		}
	}
}

// pass lets time go by for all that waits for a deadline of the edge's.
func (r *rig) pass(d time.Duration) { r.edge.fireDue(time.Now().Add(d)) }

// event waits for the next event of the kind that ok accepts.
func event[E codecore.Event](r *rig, ok func(E) bool) E {
	r.t.Helper()
	late := time.After(guard)
	for {
		select {
		case d := <-r.step:
			if ev, is := d.Event.Event().(E); is && (ok == nil || ok(ev)) {
				return ev
			}
		case <-late:
			r.t.Fatalf("no %T", *new(E))
		}
	}
}

func (r *rig) request(method, branch, extra string) string {
	port := r.far.LocalAddr().(*net.UDPAddr).Port
	body := ""
	if method == "INVITE" {
		body = "v=0\r\n"
	}
	to := ""
	if i := strings.Index(extra, "TOTAG="); i >= 0 {
		to, extra = ";tag="+extra[i+6:], extra[:i]
	}
	cseq := method
	return fmt.Sprintf("%s sip:100@127.0.0.1 SIP/2.0\r\nv: SIP/2.0/UDP 127.0.0.1:%d;rport;branch=z9hG4bK%s\r\nf: \"A, B\" <sip:1@x>;tag=a1\r\nt: <sip:100@x>%s\r\ni: c-%s\r\nCSeq: 7 %s\r\nMax-Forwards: 70\r\nm: <sip:1@127.0.0.1:%d>\r\n%sl: %d\r\n\r\n%s", method, port, branch, to, r.t.Name(), cseq, port, extra, len(body), body)
}

func ok(d sessions.Delivery, as ...codecore.Action) *sessions.Answer {
	return &sessions.Answer{Call: d.Call, Num: d.Num, Status: sessions.StatusOK, Actions: as}
}

func action(seq uint64, e codecore.Effect) codecore.Action {
	return codecore.Action{To: "edge.n1", Seq: seq, Effect: e}
}

// response is what a worker would answer a request with.
func response(q codecore.SIPRequest, status int) codecore.Effect {
	m := codecore.Message{Method: q.Msg.Method, Status: status, Reason: "Fine"}
	for _, h := range q.Msg.Headers {
		switch h.Name {
		case "To":
			h.Value += ";tag=" + q.Token + ".t"
			fallthrough
		case "Via", "From", "Call-ID", "CSeq":
			m.Add(h.Name, h.Value)
		}
	}
	return codecore.Effect{Response: &codecore.SendResponse{Tx: q.Tx, Flow: q.Flow, Msg: m, ContactUser: q.Token}}
}

// request of the switch to the phone.
func (r *rig) outgoing(token, method string) codecore.Effect {
	m := codecore.Message{Method: method, URI: "sip:2@" + r.far.LocalAddr().String()}
	for _, h := range [][2]string{{"From", "<sip:1@x>;tag=" + token + ".b"}, {"To", "<sip:2@x>"}, {"Call-ID", "leg2"}, {"CSeq", "1 " + method}, {"Max-Forwards", "69"}} {
		m.Add(h[0], h[1])
	}
	return codecore.Effect{Request: &codecore.SendRequest{Msg: m, Branch: cookie + token + ".1", Target: m.URI, ContactUser: token}}
}

func TestTryingComesAfterTheAnswerEvenWhenAnswersAreLost(t *testing.T) {
	r := newRig(t, quick())
	var tries atomic.Int64
	r.says(func(d sessions.Delivery) *sessions.Answer {
		if tries.Add(1) < 3 {
			return nil
		}
		return ok(d)
	})
	r.send(r.request("INVITE", "1", ""))
	r.hear("100 Trying")
	q := event[codecore.SIPRequest](r, nil)
	if tries.Load() < 3 || q.Peer != "phone" || q.Seed == 0 || q.Msg.Get("From") != `"A, B" <sip:1@x>;tag=a1` || q.Msg.Get("Content-Length") != "" {
		t.Fatalf("tries %d, request %+v", tries.Load(), q)
	}
	if v := q.Msg.Get("Via"); !strings.Contains(v, ";received=127.0.0.1") || strings.Contains(v, ";rport;") {
		t.Fatal("via not stamped:", v)
	}
}

func TestA2xxIsRepeatedUntilTheAckAndWithoutOneTheCallHears(t *testing.T) {
	r := newRig(t, patient())
	r.says(func(d sessions.Delivery) *sessions.Answer {
		if q, is := d.Event.Event().(codecore.SIPRequest); is && q.Msg.Method == "INVITE" {
			return ok(d, action(1, response(q, 200)))
		}
		return ok(d)
	})
	r.send(r.request("INVITE", "1", ""))
	for range 3 {
		r.hear("200 Fine")
	}
	q := event[codecore.SIPRequest](r, nil)
	if a := event[codecore.Accepted](r, nil); a.Seq != 1 || a.Boot != "b1" {
		t.Fatalf("%+v", a)
	}
	r.pass(r.lim.gone())
	if n := event[codecore.NoAck](r, nil); n.Tx != q.Tx {
		t.Fatal("NoAck of another transaction")
	}
	r.send(strings.ReplaceAll(r.request("INVITE", "2", ""), "c-", "d-"))
	q = event(r, func(q codecore.SIPRequest) bool {
		return q.Msg.Method == "INVITE" && strings.HasPrefix(q.Msg.Get("Call-ID"), "d-")
	})
	for !strings.Contains(r.hear("200 Fine"), "d-") { // those of the first have waited here
	}
	ack := strings.ReplaceAll(r.request("ACK", "3", "TOTAG="+q.Token+".t"), "c-", "d-")
	r.send(ack)
	r.send(ack)
	if a := event(r, func(q codecore.SIPRequest) bool { return q.Msg.Method == "ACK" }); a.Tx != q.Tx {
		t.Fatal("the ACK has not found its INVITE")
	}
}

// Who rings, and then lets something be heard, says 180 twice; a repetition of either
// is none of the call's business.
func TestARingingThatBringsItsSDPLaterIsPassedOn(t *testing.T) {
	r := newRig(t, patient())
	r.says(func(d sessions.Delivery) *sessions.Answer {
		if q, is := d.Event.Event().(codecore.SIPRequest); is && q.Msg.Method == "INVITE" {
			return ok(d, action(1, r.outgoing(q.Token, "INVITE")))
		}
		return ok(d)
	})
	r.send(r.request("INVITE", "1", ""))
	_, head, _ := strings.Cut(r.hear("INVITE sip:2@"), "\r\n")
	head, _, _ = strings.Cut(strings.Replace(head, "To: <sip:2@x>", "To: <sip:2@x>;tag=far", 1), "Content-Length")
	bare, sdp := head+"Content-Length: 0\r\n\r\n", head+"Content-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n"
	for _, m := range []string{"180 Ringing\r\n" + bare, "180 Ringing\r\n" + bare, "180 Ringing\r\n" + sdp, "180 Ringing\r\n" + sdp, "180 Ringing\r\n" + bare, "486 Busy Here\r\n" + bare} {
		r.send("SIP/2.0 " + m)
	}
	got := ""
	event(r, func(e codecore.SIPResponse) bool {
		got += fmt.Sprintf("%d %q ", e.Msg.Status, e.Msg.Body)
		return e.Msg.Status == 486
	})
	if got != `180 "" 180 "v=0\r\n" 486 "" ` {
		t.Error(got)
	}
}

// An ACK to a 2xx that is known by the key of its INVITE: RFC 2543 had no branches,
// and some phones give it the one of the INVITE.
func TestAnAckOfItsInvitesBranchIsTheCalls(t *testing.T) {
	for name, branch := range map[string]string{"the same": ";branch=z9hG4bK1", "none": ""} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, patient())
			r.says(answers200)
			line := func(method, extra string) string {
				return strings.Replace(r.request(method, "1", extra), ";branch=z9hG4bK1", branch, 1)
			}
			r.send(line("INVITE", ""))
			r.hear("200 Fine")
			q := event[codecore.SIPRequest](r, nil)
			r.send(line("ACK", "TOTAG="+q.Token+".t"))
			if a := event(r, func(q codecore.SIPRequest) bool { return q.Msg.Method == "ACK" }); a.Tx != q.Tx {
				t.Errorf("the ACK has not found its INVITE: %+v", a)
			}
		})
	}
}

func TestCancelCrossesAndWaitsForAProvisional(t *testing.T) {
	r := newRig(t, patient())
	r.says(func(d sessions.Delivery) *sessions.Answer {
		if q, is := d.Event.Event().(codecore.SIPRequest); is {
			switch q.Msg.Method {
			case "INVITE":
				return ok(d, action(1, r.outgoing(q.Token, "INVITE")))
			case "CANCEL":
				inv := q
				inv.Msg.Method = "INVITE"
				e := response(inv, 487)
				for i := range e.Response.Msg.Headers {
					if h := &e.Response.Msg.Headers[i]; h.Name == "CSeq" {
						h.Value = "7 INVITE"
					}
				}
				return ok(d, action(2, e), action(3, r.outgoing(q.Token, "CANCEL")))
			}
		}
		return ok(d)
	})
	r.send(r.request("INVITE", "1", ""))
	inv := r.hear("INVITE sip:2@")
	r.send(r.request("CANCEL", "1", ""))
	if first := r.hear("SIP/2.0 "); !strings.HasPrefix(first, "SIP/2.0 200") || !strings.Contains(first, ";tag=") || !strings.Contains(first, ".t") {
		t.Fatalf("a CANCEL is answered first, with the tag of the call:\n%s", first)
	}
	fail := r.hear("487")
	if !strings.Contains(fail, "CSeq: 7 INVITE") {
		t.Fatal(fail)
	}
	r.hear("487") // repeated until its ACK
	r.send(r.request("ACK", "1", "TOTAG=x"))
	answer := func(req, status string) string {
		_, rest, _ := strings.Cut(req, "\r\n")
		rest = strings.Replace(rest, "To: <sip:2@x>", "To: <sip:2@x>;tag=far", 1)
		return "SIP/2.0 " + status + "\r\n" + rest
	}
	r.send(answer(inv, "180 Ringing"))
	cancel := r.hear("CANCEL sip:2@")
	r.send(answer(cancel, "200 OK"))
	r.send(answer(inv, "487 Request Terminated"))
	if ack := r.hear("ACK sip:2@"); !strings.Contains(ack, "CSeq: 1 ACK") || !strings.Contains(ack, "tag=far") {
		t.Fatal(ack)
	}
	event(r, func(e codecore.SIPResponse) bool { return e.Msg.Status == 487 && e.Msg.Method == "INVITE" })
}

func TestAnInviteThatCannotBeSavedGets503AndACancelFollows(t *testing.T) {
	lim := quick()
	lim.SaveWithin = 400 * time.Millisecond
	r := newRig(t, lim)
	r.says(func(d sessions.Delivery) *sessions.Answer {
		if q, is := d.Event.Event().(codecore.SIPRequest); is && q.Msg.Method == "INVITE" {
			return nil
		}
		return ok(d)
	})
	r.send(r.request("INVITE", "1", ""))
	if msg := r.hear("503"); !strings.Contains(msg, "store-away") || !strings.Contains(msg, "Retry-After") {
		t.Fatal(msg)
	}
	event(r, func(q codecore.SIPRequest) bool { return q.Msg.Method == "CANCEL" })
}

func TestRestartedEdgeTakesPendingAndFindsCallsByTokens(t *testing.T) {
	r := newRig(t, patient())
	r.send(r.request("INVITE", "1", ""))
	r.hear("100 Trying")
	q := event[codecore.SIPRequest](r, nil)
	addr := r.edge.Addrs()[0].String()
	r.again("b2", patient())
	first := action(5, response(q, 200))
	do := func(a codecore.Action) (d sessions.Done) {
		t.Helper()
		data, _ := wire.Seal(sessions.Do{Call: codecore.CallID(q.Token[:idLen]), Actions: []codecore.Action{a}})
		ctx, cancel := context.WithTimeout(context.Background(), guard)
		defer cancel()
		var raw []byte
		err := sessions.ErrNoResponders
		for err == sessions.ErrNoResponders { //nolint:errorlint // the bus returns it bare
			raw, err = r.bus.Request(ctx, sessions.SubjectDo("edge.n1"), data)
		}
		if err != nil || wire.Open(raw, &d) != nil {
			t.Fatal(err)
		}
		return d
	}
	if d := do(first); !d.Gap || d.Accepted != 0 || d.Boot != "b2" {
		t.Fatalf("a gap was taken: %+v", d)
	}
	first.First = true
	if d := do(first); d.Gap || d.Accepted != 5 {
		t.Fatalf("%+v", d)
	}
	if msg := r.hear("200 Fine"); !strings.Contains(msg, "Contact: <sip:"+q.Token+"@"+addr+">") {
		t.Fatal(msg)
	}
	r.send(r.request("BYE", "9", "TOTAG="+q.Token+".t"))
	event(r, func(q codecore.SIPRequest) bool { return q.Msg.Method == "BYE" })
	r.send(r.request("BYE", "10", "TOTAG="+strings.Repeat("ab", tokenLen/2)))
	r.hear("481")
}

func TestGarbage(t *testing.T) {
	r := newRig(t, patient())
	good := r.request("OPTIONS", "g", "")
	for name, c := range map[string]struct{ msg, want string }{
		"cseq method":    {strings.Replace(good, "7 OPTIONS", "7 INVITE", 1), "400"},
		"version":        {strings.Replace(good, "SIP/2.0\r\n", "SIP/3.0\r\n", 1), "505"},
		"hops":           {strings.Replace(r.request("INVITE", "gi", ""), "Max-Forwards: 70", "Max-Forwards: 0", 1), "483"},
		"the last hop":   {strings.Replace(good, "Max-Forwards: 70", "Max-Forwards: 0", 1), "200"},
		"hops text":      {strings.Replace(good, "Max-Forwards: 70", "Max-Forwards: x", 1), "400"},
		"length":         {strings.Replace(good, "l: 0", "l: 9", 1), "400"},
		"two lengths":    {strings.Replace(good, "l: 0", "l: 0\r\nContent-Length: 0", 1), "400"},
		"two froms":      {strings.Replace(good, "l: 0", "From: <sip:2@x>;tag=2\r\nl: 0", 1), "400"},
		"nul":            {strings.Replace(good, "l: 0", "X: a\x00b\r\nl: 0", 1), "400"},
		"bare lf":        {strings.Replace(good, "l: 0", "X: a\nTo: b\r\nl: 0", 1), "400"},
		"not utf8":       {strings.Replace(good, "l: 0", "X: \xff\r\nl: 0", 1), "400"},
		"port":           {strings.Replace(good, "sip:100@127.0.0.1 ", "sip:100@127.0.0.1:70000 ", 1), "400"},
		"scheme":         {strings.Replace(good, "sip:100@127.0.0.1 ", "mailto:100@x ", 1), "416"},
		"a number":       {strings.Replace(good, "sip:100@127.0.0.1 ", "tel:+1-00;phone-context=x ", 1), "200"},
		"identity":       {strings.Replace(good, "l: 0", "p-preferred-identity: \"a <sip:1@h>, <sip:2@x>\r\nl: 0", 1), "400"},
		"diversion list": {strings.Replace(good, "l: 0", "diversion: <sip:1@h>, b \"c\" <sip:2@h>\r\nl: 0", 1), "400"},
		"folded is fine": {strings.Replace(good, "l: 0", "X: a\r\n b\r\nl: 0", 1), "200"},
		"quoted pairs":   {strings.Replace(good, `"A, B"`, `"a\"b\\ <sip:x@y>;tag=z"`, 1), "200"},
		"instance":       {strings.Replace(good, "m: <sip:1@", `m: <sip:2@x>;+sip.instance="<urn:uuid:1;2>", <sip:1@`, 1), "200"},
		"hidden tag":     {strings.Replace(good, "tag=a1", `x=">;tag=2";tag=a1`, 1), "400"},
		"nul in quotes":  {strings.Replace(good, `"A, B"`, "\"A\x00B\"", 1), "400"},
		"nul in subject": {strings.Replace(good, "l: 0", "s: \"a\\\x00\"\r\nl: 0", 1), "400"},
		"many vias":      {strings.Replace(good, "l: 0", "v: "+strings.Repeat("SIP/2.0/UDP h,", 600)+"SIP/2.0/UDP h\r\nl: 0", 1), "400"},
		"many routes":    {strings.Replace(good, "l: 0", "Route: "+strings.Repeat("<sip:h;lr>,", 200)+"<sip:h>\r\nl: 0", 1), "400"},
		"many params":    {strings.Replace(good, "tag=a1", "tag=a1"+strings.Repeat(";a", 100), 1), "400"},
		"long line":      {strings.Replace(good, "l: 0", "X: "+strings.Repeat("x", 9000)+"\r\nl: 0", 1), "400"},
		"many lines":     {strings.Replace(good, "l: 0", strings.Repeat("X: y\r\n", 300)+"l: 0", 1), "400"},
		"deep folding":   {strings.Replace(good, "l: 0", "X: y\r\n"+strings.Repeat(" z\r\n", 300)+"l: 0", 1), "400"},
		"fine":           {good, "200"},
		"register":       {strings.ReplaceAll(good, "OPTIONS", "REGISTER"), "405"},
	} {
		t.Run(name, func(t *testing.T) {
			r.send(c.msg)
			if msg := r.hear("SIP/2.0 "); !strings.HasPrefix(msg, "SIP/2.0 "+c.want) {
				t.Error(msg)
			}
		})
	}
}

func TestTCPMessagesInPiecesAndTogether(t *testing.T) {
	r := newRig(t, patient())
	c, err := net.Dial("tcp", r.edge.Addrs()[1].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	msg := strings.ReplaceAll(r.request("OPTIONS", "t", ""), "SIP/2.0/UDP", "SIP/2.0/TCP")
	both := "\r\n\r\n" + msg + msg
	for i := 0; i < len(both); i += 97 {
		if _, err := c.Write([]byte(both[i:min(len(both), i+97)])); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(guard))
	got, buf := "", make([]byte, 4096)
	for strings.Count(got, "SIP/2.0 200 OK") < 2 {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, got)
		}
		got += string(buf[:n])
	}
	if !strings.HasPrefix(got, "\r\n") {
		t.Error("the ping was not answered")
	}
}
