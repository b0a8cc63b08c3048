package edge

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"callswitch/codecore"
	"callswitch/registrar"
	"callswitch/sessions"
)

// freeze freezes the rig's edge.
func (r *rig) freeze() ([]byte, []File, map[string]*os.File) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), guard)
	defer cancel()
	state, files, err := r.edge.Freeze(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	sockets, err := r.edge.Files()
	if err != nil {
		r.t.Fatal(err)
	}
	return state, files, sockets
}

// inherit has the rig's edge replaced by its heir; frozen is called in between.
func (r *rig) inherit(frozen func()) {
	r.t.Helper()
	old, end, own := r.edge, r.stop, r.own
	state, files, sockets := r.freeze()
	if frozen != nil {
		frozen()
	}
	r.own = func(c *Config) {
		if own != nil {
			own(c)
		}
		c.Listen, c.Sockets, c.Handed, c.Connections = old.specs, sockets, state, files
	}
	r.start("of its own, not used", "udp:127.0.0.1:0", r.lim)
	r.own = own
	closeFiles(files, sockets)
	pumps := old.leave()
	r.pumps = append(r.pumps, pumps)
	var over sync.WaitGroup
	over.Go(func() { bury(old, end) }) // hands are still being shaken
	over.Go(func() { carryAll(pumps, nil, func(int) {}) })
	heir := r.stop
	r.stop = func() {
		heir()
		over.Wait() // what is carried ends with the edge that it leads to
	}
	if r.edge.cfg.Boot != old.cfg.Boot {
		r.t.Errorf("another incarnation: %s", r.edge.cfg.Boot)
	}
}

func closeFiles(files []File, sockets map[string]*os.File) {
	for _, f := range files {
		_ = f.File.Close()
	}
	for _, f := range sockets {
		_ = f.Close()
	}
}

// bury ends the goroutines of an edge that is over, as the end of its process does.
func bury(old *Edge, end func()) {
	old.mu.Unlock()
	end()
}

func TestTheHeirAnswersWhatItsPredecessorWasAsked(t *testing.T) {
	r := newRig(t, patient())
	var open bool
	r.says(func(d sessions.Delivery) *sessions.Answer {
		q, is := d.Event.Event().(codecore.SIPRequest)
		switch {
		case is && q.Msg.Method == "INVITE":
			return ok(d, action(1, response(q, 180)), action(2, r.outgoing(q.Token, "INVITE")))
		case is && q.Msg.Method == "INFO" && !open:
			return nil // under way when the edge is replaced
		}
		return ok(d)
	})
	inv := r.request("INVITE", "1", "")
	r.send(inv)
	out := r.hear("INVITE sip:2@")
	q := event[codecore.SIPRequest](r, nil)
	r.send("SIP/2.0 180 Ringing\r\n" + strings.SplitN(strings.Replace(out, "To: <sip:2@x>", "To: <sip:2@x>;tag=far", 1), "\r\n", 2)[1])
	event(r, func(e codecore.SIPResponse) bool { return e.Msg.Status == 180 })
	r.send(r.request("INFO", "2", "TOTAG="+q.Token+".t"))
	var num uint64
	for d := range r.step {
		if d.Event.Request != nil && d.Event.Request.Msg.Method == "INFO" {
			num = d.Num
			break
		}
	}
	r.inherit(func() {
		r.send(inv) // waits in the kernel
		r.mu.Lock()
		open = true
		r.mu.Unlock()
	})
	for d := range r.step {
		if d.Event.Request != nil && d.Event.Request.Msg.Method == "INVITE" {
			t.Fatal("a repeated INVITE is a new one")
		}
		if d.Event.Request != nil && d.Event.Request.Msg.Method == "INFO" {
			if d.Num != num || d.Boot != "b1" {
				t.Fatalf("number %d of %s, was %d of b1", d.Num, d.Boot, num)
			}
			if d.Accepted == 2 && open {
				break
			}
		}
	}
	if again := r.hear("SIP/2.0 180"); !strings.Contains(again, q.Token) {
		t.Fatal(again)
	}
	// The callee answers: the heir knows the transaction, and the call is told once.
	answer := "SIP/2.0 200 OK\r\n" + strings.SplitN(strings.Replace(out, "To: <sip:2@x>", "To: <sip:2@x>;tag=far", 1), "\r\n", 2)[1]
	r.says(func(d sessions.Delivery) *sessions.Answer {
		if e, is := d.Event.Event().(codecore.SIPResponse); is && e.Msg.Status == 200 {
			return ok(d, action(3, response(q, 200)))
		}
		return ok(d)
	})
	r.send(answer)
	r.hear("200 Fine")
	event(r, func(e codecore.SIPResponse) bool { return e.Msg.Status == 200 })
	r.inherit(nil)
	if n := r.edge.stats.Open.Load(); n != 3 {
		t.Errorf("%d transactions", n)
	}
	r.hear("200 Fine") // repeated until its ACK
	ack := strings.Replace(r.request("ACK", "3", "TOTAG="+q.Token+".t"), "CSeq: 7 INVITE", "CSeq: 7 ACK", 1)
	r.send(ack)
	if a := event(r, func(q codecore.SIPRequest) bool { return q.Msg.Method == "ACK" }); a.Tx != q.Tx {
		t.Fatal("the ACK has not found its INVITE")
	}
}

func TestAnInviteThatHasNoAnswerYetIsRepeatedByTheHeirAndCancelled(t *testing.T) {
	r := newRig(t, patient())
	r.says(func(d sessions.Delivery) *sessions.Answer {
		if q, is := d.Event.Event().(codecore.SIPRequest); is {
			switch q.Msg.Method {
			case "INVITE":
				return ok(d, action(1, r.outgoing(q.Token, "INVITE")))
			case "CANCEL":
				return ok(d, action(2, r.outgoing(q.Token, "CANCEL")))
			}
		}
		return ok(d)
	})
	r.send(r.request("INVITE", "1", ""))
	out := r.hear("INVITE sip:2@")
	r.send(r.request("CANCEL", "1", ""))
	r.hear("200 OK")
	r.inherit(nil)
	if again := r.hear("INVITE sip:2@"); again != out {
		t.Fatalf("not the same transaction:\n%s\n%s", out, again)
	}
	r.send("SIP/2.0 180 Ringing\r\n" + strings.SplitN(strings.Replace(out, "To: <sip:2@x>", "To: <sip:2@x>;tag=far", 1), "\r\n", 2)[1])
	r.hear("CANCEL sip:2@") // which had waited
}

func TestConnectionsGoOnInTheMiddleOfAMessage(t *testing.T) {
	r, pool := withTransports(t, nil)
	own := r.own
	r.own = func(c *Config) { // of the heir: it has minted none of the nonces that it is told of
		own(c)
		c.Auth = registrar.NewAuth(registrar.AuthConfig{Key: key, Realm: "switch", Accounts: c.Accounts, Born: time.Now().Add(time.Hour)})
	}
	at := func(i int) string { return r.edge.Addrs()[i].String() }
	b, err := browse(t, at(atWS), "", nil, "http://localhost:8080", "sip")
	if err != nil {
		t.Fatal(err)
	}
	signUp(b, "WS", "u1")
	sb, err := browse(t, at(atWSS), "", pool, "http://localhost:8080", "sip")
	if err != nil {
		t.Fatal(err)
	}
	signUp(sb, "WSS", "u2")
	c, err := net.Dial("tcp", at(atTCP))
	f := newTCPFar(t, c, err)
	f.send(webRegister("TCP", "t1", "t", "t", ""))
	first, second, _ := strings.Cut(webRegister("TCP", "t2", "t", "t", answerTo(f.hear("401"), "REGISTER", "sesame", 1)), "Max-Forwards")
	f.send(first)
	msg := webRegister("WS", "w9", "u1", "u1", "")
	b.put(ws.NewFrame(ws.OpText, false, []byte(msg[:40])))
	head := ws.MustCompileFrame(ws.MaskFrame(ws.NewFrame(ws.OpContinuation, true, []byte(msg[40:]))))
	if _, err := b.conn.Write(head[:9]); err != nil {
		t.Fatal(err)
	}
	r.halves(2)
	late, err := net.Dial("tcp", at(atTCP)) // the kernel has accepted it
	g := newTCPFar(t, late, err)
	r.inherit(func() { g.send(webRegister("TCP", "g1", "g", "g", "")) })
	g.hear("401")
	f.send("Max-Forwards" + second)
	f.hear("200 OK")
	if _, err := b.conn.Write(head[9:]); err != nil {
		t.Fatal(err)
	}
	b.hear("401")
	sb.send(webRegister("WSS", "w8", "u2", "u2", ""))
	sb.hear("401")
	r.edge.mu.Lock()
	n := len(r.edge.footholds)
	r.edge.mu.Unlock()
	if n != 3 {
		t.Errorf("%d contacts are on connections, and known", n)
	}
}

// A slow reader is in the middle of a message of ours when the edge is replaced:
// it gets every byte, once.
func TestWhatIsBeingWrittenIsWrittenToItsEnd(t *testing.T) {
	r := newRig(t, patient())
	c, err := net.Dial("tcp", r.edge.Addrs()[1].String())
	f := newTCPFar(t, c, err)
	_ = c.(*net.TCPConn).SetReadBuffer(1 << 15)
	f.send(r.viaTCP("OPTIONS", "0", "1")) // who has said nothing sensible is not waited for
	f.hear("200")
	var l *streamLink
	r.await(func() bool {
		for _, l = range r.edge.openConns() {
		}
		return l != nil && l.raw.(*net.TCPConn).SetWriteBuffer(1<<15) == nil
	})
	const n, size = 200, 4000
	for i := range n {
		b := []byte(strings.Repeat(string(rune('a'+i%26)), size))
		for l.put(b) != nil {
			t.Fatal("not taken")
		}
		if i%50 == 49 {
			r.inherit(nil)
			for _, l = range r.edge.openConns() {
			}
			l.mu.Lock()
			if l.waits == 0 && !l.writing {
				t.Error("the test is none: nothing waits to be written")
			}
			l.mu.Unlock()
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(guard))
	for i := range n * size {
		b, err := f.in.ReadByte()
		if err != nil || b != byte('a'+i/size%26) {
			t.Fatalf("byte %d: %q %v", i, b, err)
		}
	}
}

// Somebody cannot be called back: Freeze gives up in time, and the edge goes on.
func TestAFreezeThatSomebodyHoldsUpIsGivenUp(t *testing.T) {
	r, pool := withTransports(t, nil)
	c, err := net.Dial("tcp", r.edge.Addrs()[atTCP].String())
	f := newTCPFar(t, c, err)
	signUp(f, "TCP", "t1")
	phone := r.tlsPhone(pool)
	signUp(phone, "TLS", "s1")
	b, err := browse(t, r.edge.Addrs()[atWS].String(), "", nil, "http://localhost:8080", "sip")
	if err != nil {
		t.Fatal(err)
	}
	signUp(b, "WS", "w1")
	all := func() {
		t.Helper()
		r.send(r.registerLine(rand.Text(), ""))
		r.hear("401")
		f.send(webRegister("TCP", rand.Text(), "t1", "t1", ""))
		f.hear("401")
		phone.send(webRegister("TLS", rand.Text(), "s1", "s1", ""))
		phone.hear("401")
		b.send(webRegister("WS", rand.Text(), "w1", "w1", ""))
		b.hear("401")
		late, err := net.Dial("tcp", r.edge.Addrs()[atTCP].String())
		g := newTCPFar(t, late, err)
		g.send(webRegister("TCP", rand.Text(), "t2", "t2", ""))
		g.hear("401")
	}
	all()
	r.edge.gate.enter()
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		if _, _, err := r.edge.Freeze(ctx); !errors.Is(err, errHanded) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		cancel()
		all()
	}
	r.edge.gate.leave()
	r.inherit(nil)
	all()
}

// A connection in TLS that ends while the edge is frozen is handed over all the same:
// nobody takes its descriptor from whoever is sending it.
func TestAConnectionThatEndsMeanwhileIsHandedOver(t *testing.T) {
	r, pool := withTransports(t, nil)
	phone := r.tlsPhone(pool)
	signUp(phone, "TLS", "s1")
	all := r.edge.openConns()
	if len(all) != 1 {
		t.Fatalf("%d connections", len(all))
	}
	ctx, cancel := context.WithTimeout(context.Background(), guard)
	defer cancel()
	_, files, err := r.edge.Freeze(ctx)
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	all[0].close()
	if n, err := files[0].File.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%d bytes, %v: its heir is to read the end", n, err)
	}
	_ = files[0].File.Close()
	r.edge.Thaw()
}

// Who was called back and comes to know of it when the heir has been given up goes
// on, too, be it in the middle of a message.
func TestWhoIsCalledBackForNobodyGoesOn(t *testing.T) {
	r := newRig(t, patient())
	c, err := net.Dial("tcp", r.edge.Addrs()[1].String())
	f := newTCPFar(t, c, err)
	_ = c.(*net.TCPConn).SetReadBuffer(1 << 15)
	f.send(r.viaTCP("OPTIONS", "0", "1"))
	f.hear("200")
	l := r.edge.openConns()[0]
	_ = l.raw.(*net.TCPConn).SetWriteBuffer(1 << 15)
	const n, size = 200, 4000
	for i := range n {
		if err := l.put([]byte(strings.Repeat(string(rune('a'+i%26)), size))); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		r.await(func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			if !l.under {
				return l.gone
			}
			_ = l.conn.SetDeadline(time.Unix(1, 0))
			return true
		})
	}
	_ = c.SetReadDeadline(time.Now().Add(guard))
	for i := range n * size {
		b, err := f.in.ReadByte()
		if err != nil || b != byte('a'+i/size%26) {
			t.Fatalf("byte %d: %q %v", i, b, err)
		}
	}
	f.send(r.viaTCP("OPTIONS", "1", "1"))
	f.hear("200")
}

func TestARefusedHeirLeavesEverythingAsItWas(t *testing.T) {
	r, pool := withTransports(t, nil)
	b, err := browse(t, r.edge.Addrs()[atWSS].String(), "", pool, "http://localhost:8080", "sip")
	if err != nil {
		t.Fatal(err)
	}
	signUp(b, "WSS", "u1")
	plain, err := browse(t, r.edge.Addrs()[atWS].String(), "", nil, "http://localhost:8080", "sip")
	if err != nil {
		t.Fatal(err)
	}
	signUp(plain, "WS", "p1")
	c, err := net.Dial("tcp", r.edge.Addrs()[atTCP].String())
	f := newTCPFar(t, c, err)
	f.send(webRegister("TCP", "t1", "t", "t", ""))
	f.hear("401")
	for range 3 {
		state, files, sockets := r.freeze()
		cfg := r.edge.cfg
		cfg.Listen, cfg.Sockets, cfg.Connections = r.edge.specs, sockets, files
		cfg.Handed = []byte(strings.Replace(string(state), `"v":1`, `"v":99`, 1))
		if _, err := New(cfg); !errors.Is(err, errHanded) {
			t.Fatalf("a version that nobody reads: %v", err)
		}
		cfg.Handed, cfg.Connections = state, nil
		if _, err := New(cfg); !errors.Is(err, errHanded) {
			t.Fatalf("without descriptors: %v", err)
		}
		cfg.Connections = files
		var h handed
		if err := json.Unmarshal(state, &h); err != nil {
			t.Fatal(err)
		}
		h.Clients = append(h.Clients, handedClient{Key: "x", Call: "unknown"}) // when all connections are in place
		if cfg.Handed, err = json.Marshal(h); err != nil {
			t.Fatal(err)
		}
		if _, err := New(cfg); !errors.Is(err, errHanded) {
			t.Fatalf("a transaction of no call: %v", err)
		}
		cfg.Handed = state
		idle, err := New(cfg) // whose predecessor does not say the last word
		if err != nil {
			t.Fatal(err)
		}
		idle.Close()
		f.send(webRegister("TCP", "t2", "t", "t", ""))
		r.send(r.registerLine("r1", ""))
		closeFiles(files, sockets)
		r.edge.Thaw()
		f.hear("401")
		r.hear("401")
		b.send(webRegister("WSS", "w2", "u1", "u1", ""))
		b.hear("401")
		plain.send(webRegister("WS", "w3", "p1", "p1", ""))
		plain.hear("401")
	}
}
