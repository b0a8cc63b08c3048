package media

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

func TestAllocIsIdempotent(t *testing.T) {
	n := start(t, config(&memBus{}), nil)
	first := n.alloc("c1")
	if again := n.alloc("c1"); again != first {
		t.Errorf("ports %v, then %v", first, again)
	}
	if other := n.alloc("c2"); other[0] == first[0] || other[0] == first[1] || other[0]%2 != 0 {
		t.Errorf("ports %v beside %v", other, first)
	}
}

func TestPortsOut(t *testing.T) {
	cfg := config(&memBus{})
	cfg.PortMax = cfg.PortMin + 7 // four pairs
	n := start(t, cfg, nil)
	n.alloc("c1")
	n.alloc("c2")
	a := ask[codecore.Allocated](n, sessions.SubjectAlloc("media.n1"), sessions.Alloc{Call: "c3", Legs: []codecore.LegID{"a", "b"}})
	if a.Reason != "ports-out" || len(a.Legs) != 0 {
		t.Errorf("answer %+v", a)
	}
	n.do("c1", 1, 1)
	n.await("free ports", func() bool { return n.Stats().PairsFree == 2 })
	n.alloc("c3")
}

func TestMaxSocketsIsKept(t *testing.T) {
	cfg := config(&memBus{})
	cfg.MaxSockets = 10
	n := start(t, cfg, nil)
	n.alloc("c1")
	n.alloc("c2")
	a := ask[codecore.Allocated](n, sessions.SubjectAlloc("media.n1"), sessions.Alloc{Call: "c3", Legs: []codecore.LegID{"a", "b"}})
	if s := n.Stats(); a.Reason != "ports-out" || s.Sockets > 10 || s.PairsUsed != 4 {
		t.Errorf("answer %+v, stats %+v", a, s)
	}
}

func TestPortsRest(t *testing.T) {
	cfg := config(&memBus{})
	cfg.RestPorts = 300 * time.Millisecond
	cfg.PortMax = cfg.PortMin + 15 // eight pairs
	n := start(t, cfg, nil)
	ports, a, _ := n.pairOfPhones("c1")
	ended := time.Now()
	n.do("c1", 1, 2)
	for i := 0; ; i++ {
		a.send(i) // it has not noticed
		call := fmt.Sprint("d", i)
		p := ask[codecore.Allocated](n, sessions.SubjectAlloc("media.n1"), sessions.Alloc{Call: codecore.CallID(call), Legs: []codecore.LegID{"a"}})
		if len(p.Legs) == 1 && p.Legs[0].Port == ports[0] {
			if rest := time.Since(ended); rest < cfg.RestPorts {
				t.Fatalf("port given out again after %s, not %s", rest, cfg.RestPorts)
			}
			break
		}
		n.do(call, 1, 1)
		time.Sleep(10 * time.Millisecond)
		if time.Since(ended) > 20*time.Second {
			t.Fatal("port never came back")
		}
	}
	n.await("what came to a resting port", func() bool { return n.Stats().Dropped["idle-port"] > 0 })
}

func TestGenerations(t *testing.T) {
	n := start(t, config(&memBus{}), nil)
	ports, a, b := n.pairOfPhones("c1")
	mute := talk("a", ports[0], a.addr(), 1)
	mute.Recv = false
	gen := func(e, x uint64) codecore.Generation { return codecore.Generation{Epoch: e, N: x} }
	for _, step := range []struct {
		epoch, n uint64
		want     codecore.Generation
		hears    bool
	}{
		{2, 1, gen(2, 1), false},
		{1, 9, gen(2, 1), false}, // an owner of before
		{2, 1, gen(2, 1), false}, // repeated
		{2, 2, gen(2, 2), true},
	} {
		leg := mute
		leg.Recv = step.epoch == 1 || step.n == 2
		if d := n.do("c1", step.epoch, step.n, leg, talk("b", ports[1], b.addr(), 1)); d.Gen != step.want || d.Reason != "" || d.Boot != "m-1" {
			t.Fatalf("order %d.%d: %+v, want %v", step.epoch, step.n, d, step.want)
		}
		a.send(50)
		if !step.hears {
			b.silent()
			continue
		}
		b.must(50)
	}
	n.do("c1", 2, 3)
	if d := n.do("c1", 2, 2, talk("a", ports[0], a.addr(), 1)); d.Gen != gen(2, 3) || n.Stats().Calls != 0 {
		t.Errorf("a late order dug up a freed call: %+v", d)
	}
}

func TestUnconfirmedAllocationIsFreed(t *testing.T) {
	cfg := config(&memBus{})
	var rings atomic.Int32
	cfg.Lookup = func(_ context.Context, id codecore.CallID) (exists, known bool) {
		if id != "rings" {
			return false, true
		}
		rings.Add(1)
		return true, true
	}
	n := start(t, cfg, func(m *Media) { m.times.orphan = 100 * time.Millisecond })
	n.alloc("rings") // for long: its ports stay its own
	n.alloc("c1")
	n.await("freed", func() bool { s := n.Stats(); return s.Calls == 1 && s.PairsUsed == 2 && s.Control["unconfirmed"] == 1 })
	n.await("asked again", func() bool { return rings.Load() > 2 })
	if s := n.Stats(); s.Calls != 1 || s.Control["unconfirmed"] != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestAForeignPortIsRefused(t *testing.T) {
	n := start(t, config(&memBus{}), nil)
	ports, a, b := n.pairOfPhones("c1")
	for _, port := range []int{ports[0], 0, -2, ports[0] + 1, 1 << 20} {
		if d := n.do("c2", 1, 1, talk("a", port, "127.0.0.1:9", 1)); d.Reason != "no-leg" {
			t.Errorf("port %d: %+v", port, d)
		}
	}
	a.send(2)
	b.must(2)
}

func TestAnOrderBringsACallThatIsNotRecorded(t *testing.T) {
	n := start(t, config(&memBus{}), nil)
	free := n.cfg.PortMax - 3
	a, b := newPhone(t, free, 1), newPhone(t, free+2, 2)
	if d := n.do("c1", 3, 4, talk("a", free, a.addr(), 1), talk("b", free+2, b.addr(), 1)); d.Reason != "" {
		t.Fatalf("order: %+v", d)
	}
	a.send(1)
	b.must(1)
}

func TestShortCallsCostNoWriteAndLongOnesOne(t *testing.T) {
	legs := &memLegs{}
	cfg := config(&memBus{})
	cfg.Legs = legs
	n := start(t, cfg, func(m *Media) { m.times.behind = time.Hour })
	n.pairOfPhones("short")
	n.do("short", 1, 2)
	n.pairOfPhones("long")
	n.await("all changes noted", func() bool { n.loop.mu.Lock(); defer n.loop.mu.Unlock(); return len(n.loop.dirty) == 0 })
	n.cold.mu.Lock()
	for _, e := range n.cold.entries { // the hour is over
		e.due = time.Now()
	}
	n.cold.mu.Unlock()
	n.await("a record", func() bool { r, _ := legs.count(); return r == 1 })
	n.await("in step", func() bool { return n.Stats().Unsaved == 0 })
	if _, writes := legs.count(); writes != 1 {
		t.Errorf("%d writes, want 1", writes)
	}
	n.do("long", 1, 2)
	n.await("deleted", func() bool { r, _ := legs.count(); return r == 0 })
}

func TestStoreAwayHurtsNobody(t *testing.T) {
	legs := &memLegs{}
	cfg := config(&memBus{})
	cfg.Legs = legs
	n := start(t, cfg, nil)
	legs.reach(false)
	_, a, b := n.pairOfPhones("c1")
	n.await("a write that waits", func() bool { return n.Stats().Unsaved == 1 })
	a.send(2)
	b.must(2)
	legs.reach(true)
	n.await("a record", func() bool { r, _ := legs.count(); return r == 1 })
}

func TestKeeperHasEverySocketFromTheStart(t *testing.T) {
	keep := &memKeeper{}
	t.Cleanup(keep.close)
	cfg := config(&memBus{})
	cfg.Keep = keep
	n := start(t, cfg, nil)
	n.await("kept", func() bool { return keep.count() == 16 && n.Stats().Sockets == 16 })
	for i := range 20 { // the pool grows and, when nobody needs it, shrinks
		n.alloc(fmt.Sprint(i))
	}
	n.await("kept", func() bool { return keep.count() == n.Stats().Sockets && keep.count() >= 80 })
	for i := range 20 {
		n.do(fmt.Sprint(i), 1, 1)
	}
	n.await("rested", func() bool { return n.Stats().PairsResting == 0 })
	for range 2 { // the first look begins the measure, the second takes it
		n.mu.Lock()
		n.pool.leastSince = time.Now().Add(-slack)
		n.mu.Unlock()
		n.await("a look", func() bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			return time.Since(n.pool.leastSince) < slack
		})
	}
	n.await("closed", func() bool { return n.Stats().Sockets == 16 && keep.count() == 16 })
	if fds, err := os.ReadDir("/proc/self/fd"); err != nil || len(fds) > 60 {
		t.Errorf("%d descriptors are open (%v)", len(fds), err)
	}
}

func TestRecordIsReadByItsVersion(t *testing.T) {
	for body, ok := range map[string]bool{`{"v":1}`: true, `{"v":2}`: true, `{"v":3}`: false, `{}`: false, `no`: false} {
		if _, err := decodeRecord([]byte(body)); (err == nil) != ok {
			t.Errorf("%s: %v", body, err)
		}
	}
	var c call
	raw, err := json.Marshal(c.snapshot("m-1", time.Time{}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeRecord(raw); err != nil {
		t.Error(err)
	}
}

func TestShortCallsLeaveNothing(t *testing.T) {
	legs := &memLegs{}
	cfg := config(&memBus{})
	cfg.Legs = legs
	cfg.RestPorts = time.Millisecond
	n := start(t, cfg, func(m *Media) { m.times.tomb = 10 * time.Millisecond })
	for i := range 1000 {
		call := fmt.Sprint("c", i)
		p := n.alloc(call)
		n.do(call, 1, 1, talk("a", p[0], "127.0.0.1:9", 1), talk("b", p[1], "127.0.0.1:9", 1))
		n.do(call, 1, 2)
	}
	n.await("nothing left", func() bool {
		n.mu.Lock()
		calls, tombs, used := len(n.calls), len(n.tombs), n.pool.nused+n.pool.nrest
		n.mu.Unlock()
		n.cold.mu.Lock()
		entries := len(n.cold.entries)
		n.cold.mu.Unlock()
		n.post.mu.Lock()
		boxes := len(n.post.boxes)
		n.post.mu.Unlock()
		records, _ := legs.count()
		return calls+tombs+used+entries+boxes+records == 0
	})
}

func TestARangeThatIsTakenIsNotWalkedForEveryCall(t *testing.T) {
	cfg := config(&memBus{})
	cfg.PortMax = cfg.PortMin + 3
	began := time.Now()
	n := start(t, cfg, nil)
	n.alloc("c1")
	barren := func() time.Time {
		for range 3 {
			ask[codecore.Allocated](n, sessions.SubjectAlloc("media.n1"), sessions.Alloc{Call: "c2", Legs: []codecore.LegID{"a"}})
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.pool.barren
	}
	first, next := barren(), barren() // a walk puts the next one off, and says so
	if first.Before(began.Add(time.Second)) || next != first && next.Before(first.Add(time.Second)) {
		t.Errorf("the range is walked again at once: not before %s, then not before %s, from %s on", first, next, began)
	}
}
