package media

import (
	"context"
	"testing"
	"time"

	"github.com/pion/rtcp"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

func TestRelaysBothWaysUnchanged(t *testing.T) {
	n := start(t, config(&memBus{}), nil)
	ports, a, b := n.pairOfPhones("c1")
	for i := 2; i < 200; i++ {
		seq, ts := a.seq, a.ts
		a.send(i)
		g := b.must(i)
		if g.SequenceNumber != seq || g.Timestamp != ts || g.SSRC != a.ssrc || g.from != ports[1] {
			t.Fatalf("packet %d: %v from port %d, want seq %d ts %d ssrc %d from %d", i, g.Header, g.from, seq, ts, a.ssrc, ports[1])
		}
		b.send(i)
		if g := a.must(i); g.from != ports[0] {
			t.Fatalf("from port %d, want %d", g.from, ports[0])
		}
	}
	if q := n.quality("c1", "a"); q.PacketsIn != 199 || q.PacketsOut != 199 || q.Lost != 0 {
		t.Errorf("leg a: %+v", q)
	}
}

func TestLossIsCountedAndStaysVisible(t *testing.T) {
	n := start(t, config(&memBus{}), nil)
	_, a, b := n.pairOfPhones("c1")
	a.seq += 5
	before := a.seq
	a.send(2)
	if g := b.must(2); g.SequenceNumber != before {
		t.Errorf("seq %d, want %d: a receiver must see what was lost", g.SequenceNumber, before)
	}
	if q := n.quality("c1", "a"); q.Lost != 5 {
		t.Errorf("lost %d, want 5", q.Lost)
	}
}

func TestNothingIsSentBeforeTheAddressIsKnown(t *testing.T) {
	n := start(t, config(&memBus{}), nil)
	ports := n.alloc("c1")
	a, b := newPhone(t, ports[0], 1), newPhone(t, ports[1], 2)
	bLeg := talk("b", ports[1], "", 0)
	n.do("c1", 1, 1, talk("a", ports[0], a.addr(), 1), bLeg)
	for i := range 5 {
		b.send(i) // it knows our port from the offer
		a.send(100 + i)
	}
	a.silent()
	b.silent()
	// The answer is told within the moment: what waited goes on in order.
	b.send(5)
	n.do("c1", 1, 2, talk("a", ports[0], a.addr(), 2), talk("b", ports[1], b.addr(), 1))
	for {
		g, ok := a.recv(20 * time.Second)
		if !ok {
			t.Fatal("the packet sent just before the answer was lost")
		}
		if g.n == 5 {
			break
		}
	}
}

func TestThirdPartyReachesNobody(t *testing.T) {
	n := start(t, config(&memBus{}), nil)
	ports, a, b := n.pairOfPhones("c1")
	evil := newPhone(t, ports[0], 666)
	for i := range 20 {
		evil.send(9000 + i)
	}
	evil.to = ports[1]
	for i := range 20 {
		evil.send(9000 + i)
	}
	a.send(2)
	b.must(2)
	b.send(2)
	a.must(2)
	a.silent()
	b.silent()
	evil.silent()
	if q := n.quality("c1", "a"); q.Dropped["stranger"] != 20 || q.Remote != a.addr() {
		t.Errorf("leg a: %+v", q)
	}
}

func TestLearnsOnceThenStrict(t *testing.T) {
	n := start(t, config(&memBus{}), func(m *Media) { m.times.window = time.Hour })
	ports := n.alloc("c1")
	a, b := newPhone(t, ports[0], 1), newPhone(t, ports[1], 2)
	// The SDP of a names a private address that never sends.
	n.do("c1", 1, 1, talk("a", ports[0], "127.0.0.9:4000", 1), talk("b", ports[1], b.addr(), 1))
	for i := range 4 {
		a.send(i)
	}
	for i := range 4 { // the probation loses nothing
		b.must(i)
	}
	b.send(1)
	a.must(1)
	if q := n.quality("c1", "a"); !q.Learned || q.Remote != a.addr() {
		t.Errorf("leg a: %+v", q)
	}
	late := newPhone(t, ports[0], 3)
	for i := range 6 {
		late.send(500 + i)
	}
	b.silent()
	late.silent()
}

func TestSDPAddressWinsWithinTheWindow(t *testing.T) {
	n := start(t, config(&memBus{}), func(m *Media) { m.times.window = time.Hour })
	ports := n.alloc("c1")
	a, b, evil := newPhone(t, ports[0], 1), newPhone(t, ports[1], 2), newPhone(t, ports[0], 3)
	n.do("c1", 1, 1, talk("a", ports[0], a.addr(), 1), talk("b", ports[1], b.addr(), 1))
	for i := range 3 {
		evil.send(900 + i)
	}
	n.await("learned", func() bool { return n.quality("c1", "a").Remote == evil.addr() })
	a.send(1)
	n.await("the SDP's", func() bool { return n.quality("c1", "a").Remote == a.addr() })
	evil.send(910)
	a.send(2)
	for {
		g, ok := b.recv(20 * time.Second)
		if !ok || g.n == 910 {
			t.Fatalf("b heard %d last", g.n)
		}
		if g.n == 2 {
			break
		}
	}
}

func TestWindowCloses(t *testing.T) {
	n := start(t, config(&memBus{}), func(m *Media) { m.times.window = 30 * time.Millisecond })
	ports := n.alloc("c1")
	a, b := newPhone(t, ports[0], 1), newPhone(t, ports[1], 2)
	n.do("c1", 1, 1, talk("a", ports[0], "127.0.0.9:4000", 1), talk("b", ports[1], b.addr(), 1))
	time.Sleep(50 * time.Millisecond) // the window is time itself
	for i := range 6 {
		a.send(i)
	}
	n.await("all six dropped", func() bool { return n.quality("c1", "a").Dropped["stranger"] == 6 })
	b.silent()
}

func TestHold(t *testing.T) {
	n := start(t, config(&memBus{}), nil)
	ports, a, b := n.pairOfPhones("c1")
	la, lb := talk("a", ports[0], a.addr(), 2), talk("b", ports[1], b.addr(), 2)
	la.Recv, lb.Send = false, false // a is not heard: b holds it
	n.do("c1", 1, 2, la, lb)
	a.send(2)
	b.silent()
	b.send(2) // music on hold
	a.must(2)
	n.do("c1", 1, 3, talk("a", ports[0], a.addr(), 3), talk("b", ports[1], b.addr(), 3))
	a.send(3)
	b.must(3)
}

func TestPayloads(t *testing.T) {
	n := start(t, config(&memBus{}), nil)
	ports, a, b := n.pairOfPhones("c1")
	lb := talk("b", ports[1], b.addr(), 1)
	lb.Map = map[byte]byte{101: 96}
	lb.DTMF = 96
	n.do("c1", 1, 2, talk("a", ports[0], a.addr(), 1), lb)
	a.pt = 101
	a.send(2)
	if g := b.must(2); g.PayloadType != 96 {
		t.Errorf("telephone-event has type %d for b, want 96", g.PayloadType)
	}
	a.pt = 18
	a.send(3)
	b.silent()
	a.pt = 0
	a.send(4)
	if g := b.must(4); g.PayloadType != 0 {
		t.Errorf("type %d, want 0", g.PayloadType)
	}
}

func TestReinviteKeepsTheStreamContinuous(t *testing.T) {
	n := start(t, config(&memBus{}), nil)
	ports, a, b := n.pairOfPhones("c1")
	for i := 2; i < 10; i++ {
		a.send(i)
		b.must(i)
	}
	from := time.Now()
	a.send(10)
	last := b.must(10)
	// The caller goes on elsewhere, with another SSRC.
	a2 := newPhone(t, ports[0], 77777)
	n.do("c1", 1, 2, talk("a", ports[0], a2.addr(), 2), talk("b", ports[1], b.addr(), 1))
	for i := 11; i < 20; i++ {
		a2.send(i)
		g := b.must(i)
		if g.SSRC != last.SSRC || g.SequenceNumber != last.SequenceNumber+1 {
			t.Fatalf("packet %d: ssrc %d seq %d after ssrc %d seq %d", i, g.SSRC, g.SequenceNumber, last.SSRC, last.SequenceNumber)
		}
		if step := g.Timestamp - last.Timestamp; step == 0 || step > 160+8*uint32(time.Since(from).Milliseconds()+1) {
			t.Fatalf("packet %d: timestamp steps by %d", i, step)
		}
		last = g
	}
	b.send(5)
	a2.must(5)
	a.silent()
	a.send(99) // the old source is a stranger now
	b.silent()

	// RTCP says the same numbers.
	rb := rtcpSocket(t)
	n.do("c1", 1, 3, talk("a", ports[0], a2.addr(), 2), withRTCP(talk("b", ports[1], b.addr(), 2), rb))
	sr, _ := (&rtcp.SenderReport{SSRC: a2.ssrc, RTPTime: a2.ts, PacketCount: 3}).Marshal()
	ra := rtcpSocket(t)
	n.do("c1", 1, 4, withRTCP(talk("a", ports[0], a2.addr(), 3), ra), withRTCP(talk("b", ports[1], b.addr(), 3), rb))
	ra.write(sr, ports[0]+1)
	got := rb.rtcp()
	if s, ok := got[0].(*rtcp.SenderReport); !ok || s.SSRC != 1000 || s.RTPTime-last.Timestamp > 16000 {
		t.Errorf("sender report %v, want of SSRC 1000 near %d", got[0], last.Timestamp)
	}
	rr, _ := (&rtcp.ReceiverReport{SSRC: b.ssrc, Reports: []rtcp.ReceptionReport{{SSRC: 1000, TotalLost: 7, Jitter: 80, LastSequenceNumber: uint32(last.SequenceNumber)}}}).Marshal()
	rb.write(rr, ports[1]+1)
	r := ra.rtcp()[0].(*rtcp.ReceiverReport).Reports[0]
	if r.SSRC != a2.ssrc || uint16(r.LastSequenceNumber) != a2.seq-1 {
		t.Errorf("report block %+v, want of %d up to %d", r, a2.ssrc, a2.seq-1)
	}
	if q := n.quality("c1", "b"); q.FarLost != 7 || q.FarJitter != 10 {
		t.Errorf("leg b: %+v", q)
	}
}

func rtcpSocket(t *testing.T) *phone { return newPhone(t, 0, 0) }

func withRTCP(l codecore.MediaLeg, p *phone) codecore.MediaLeg {
	l.RTCP = p.addr()
	return l
}

func (p *phone) rtcp() []rtcp.Packet {
	p.t.Helper()
	var buf [2048]byte
	p.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, err := p.conn.Read(buf[:])
	if err != nil {
		p.t.Fatal(err)
	}
	ps, err := rtcp.Unmarshal(buf[:n])
	if err != nil {
		p.t.Fatal(err)
	}
	return ps
}

func TestMux(t *testing.T) {
	n := start(t, config(&memBus{}), nil)
	ports := n.alloc("c1")
	a, b := newPhone(t, ports[0], 1), newPhone(t, ports[1], 2)
	la := talk("a", ports[0], a.addr(), 1)
	la.Mux = true
	rb := rtcpSocket(t)
	n.do("c1", 1, 1, la, withRTCP(talk("b", ports[1], b.addr(), 1), rb))
	a.send(1)
	b.must(1)
	rr, _ := (&rtcp.ReceiverReport{SSRC: a.ssrc}).Marshal()
	a.write(rr, ports[0]) // on the RTP port
	if got := rb.rtcp(); got[0].DestinationSSRC() != nil && len(got) != 1 {
		t.Errorf("got %v", got)
	}
	rb.write(rr, ports[1]+1)
	a.rtcp()               // and back on the RTP port
	rb.write(rr, ports[1]) // b is not muxed
	n.await("dropped", func() bool { return n.quality("c1", "b").Dropped["foreign"] == 1 })
}

func TestSilenceIsDeliveredUntilAnswered(t *testing.T) {
	bus := &memBus{}
	n := start(t, config(bus), nil)
	events := make(chan sessions.Delivery, 16)
	tries, taken := 0, uint64(0)
	bus.Subscribe(sessions.SubjectCall("c1"), "", func(m sessions.Msg) {
		var d sessions.Delivery
		if err := wire.Open(m.Data, &d); err != nil {
			t.Error(err)
		}
		if tries++; tries == 1 {
			reply, _ := wire.Seal(sessions.Answer{Status: sessions.StatusLater})
			bus.Publish(m.Reply, reply)
			return
		}
		if d.Num > taken { // a repeat, whose answer came too late, is answered only
			taken = d.Num
			events <- d
		}
		reply, _ := wire.Seal(sessions.Answer{Status: sessions.StatusOK, Num: d.Num})
		bus.Publish(m.Reply, reply)
	})
	ports, a, b := n.pairOfPhones("c1")
	held := talk("b", ports[1], b.addr(), 1)
	held.Recv = false
	n.do("c1", 1, 2, talk("a", ports[0], a.addr(), 1), held) // b need not be heard
	n.mu.Lock()
	n.cfg.Timeout = 60 * time.Millisecond
	n.mu.Unlock()
	for want := uint64(1); want <= 2; want++ {
		d := <-events
		if e, ok := d.Event.Event().(codecore.MediaSilent); !ok || e.Leg != "a" || d.Num != want || d.From != "media.n1" || d.Boot != "m-1" {
			t.Fatalf("delivery %+v", d)
		}
		if want == 1 {
			select {
			case d := <-events:
				t.Fatalf("reported again without sound between: %+v", d)
			case <-time.After(150 * time.Millisecond):
			}
			a.send(5) // heard, and silent again
		}
	}
}

func TestOrphanIsFreedOnlyByAnswers(t *testing.T) {
	cfg := config(&memBus{})
	type reply struct{ exists, known bool }
	replies := make(chan reply)
	cfg.Lookup = func(ctx context.Context, _ codecore.CallID) (bool, bool) {
		select {
		case r := <-replies:
			return r.exists, r.known
		case <-ctx.Done():
			return false, false
		}
	}
	n := start(t, cfg, func(m *Media) { m.times.recheck, m.times.orphan = 30*time.Millisecond, 40*time.Millisecond })
	n.pairOfPhones("c1")
	for range 5 { // silence of the store is no answer
		replies <- reply{known: false}
	}
	replies <- reply{known: true}
	replies <- reply{exists: true, known: true}
	if s := n.Stats(); s.Calls != 1 {
		t.Fatal("freed on a single answer, or on none")
	}
	for n.Stats().Calls == 1 {
		select {
		case replies <- reply{known: true}:
		case <-time.After(100 * time.Millisecond):
		}
	}
	if s := n.Stats(); s.Control["orphaned"] != 1 {
		t.Errorf("stats %+v", s)
	}
}
