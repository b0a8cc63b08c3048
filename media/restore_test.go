package media

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"callswitch/codecore"
)

// crash ends a node as kill -9 does: nothing is flushed, its own descriptors go.
func (n *node) crash() {
	n.loop.mu.Lock()
	n.loop.stopped = true
	n.loop.mu.Unlock()
	n.mu.Lock()
	n.sever()
	n.mu.Unlock()
	n.stop()
}

// unheard is how far a sender may be ahead of who listens: a socket keeps more.
const unheard = 100

// talking is a call with a record, to be carried on by another process.
func talking(t *testing.T, cfg *Config) (n *node, ports [2]int, a, b *phone) {
	t.Helper()
	legs := &memLegs{}
	cfg.Legs = legs
	n = start(t, *cfg, nil)
	ports, a, b = n.pairOfPhones("c1")
	n.await("a record in step", func() bool { r, _ := legs.count(); return r == 1 && n.inStep() })
	return n, ports, a, b
}

func TestCrashWithKeptSocketsLosesNothing(t *testing.T) {
	keep := &memKeeper{}
	t.Cleanup(keep.close)
	cfg := config(&memBus{})
	cfg.Keep = keep
	n, ports, a, b := talking(t, &cfg)
	n.await("kept", func() bool { return keep.count() == n.Stats().Sockets })

	ctx, cancel := context.WithCancel(context.Background())
	sent := make(chan int)
	var heard atomic.Int64
	go func() { // the caller never stops
		i := 2
		for ; ctx.Err() == nil; i++ {
			for ctx.Err() == nil && i > int(heard.Load())+unheard {
				time.Sleep(time.Millisecond)
			}
			a.send(i)
			time.Sleep(5 * time.Millisecond)
		}
		sent <- i
	}()
	for i := 2; i < 20; i++ {
		b.must(i)
		heard.Store(int64(i))
	}
	n.crash()
	time.Sleep(100 * time.Millisecond) // the kernel keeps what comes
	cfg.Boot, cfg.Inherited = "m-2", keep.hand()
	n2 := start(t, cfg, nil)
	for i := 20; i < 100; i++ {
		if g := b.must(i); g.from != ports[1] || g.SSRC != a.ssrc {
			t.Fatalf("packet %d from port %d with SSRC %d", i, g.from, g.SSRC)
		}
		heard.Store(int64(i))
	}
	cancel()
	for i, end := 100, <-sent; i < end; i++ {
		b.must(i)
	}
	b.send(2)
	a.must(2)
	// Strict at once: the latch came with the record.
	evil := newPhone(t, ports[0], 3)
	for i := range 5 {
		evil.send(900 + i)
	}
	b.silent()
	if s := n2.Stats(); s.Control["restored"] != 1 || s.PairsUsed != 2 {
		t.Errorf("stats %+v", s)
	}
	// The owner's repeat is known already; a newer order is taken.
	if d := n2.do("c1", 1, 1, talk("a", ports[0], a.addr(), 1)); d.Gen != (codecore.Generation{Epoch: 1, N: 1}) || d.Boot != "m-2" {
		t.Errorf("repeat: %+v", d)
	}
	n2.do("c1", 1, 2)
	if s := n2.Stats(); s.Calls != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestWholeRestartBindsThePortsAgain(t *testing.T) {
	cfg := config(&memBus{})
	n, ports, a, b := talking(t, &cfg)
	n.crash()
	cfg.Boot = "m-2"
	n2 := start(t, cfg, nil)
	a.send(2)
	b.must(2)
	b.send(2)
	if g := a.must(2); g.from != ports[0] {
		t.Errorf("from port %d, want %d", g.from, ports[0])
	}
	if other := n2.alloc("c2"); other[0] == ports[0] || other[1] == ports[1] {
		t.Errorf("ports %v are the living call's", other)
	}
}

func TestPlannedStopStoresWhatIsNew(t *testing.T) {
	legs := &memLegs{}
	cfg := config(&memBus{})
	cfg.Legs = legs
	n := start(t, cfg, func(m *Media) { m.times.behind = time.Hour })
	_, a, b := n.pairOfPhones("c1")
	n.stop()
	cfg.Boot = "m-2"
	start(t, cfg, nil)
	a.send(2)
	b.must(2)
}

func TestRewrittenStreamStaysContinuousOverACrash(t *testing.T) {
	cfg := config(&memBus{})
	n, ports, a, b := talking(t, &cfg)
	a.ssrc, a.seq = 4242, 9
	a.send(2)
	last := b.must(2)
	a.send(3)
	b.must(3)
	legs := cfg.Legs.(*memLegs)
	n.await("stored", func() bool {
		legs.mu.Lock()
		defer legs.mu.Unlock()
		r, err := decodeRecord(legs.recs["c1"].body)
		return err == nil && r.Legs[1].Out != nil && r.Legs[1].Out.In == 4242
	})
	n.crash()
	cfg.Boot = "m-2"
	n2 := start(t, cfg, nil)
	a.send(4)
	if g := b.must(4); g.SSRC != last.SSRC || g.SequenceNumber != last.SequenceNumber+2 {
		t.Errorf("ssrc %d seq %d after ssrc %d seq %d", g.SSRC, g.SequenceNumber, last.SSRC, last.SequenceNumber+1)
	}
	_ = ports
	_ = n2
}

func TestInheritedWithoutRecordWaitForTheirOwner(t *testing.T) {
	keep := &memKeeper{}
	t.Cleanup(keep.close)
	cfg := config(&memBus{})
	cfg.Keep = keep
	n := start(t, cfg, nil)
	ports, a, b := n.pairOfPhones("c1")
	n.await("kept", func() bool { return keep.count() == n.Stats().Sockets })
	n.crash()
	a.send(2) // into the kernel's queue
	cfg.Boot, cfg.Inherited = "m-2", keep.hand()
	n2 := start(t, cfg, nil)
	for i := range 3 { // nobody else gets its ports meanwhile
		if p := n2.alloc(string(rune('x' + i))); p[0] == ports[0] || p[1] == ports[0] {
			t.Fatal("an inherited port was given out at once")
		}
	}
	n2.do("c1", 1, 1, talk("a", ports[0], a.addr(), 1), talk("b", ports[1], b.addr(), 1))
	b.must(2)
	a.send(3)
	b.must(3)
}

func TestYoungerProcessKeepsItsRecord(t *testing.T) {
	legs := &memLegs{}
	cfg := config(&memBus{})
	cfg.Legs = legs
	n := start(t, cfg, nil)
	ports, a, b := n.pairOfPhones("c1")
	n.await("a record in step", func() bool { r, _ := legs.count(); return r == 1 && n.Stats().Unsaved == 0 })
	younger := []byte(`{"v":1,"call":"c1","boot":"m-9"}`)
	legs.mu.Lock()
	legs.rev++
	legs.recs["c1"] = memRec{younger, legs.rev}
	legs.mu.Unlock()
	n.do("c1", 1, 2, talk("a", ports[0], a.addr(), 1), talk("b", ports[1], b.addr(), 1))
	n.await("given up", func() bool { return n.Stats().Unsaved == 0 })
	if body, _, err := legs.Get(context.Background(), "n1", "c1"); err != nil || string(body) != string(younger) {
		t.Errorf("record %s, %v", body, err)
	}
}

func TestAWriteInDoubtIsReadBeforeTheNext(t *testing.T) {
	legs := &memLegs{recs: map[codecore.CallID]memRec{}}
	cfg := config(&memBus{})
	cfg.Legs = legs
	n := start(t, cfg, nil)
	// Its acknowledgement was lost: the store has what this process thinks it has not.
	legs.mu.Lock()
	legs.rev = 7
	legs.recs["c1"] = memRec{[]byte(`{"v":1,"call":"c1","boot":"m-1"}`), 7}
	legs.mu.Unlock()
	n.pairOfPhones("c1")
	n.await("written over", func() bool {
		body, _, _ := legs.Get(context.Background(), "n1", "c1")
		r, err := decodeRecord(body)
		return err == nil && len(r.Legs) == 2
	})
}

func TestRestoreWaitsForAPortThatIsTaken(t *testing.T) {
	cfg := config(&memBus{})
	n, ports, a, b := talking(t, &cfg)
	n.crash()
	squatter, err := openUDP(loopback, ports[1])
	if err != nil {
		t.Fatal(err)
	}
	cfg.Boot = "m-2"
	n2 := start(t, cfg, nil)
	n2.await("a failure", func() bool { return n2.Stats().Control["restore_failed"] > 0 })
	squatter.Close()
	n2.await("restored", func() bool { return n2.Stats().Control["restored"] == 1 })
	a.send(2)
	b.must(2)
}
