package media

import (
	"testing"

	"callswitch/codecore"
	"callswitch/sessions"
)

// both is the order of a talking call.
func both(call string, epoch, num uint64, ports [2]int, a, b *phone) sessions.DoMedia {
	return sessions.DoMedia{
		Call: codecore.CallID(call), Gen: codecore.Generation{Epoch: epoch, N: num},
		Media: codecore.Media{Node: "n1", Legs: []codecore.MediaLeg{talk("a", ports[0], a.addr(), 1), talk("b", ports[1], b.addr(), 1)}},
	}
}

// Killed before anything of it was stored, its sockets with it: the owner's
// word is enough. Several calls are in one message, one of which is held already
// and one of which has ended.
func TestCallsAreBuiltFromTheOwnersWordAlone(t *testing.T) {
	cfg := config(&memBus{})
	legs := &memLegs{}
	cfg.Legs = legs
	n := start(t, cfg, nil)
	ports, a, b := n.pairOfPhones("c1")
	ports2, a2, b2 := n.pairOfPhones("c2")
	n.await("records in step", func() bool { r, _ := legs.count(); return r == 2 && n.Stats().Unsaved == 0 })
	n.crash()
	_ = legs.Delete(t.Context(), "n1", "c1") // as if it had never been written

	cfg.Boot = "m-2"
	n2 := start(t, cfg, nil)
	if other := n2.alloc("new"); other[0] == ports[0] || other[1] == ports[0] {
		t.Errorf("ports %v are the living call's %v", other, ports)
	}
	n2.do("c3", 1, 5) // ended: its owner has said so
	first := both("c1", 1, 1, ports, a, b)
	first.More = []sessions.DoMedia{both("c2", 2, 7, ports2, a2, b2), both("c3", 1, 4, ports, a, b)}
	done := ask[sessions.MediaDone](n2, sessions.SubjectDo("media.n1"), first)
	if len(done.More) != 2 || done.Reason != "" || done.Boot != "m-2" || done.Gen.N != 1 ||
		done.More[0].Gen != (codecore.Generation{Epoch: 2, N: 7}) || done.More[1].Gen.N != 5 {
		t.Fatalf("done %+v", done)
	}
	a.send(2)
	if g := b.must(2); g.from != ports[1] {
		t.Errorf("from port %d, want %d", g.from, ports[1])
	}
	b.send(2)
	a.must(2)
	a2.send(2)
	b2.must(2)
	s := n2.Stats()
	if s.Calls != 3 || s.Control["restored"] != 1 || s.Control["orders"] != 2 || s.Control["orders_repeated"] != 1 {
		t.Errorf("stats %+v", s) // c1, c2 and the allocation
	}
	n2.await("stored", func() bool { return n2.Stats().Unsaved == 0 })
	for _, call := range []codecore.CallID{"c1", "c2"} {
		if _, _, err := legs.Get(t.Context(), "n1", call); err != nil {
			t.Errorf("%s: %v", call, err)
		}
	}
}

// A call that rings when the node restarts keeps its ports, and gets its sound
// when it is answered.
func TestPortsAloneAreKeptForACallThatRings(t *testing.T) {
	keep := &memKeeper{}
	t.Cleanup(keep.close)
	cfg := config(&memBus{})
	cfg.Keep = keep
	n := start(t, cfg, nil)
	ports := n.alloc("c1")
	n.await("kept", func() bool { return keep.count() == n.Stats().Sockets })
	n.crash()
	cfg.Boot, cfg.Inherited = "m-2", keep.hand()
	n2 := start(t, cfg, nil)
	n2.do("c1", 0, 0, codecore.MediaLeg{Leg: "a", Port: ports[0]}, codecore.MediaLeg{Leg: "b", Port: ports[1]})
	n2.mu.Lock()
	where := [2]where{n2.pool.pairs[(ports[0]-cfg.PortMin)/2].where, n2.pool.pairs[(ports[1]-cfg.PortMin)/2].where}
	n2.mu.Unlock()
	if where[0] != isUsed || where[1] != isUsed {
		t.Fatalf("pairs are %v", where)
	}
	a, b := newPhone(t, ports[0], 1000), newPhone(t, ports[1], 2000)
	b.send(1) // overtakes the order of its answer
	n2.do("c1", 1, 3, talk("a", ports[0], a.addr(), 1), talk("b", ports[1], b.addr(), 1))
	a.must(1)
	a.send(1)
	b.must(1)
}

// An order that came before the records were read leaves room for what they know.
func TestRecordReadAfterTheOwnersWord(t *testing.T) {
	cfg := config(&memBus{})
	n, ports, a, b := talking(t, &cfg)
	a.ssrc, a.seq = 4242, 9 // from here on the stream is rewritten
	a.send(2)
	last := b.must(2)
	legs := cfg.Legs.(*memLegs)
	n.await("stored", func() bool {
		body, _, _ := legs.Get(t.Context(), "n1", "c1")
		r, err := decodeRecord(body)
		return err == nil && r.Legs[1].Out != nil && r.Legs[1].Out.In == 4242
	})
	n.crash()
	body, rev, _ := legs.Get(t.Context(), "n1", "c1")
	cfg.Boot, cfg.Legs = "m-2", nil
	n2 := start(t, cfg, nil)
	ask[sessions.MediaDone](n2, sessions.SubjectDo("media.n1"), both("c1", 1, 1, ports, a, b))
	if ok, err := n2.restore("c1", body, rev); ok || err != nil {
		t.Fatalf("restored %t, %v", ok, err)
	}
	a.send(3)
	if g := b.must(3); g.SSRC != last.SSRC || g.SequenceNumber != last.SequenceNumber+1 {
		t.Errorf("ssrc %d seq %d after ssrc %d seq %d", g.SSRC, g.SequenceNumber, last.SSRC, last.SequenceNumber)
	}
}
