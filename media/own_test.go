package media

import (
	"fmt"
	"testing"
	"time"

	"github.com/pion/rtcp"

	"callswitch/codecore"
)

func at(port int) string { return fmt.Sprint("127.0.0.1:", port) }

// slip has a leg's own socket send something to another port of ours: what somebody
// does who spoofs the address, or a ring that closes while a packet is in it.
func (n *node) slip(call codecore.CallID, leg int, control bool, b []byte, port int) {
	n.loop.mu.Lock()
	defer n.loop.mu.Unlock()
	to, _ := parseSockaddr(at(port), false)
	g := n.calls[call].legs[leg]
	from := g.rtp
	if control {
		from = g.rtcp
	}
	if errno := sendTo(from.fd, b, &to); errno != 0 {
		n.t.Fatal(errno)
	}
}

// Calls whose parties say that they are where we are: what gets into the ring does
// not go round.
func TestAPacketThatComesRoundIsDropped(t *testing.T) {
	type last struct { // leg before c1's first, the way round
		call codecore.CallID
		leg  int
	}
	echo := func(id codecore.LegID, port int, remote string) codecore.MediaLeg {
		w := talk(id, port, remote, 1)
		w.Echo = true
		return w
	}
	fax := func(id codecore.LegID, port int, remote string) codecore.MediaLeg {
		w := talk(id, port, remote, 1)
		w.Opaque, w.Payloads, w.DTMF = true, nil, 0
		return w
	}
	for name, do := range map[string]func(n *node, p, q [2]int) last{
		"a call with itself": func(n *node, p, _ [2]int) last {
			n.do("c1", 1, 1, talk("a", p[0], at(p[1]), 1), talk("b", p[1], at(p[0]), 1))
			return last{"c1", 1}
		},
		"a leg with itself": func(n *node, p, _ [2]int) last {
			n.do("c1", 1, 1, echo("a", p[0], at(p[0])))
			return last{"c1", 0}
		},
		"two calls": func(n *node, p, q [2]int) last {
			n.do("c1", 1, 1, talk("a", p[0], at(q[0]), 1), talk("b", p[1], at(q[1]), 1))
			n.do("c2", 1, 1, talk("a", q[0], at(p[0]), 1), talk("b", q[1], at(p[1]), 1))
			return last{"c2", 0}
		},
		"two echoes": func(n *node, p, q [2]int) last {
			n.do("c1", 1, 1, echo("a", p[0], at(q[0])))
			n.do("c2", 1, 1, echo("a", q[0], at(p[0])))
			return last{"c2", 0}
		},
		"a fax with itself": func(n *node, p, _ [2]int) last {
			n.do("c1", 1, 1, fax("a", p[0], at(p[1])), fax("b", p[1], at(p[0])))
			return last{"c1", 1}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, config(&memBus{}), nil)
			p, q := n.alloc("c1"), n.alloc("c2")
			from := do(n, p, q)
			pkt := make([]byte, 172)
			pkt[0] = 0x80
			n.slip(from.call, from.leg, false, pkt, p[0])
			n.await("a drop", func() bool { return n.Stats().Dropped["loop"] > 0 })
			if s := n.Stats(); s.PacketsOut > 4 {
				t.Errorf("%d packets went round: %v", s.PacketsOut, s.Dropped)
			}
		})
	}
}

func TestAReportThatComesRoundIsDropped(t *testing.T) {
	n := start(t, config(&memBus{}), nil)
	p := n.alloc("c1")
	round := func(id codecore.LegID, port, other int) codecore.MediaLeg {
		w := talk(id, port, at(9), 1)
		w.RTCP = at(other + 1)
		return w
	}
	n.do("c1", 1, 1, round("a", p[0], p[1]), round("b", p[1], p[0]))
	rr, _ := (&rtcp.ReceiverReport{SSRC: 1}).Marshal()
	n.slip("c1", 1, true, rr, p[0]+1)
	n.await("a drop", func() bool { return n.Stats().Dropped["loop"] > 0 })
	if s := n.Stats(); s.RTCPOut > 4 {
		t.Errorf("%d reports went round: %v", s.RTCPOut, s.Dropped)
	}
}

// Two calls of ours in a row are no ring: a proxy has led the one back to us.
func TestAChainOfCallsIsHeardThrough(t *testing.T) {
	n := start(t, config(&memBus{}), nil)
	p, q := n.alloc("c1"), n.alloc("c2")
	a, b := newPhone(t, p[0], 1000), newPhone(t, q[1], 2000)
	n.do("c1", 1, 1, talk("a", p[0], a.addr(), 1), talk("b", p[1], at(q[0]), 1))
	n.do("c2", 1, 1, talk("a", q[0], at(p[1]), 1), talk("b", q[1], b.addr(), 1))
	for i := range 5 {
		a.send(i)
		b.must(i)
		b.send(i)
		a.must(i)
	}
}

// A far end does not notice that its call has ended, and sends on while the port
// rests, is given to another call and looks for that one's party: it is not learned.
func TestWhoWasThereBeforeIsNotLearned(t *testing.T) {
	cfg := config(&memBus{})
	cfg.PortMax = cfg.PortMin + 3
	n := start(t, cfg, func(m *Media) { m.times.window = time.Hour })
	ports, a, _ := n.pairOfPhones("c1")
	n.do("c1", 1, 2)
	for i := 2; n.Stats().PairsFree < 2; i++ {
		a.send(i)
		time.Sleep(5 * time.Millisecond)
	}
	n.await("heard by nobody", func() bool { a.send(100); return n.Stats().Dropped["idle-port"] > 3 })
	n.loop.mu.Lock()
	for _, p := range n.loop.own.ports {
		if p != nil && p.before != nil {
			p.before[0].at += int64(time.Hour) // a moment ago, however long that was
		}
	}
	n.loop.mu.Unlock()
	again := n.alloc("c2")
	if again != ports {
		t.Fatalf("ports %v, not %v", again, ports)
	}
	c, d := newPhone(t, ports[0], 3000), newPhone(t, ports[1], 4000)
	n.do("c2", 1, 1, talk("a", ports[0], "127.0.0.1:9", 1), talk("b", ports[1], d.addr(), 1)) // behind a NAT
	for i := range 5 {
		a.send(i)
	}
	d.send(1)                                                                              // from where its SDP says
	n.await("dropped", func() bool { return n.quality("c2", "a").Dropped["before"] >= 5 }) // and the last of those above, when it is read late
	d.silent()
	for i := range wanted {
		c.send(50 + i)
	}
	for i := range wanted {
		d.must(50 + i)
	}
	d.send(2)
	c.must(2)
	a.silent()
	// The next call of the same phone, which goes on where it was: its SDP says so.
	n.do("c2", 1, 2)
	n.await("rested", func() bool { a.send(200); return n.Stats().PairsFree == 2 })
	if again := n.alloc("c3"); again != ports {
		t.Fatalf("ports %v, not %v", again, ports)
	}
	e := newPhone(t, ports[1], 5000)
	n.do("c3", 1, 1, talk("a", ports[0], a.addr(), 1), talk("b", ports[1], e.addr(), 1))
	a.send(7)
	for g, ok := e.recv(20 * time.Second); ; g, ok = e.recv(20 * time.Second) { // what was parked before
		if !ok {
			t.Fatal("who is where the SDP says is not heard")
		}
		if g.n == 7 {
			break
		}
	}
}
