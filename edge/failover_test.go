package edge

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// proxy is one address of a trunk.
type proxy struct {
	t    *testing.T
	conn *net.UDPConn
	from net.Addr // of the last request
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &proxy{t: t, conn: c}
}

func (p *proxy) port() int   { return p.conn.LocalAddr().(*net.UDPAddr).Port }
func (p *proxy) hop() string { return fmt.Sprintf("udp/127.0.0.1:%d", p.port()) }

// hear waits for a request of one of these methods.
func (p *proxy) hear(methods ...string) string {
	p.t.Helper()
	buf := make([]byte, 65536)
	_ = p.conn.SetReadDeadline(time.Now().Add(guard))
	for {
		n, from, err := p.conn.ReadFrom(buf)
		if err != nil {
			p.t.Fatalf("no %s: %v", methods, err)
		}
		msg := string(buf[:n])
		if method, _, _ := strings.Cut(msg, " "); slices.Contains(methods, method) {
			p.from = from
			return msg
		}
	}
}

// says answers a request.
func (p *proxy) says(request string, status int, more string) {
	p.t.Helper()
	out := fmt.Sprintf("SIP/2.0 %d X\r\n", status)
	for _, line := range strings.Split(request, "\r\n") {
		switch name, _, _ := strings.Cut(line, ":"); name {
		case "To":
			out += line + ";tag=p\r\n"
		case "Via", "From", "Call-ID", "CSeq":
			out += line + "\r\n"
		}
	}
	if _, err := p.conn.WriteTo([]byte(out+more+"Content-Length: 0\r\n\r\n"), p.from); err != nil {
		p.t.Fatal(err)
	}
}

// saysOnce answers what comes soon, if something does.
func (p *proxy) saysOnce(status int) {
	p.t.Helper()
	_ = p.conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	buf := make([]byte, 2048)
	if n, from, err := p.conn.ReadFrom(buf); err == nil {
		p.from = from
		p.says(string(buf[:n]), status, "")
	}
}

func branchOf(msg string) string {
	_, rest, _ := strings.Cut(msg, ";branch=")
	b, _, _ := strings.Cut(rest, ";")
	b, _, _ = strings.Cut(b, "\r\n")
	return b
}

// trunkRig is an edge that finds "trunk.example" at the ports, in this order. Its
// worker calls there, and calls again when told that an address has failed.
func trunkRig(t *testing.T, change func(*codecore.SendRequest), ports ...int) *rig {
	t.Helper()
	return patientRig(t, 200*time.Millisecond, change, ports...)
}

// patientRig waits so long for a sign of life.
func patientRig(t *testing.T, silence time.Duration, change func(*codecore.SendRequest), ports ...int) *rig {
	t.Helper()
	z := newZone(t, "a.example. 60 IN A 127.0.0.1")
	for i, p := range ports {
		z.set(t, fmt.Sprintf("_sip._udp.trunk.example. 60 IN SRV %d 0 %d a.example.", i+1, p))
	}
	lim := patient()
	lim.Silence = silence
	r := newRig(t, lim)
	r.stop()
	r.own = func(c *Config) { c.DNS = []string{z.addr} }
	r.start("b2", "udp:127.0.0.1:0", lim)
	var mu sync.Mutex // new calls and those that are known come by different subjects
	asked := map[codecore.CallID][]codecore.Action{}
	r.says(func(d sessions.Delivery) *sessions.Answer {
		mu.Lock()
		defer mu.Unlock()
		failed := ""
		switch ev := d.Event.Event().(type) {
		case codecore.SIPRequest:
			if ev.Msg.Method == "INVITE" && asked[d.Call] == nil {
				e := r.outgoing(ev.Token, "INVITE")
				e.Request.Msg.URI, e.Request.Target = "sip:2@trunk.example", "sip:2@trunk.example"
				if change != nil {
					change(e.Request)
				}
				asked[d.Call] = append(asked[d.Call], action(1, e))
				return ok(d, asked[d.Call]...)
			}
		case codecore.SIPTimeout:
			failed = ev.Failed
		case codecore.SIPResponse:
			failed = ev.Failed
		}
		if as := asked[d.Call]; failed != "" && len(as) > 0 {
			q := *as[len(as)-1].Request
			q.Avoid = append(append([]string{}, q.Avoid...), failed)
			q.Branch += "x"
			asked[d.Call] = append(as, action(uint64(len(as))+1, codecore.Effect{Request: &q}))
			return ok(d, asked[d.Call][len(as):]...)
		}
		return ok(d)
	})
	return r
}

// repeats has the edge perform what the INVITE of that branch was sent by, the oldest
// that is pending.
func (r *rig) repeats(seq uint64, branch string, avoid ...string) {
	r.t.Helper()
	id, token, ok := r.edge.ids.verify(branch)
	if !ok {
		r.t.Fatalf("%s is no branch of ours", branch)
	}
	a := action(seq, r.outgoing(token, "INVITE"))
	a.First = true
	q := a.Request
	q.Msg.URI, q.Target, q.Branch, q.Avoid = "sip:2@trunk.example", "sip:2@trunk.example", branch, avoid
	r.edge.mu.Lock()
	defer r.edge.mu.Unlock()
	r.edge.perform(r.edge.call(id, token), []codecore.Action{a}, time.Now())
}

func TestASilentAddressIsLeftAndEndedLater(t *testing.T) {
	dead, alive := newProxy(t), newProxy(t)
	r := trunkRig(t, nil, dead.port(), alive.port())
	r.send(r.request("INVITE", "1", ""))
	first := dead.hear("INVITE")
	if n := event[codecore.SIPTimeout](r, nil); n.Code != 408 || n.Failed != dead.hop() || n.Branch != branchOf(first) {
		t.Errorf("%+v, want %s", n, dead.hop())
	}
	second := alive.hear("INVITE")
	if branchOf(first) == branchOf(second) {
		t.Error("another transaction with the same branch")
	}
	alive.says(second, 180, "")
	event(r, func(p codecore.SIPResponse) bool { return p.Msg.Status == 180 })

	dead.says(first, 180, "") // it was slow
	if c := dead.hear("CANCEL"); branchOf(c) != branchOf(first) {
		t.Error(c)
	}
	dead.says(first, 200, fmt.Sprintf("Contact: <sip:slow@127.0.0.1:%d>\r\n", dead.port()))
	if ack := dead.hear("ACK"); !strings.HasPrefix(ack, "ACK sip:slow@") || !strings.Contains(ack, "CSeq: 1 ACK") || !strings.Contains(ack, ";tag=p") {
		t.Error(ack)
	}
	bye := dead.hear("BYE")
	if !strings.Contains(bye, "CSeq: 2 BYE") {
		t.Error(bye)
	}
	dead.says(bye, 200, "")
	alive.says(second, 200, fmt.Sprintf("Contact: <sip:x@127.0.0.1:%d>\r\n", alive.port()))
	if a := event(r, func(p codecore.SIPResponse) bool { return p.Msg.Method == "INVITE" && p.Msg.Status == 200 }); a.Branch != branchOf(second) {
		t.Error("the call is told of the attempt that was left")
	}
	if n := r.edge.stats.Failovers.Load(); n != 1 {
		t.Error(n)
	}
}

func TestA503NamesTheAddress(t *testing.T) {
	full, alive := newProxy(t), newProxy(t)
	r := patientRig(t, guard, nil, full.port(), alive.port())
	r.send(r.request("INVITE", "1", ""))
	full.says(full.hear("INVITE"), 503, "")
	full.hear("ACK")
	second := alive.hear("INVITE")
	alive.says(second, 503, "")
	last := event(r, func(p codecore.SIPResponse) bool { return p.Branch == branchOf(second) })
	if last.Failed != "" {
		t.Error("there is nobody left to try, and the call is told to")
	}
	// The next call begins with what did not fail last.
	alive.hear("ACK")
}

func TestAClosedPortIsKnownAtOnce(t *testing.T) {
	const nobody = 1 // a port that no test can take
	alive := newProxy(t)
	r := patientRig(t, guard, nil, nobody, alive.port())
	r.send(r.request("INVITE", "1", ""))
	if n := event[codecore.SIPTimeout](r, nil); n.Code != 503 || n.Failed != "udp/127.0.0.1:1" { // silence would be a 408, and later
		t.Errorf("%+v", n)
	}
	alive.hear("INVITE")
	if r.edge.stats.Reasons()["port-closed"] == 0 {
		t.Error("not counted")
	}
}

// A datagram that quotes no branch of ours changes nothing, whoever sends it.
func TestAForgedUnreachableIsNotBelieved(t *testing.T) {
	dead, alive := newProxy(t), newProxy(t)
	r := patientRig(t, guard, nil, dead.port(), alive.port())
	r.send(r.request("INVITE", "1", ""))
	first := dead.hear("INVITE")
	to := dead.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	forged := strings.Replace(first, branchOf(first), branchOf(first)[:len(cookie)+idLen]+"000000000000.1", 1)
	for _, head := range []string{forged, "", "INVITE", ";branch=", first[:20]} {
		r.edge.undelivered([]byte(head), to, time.Now())
	}
	r.edge.undelivered([]byte(first), alive.conn.LocalAddr().(*net.UDPAddr).AddrPort(), time.Now()) // another address
	if n := r.edge.stats.Reasons()["port-closed"]; n != 0 {
		t.Error(n)
	}
	r.edge.undelivered([]byte(first), to, time.Now())
	event[codecore.SIPTimeout](r, nil)
}

// An edge that ends, or leaves its sockets to an heir, may have been told of an error
// just then.
func TestErrorsOfASocketThatIsClosedEnd(t *testing.T) {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	e := &Edge{}
	e.ctx, e.stop = context.WithCancel(context.Background())
	u := &udpLink{conn: conn, raw: raw, errs: make(chan struct{}, 1)}
	u.troubled()
	e.wg.Add(1)
	ended := make(chan struct{})
	go func() { e.readErrors(u); close(ended) }()
	select {
	case u.errs <- struct{}{}: // it has taken the first
	case <-time.After(guard):
		t.Fatal("the error queue is not read")
	}
	e.stop()
	select {
	case <-ended:
	case <-time.After(guard):
		t.Fatal("its reader goes on for ever")
	}
}

func TestAnotherTargetThatWaitsMakesSilenceShort(t *testing.T) {
	dead := newProxy(t)
	r := trunkRig(t, func(q *codecore.SendRequest) { q.Hurry = true }, dead.port())
	r.send(r.request("INVITE", "1", ""))
	if n := event[codecore.SIPTimeout](r, nil); n.Code != 408 || n.Failed != "" {
		t.Errorf("%+v", n)
	}
}

func TestWithoutAnAlternativeSilenceIsWaitedFor(t *testing.T) {
	slow := newProxy(t)
	r := trunkRig(t, nil, slow.port())
	r.send(r.request("INVITE", "1", ""))
	first := slow.hear("INVITE")
	for deadline := time.Now().Add(400 * time.Millisecond); time.Now().Before(deadline); {
		if again := slow.hear("INVITE"); branchOf(again) != branchOf(first) {
			t.Fatal("another attempt")
		}
	}
	slow.says(first, 486, "")
	if p := event[codecore.SIPResponse](r, nil); p.Msg.Status != 486 {
		t.Error(p)
	}
}

// The same action goes to the same address with the same branch, whoever repeats it.
func TestASuccessorGoesWhereTheEdgeWent(t *testing.T) {
	dead, alive := newProxy(t), newProxy(t)
	r := trunkRig(t, nil, dead.port(), alive.port())
	r.send(r.request("INVITE", "1", ""))
	dead.hear("INVITE")
	second := alive.hear("INVITE")
	alive.says(second, 180, "")
	ringing := event(r, func(p codecore.SIPResponse) bool { return p.Msg.Status == 180 })
	r.again("b3", r.lim)
	r.repeats(2, ringing.Branch, dead.hop())
	if third := alive.hear("INVITE"); branchOf(third) != branchOf(second) {
		t.Error("another transaction")
	}
}

// An edge that is killed with a failure in hand leaves it to the next one, which has no
// transaction for it before the INVITE is sent anew.
func TestAFailureThatComesAfterACrashGetsItsAck(t *testing.T) {
	callee := newProxy(t)
	r := trunkRig(t, nil, callee.port())
	r.send(r.request("INVITE", "1", ""))
	first := callee.hear("INVITE")
	callee.says(first, 180, "")
	ringing := event(r, func(p codecore.SIPResponse) bool { return p.Msg.Status == 180 })
	r.again("b3", r.lim)
	callee.says(first, 486, "")
	callee.says(first, 180, "")
	if p := event[codecore.SIPResponse](r, nil); p.Msg.Status != 180 {
		t.Fatalf("%d is passed up, and nobody has acknowledged it", p.Msg.Status)
	}
	r.repeats(1, ringing.Branch)
	for again := true; again; { // an INVITE of before the crash may wait here
		msg := callee.hear("INVITE", "ACK")
		if again = strings.HasPrefix(msg, "INVITE"); again {
			callee.says(msg, 486, "")
		}
	}
	if p := event[codecore.SIPResponse](r, nil); p.Msg.Status != 486 {
		t.Error(p)
	}
}

func TestACircuitGoesDownAndComesBack(t *testing.T) {
	now := time.Now()
	c := circuits{by: map[hop]*circuit{}}
	h, other := hop{proto: "udp"}, hop{proto: "tcp"}
	c.watch(map[hop]bool{h: true}, now)
	for i := range breakAfter {
		if down := c.broke(h, "no-sign", false, now); down != (i == breakAfter-1) {
			t.Fatalf("failure %d: down %v", i+1, down)
		}
	}
	if n := c.sort([]hop{h, other}, now); n != 1 {
		t.Error("a dead address is used: ", n)
	}
	later := now.Add(firstBreak)
	if n := c.sort([]hop{h}, later); n != 1 {
		t.Error("no trial after the back-off")
	}
	c.try(h, later)
	if n := c.sort([]hop{h}, later); n != 0 || c.by[h].state != circuitHalf {
		t.Error("a second trial beside the first")
	}
	if !c.broke(h, "no-sign", false, later) || c.by[h].until != later.Add(2*firstBreak) {
		t.Error("the back-off does not grow: ", c.by[h].until)
	}
	c.worked(h, later)
	if n := c.sort([]hop{h}, later); n != 1 || c.by[h].state != circuitUp {
		t.Error("up again after a sign of life")
	}
	c.watch(nil, later.Add(time.Hour))
	if len(c.by) != 0 {
		t.Error("an address of nobody is kept")
	}
	for i := range 2 * maxSuspects {
		h.addr = netipPort(i)
		c.broke(h, "no-sign", true, now)
	}
	if len(c.by) > maxSuspects {
		t.Error(len(c.by))
	}
}
