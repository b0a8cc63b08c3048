package handoff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// claimAll tells every worker of a death, as hosts do, and adds the reports.
func claimAll(t *testing.T, d Death, workers ...*worker) ClaimReport {
	t.Helper()
	var mu sync.Mutex
	var sum ClaimReport
	var all sync.WaitGroup
	for _, x := range workers {
		all.Go(func() {
			r, err := x.Claim(context.Background(), ClaimOrder{Dead: []Death{d}})
			if err != nil {
				t.Error(err)
			}
			if s, ok := x.Store.(*inStep); ok {
				s.over()
			}
			mu.Lock()
			defer mu.Unlock()
			sum.Claimed += r.Claimed
			sum.Aside += r.Aside
			sum.Left = append(sum.Left, r.Left...)
		})
	}
	all.Wait()
	return sum
}

// inStep is a store whose claimer looks a second time, for what nobody has claimed
// within Grace, when the others are through with their first look: who is held up
// for longer than Grace is not stepped in for.
type inStep struct {
	sessions.Store
	looks atomic.Int64
	first *sync.WaitGroup
	over  func() // the first look, or the claim
}

func (s *inStep) Scan(ctx context.Context, headersOnly bool, fn func(sessions.Record) error) error {
	if s.looks.Add(1) == 2 {
		s.over()
		s.first.Wait()
	}
	return s.Store.Scan(ctx, headersOnly, fn)
}

func TestTakeover(t *testing.T) {
	t.Parallel()
	w := newWorld()
	a := w.worker(t, "w-a", "r1", nil)
	var first sync.WaitGroup
	step := func(c *Config) {
		first.Add(1)
		c.Store = &inStep{Store: c.Store, first: &first, over: sync.OnceFunc(first.Done)}
	}
	b, c, d := w.worker(t, "w-b", "r1", step), w.worker(t, "w-c", "r1", step), w.worker(t, "w-d", "r2", step)
	ids := a.create(t, 500)
	bodies := map[codecore.CallID][]byte{}
	for _, id := range ids {
		bodies[id] = owner(t, w, id).Body
	}
	var mu sync.Mutex
	notices := map[codecore.CallID]int{}
	heard := make(chan struct{}, 500)
	sub, err := w.bus.Subscribe(sessions.SubjectControl("w-a", VerbDethroned), "", func(m sessions.Msg) {
		mu.Lock()
		defer mu.Unlock()
		for _, id := range ids {
			if bytes.Contains(m.Data, []byte(id)) {
				notices[id]++
				heard <- struct{}{}
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	a.stop()
	w.bury("w-a")
	if r := claimAll(t, Death{Owner: "w-a"}, b, c, d); r.Claimed != 500 || r.Aside != 0 || len(r.Left) != 0 {
		t.Fatalf("%+v", r)
	}
	x, y, z := len(b.calls.List()), len(c.calls.List()), len(d.calls.List())
	if x+y != 500 || x < 150 || y < 150 || z != 0 {
		t.Errorf("shares %d and %d of the same release, %d of another", x, y, z)
	}
	for _, id := range ids {
		rec := owner(t, w, id)
		if rec.Epoch != 2 || rec.N != 2 || rec.Attempts != 0 || rec.Release != "r1" || !bytes.Equal(rec.Body, bodies[id]) {
			t.Fatalf("claimed record: %+v", rec)
		}
	}
	for range ids {
		<-heard
	}
	if len(notices) != 500 {
		t.Errorf("%d calls in notices of dethronement", len(notices))
	}
}

// TestTakeoverByAnotherRelease leaves no worker of the record's release, and
// one call that nobody reads.
func TestTakeoverByAnotherRelease(t *testing.T) {
	t.Parallel()
	w := newWorld()
	a, b := w.worker(t, "w-a", "r1", nil), w.worker(t, "w-b", "r2", nil)
	ids := a.create(t, 10)
	rec := owner(t, w, ids[4])
	rec.Schema, rec.N = 2, 2
	if _, err := w.store.Put(context.Background(), rec); err != nil {
		t.Fatal(err)
	}
	a.stop()
	w.bury("w-a")
	if r := claimAll(t, Death{Owner: "w-a"}, b); r.Claimed != 9 || len(r.Left) != 1 || r.Left[0].Call != ids[4] {
		t.Errorf("%+v", r)
	}
	if rec := owner(t, w, ids[4]); rec.Owner != "w-a" {
		t.Errorf("a call that nobody reads was claimed: %+v", rec)
	}
}

// TestOthersStepIn names a living worker that never claims: the calls are
// claimed by the others after Grace.
func TestOthersStepIn(t *testing.T) {
	t.Parallel()
	w := newWorld()
	a, b := w.worker(t, "w-a", "r1", nil), w.worker(t, "w-b", "r2", nil)
	w.living = append(w.living, sessions.Process{Role: "worker", ID: "w-hung", Release: "r1", SchemaMin: 1, SchemaMax: 1})
	a.create(t, 10)
	a.stop()
	w.bury("w-a")
	start := time.Now()
	if r := claimAll(t, Death{Owner: "w-a"}, b); r.Claimed != 10 {
		t.Errorf("%+v", r)
	}
	if took := time.Since(start); took < Grace {
		t.Errorf("another release claimed after %v, before Grace", took)
	}
}

// TestTwoCrashesSetAside kills two owners with one call in hand.
func TestTwoCrashesSetAside(t *testing.T) {
	w := newWorld()
	var aside []sessions.Record
	keep := func(c *Config) {
		calls := c.Calls
		c.Caretaker = func(rec sessions.Record) {
			aside = append(aside, rec)
			calls.Adopt(rec, codecore.State{})
		}
	}
	workers := []*worker{w.worker(t, "w-a", "r1", nil)}
	ids := workers[0].create(t, 20)
	for i, want := range []int{0, 1} {
		next := w.worker(t, fmt.Sprintf("w-%d", i), "r1", keep)
		dead := workers[i]
		dead.stop()
		w.bury(dead.Worker)
		r := claimAll(t, Death{Owner: dead.Worker, InHand: ids[3:4]}, next)
		if r.Claimed != 20 || r.Aside != want {
			t.Fatalf("crash %d: %+v", i+1, r)
		}
		workers = append(workers, next)
	}
	if len(aside) != 1 || aside[0].ID != ids[3] || !aside[0].Aside {
		t.Fatalf("set aside: %+v", aside)
	}
	if rec := owner(t, w, ids[3]); !rec.Aside || rec.Attempts != 2 {
		t.Errorf("record set aside: %+v", rec)
	}
	if rec := owner(t, w, ids[4]); rec.Aside || rec.Attempts != 0 {
		t.Errorf("a call that was not in hand: %+v", rec)
	}
}

// TestUnreadableIsSetAside claims a call whose decoding panics here.
func TestUnreadableIsSetAside(t *testing.T) {
	w := newWorld()
	a := w.worker(t, "w-a", "r1", nil)
	ids := a.create(t, 3)
	b := w.worker(t, "w-b", "r1", func(c *Config) {
		n := 0
		c.Core.Check = func(codecore.State) error {
			if n++; n == 2 {
				return errors.New("no legs")
			}
			return nil
		}
	})
	a.stop()
	w.bury("w-a")
	r := claimAll(t, Death{Owner: "w-a"}, b)
	asides := 0
	for _, id := range ids {
		if rec := owner(t, w, id); rec.Aside && rec.N == 3 && rec.Epoch == 2 {
			asides++
		}
	}
	if r.Claimed != 3 || r.Aside != 1 || asides != 1 {
		t.Errorf("%+v, %d records set aside", r, asides)
	}
}

// TestStrays claims a call that the record gives to a worker who does not know.
func TestStrays(t *testing.T) {
	w := newWorld()
	a := w.worker(t, "w-a", "r1", nil)
	id := a.create(t, 1)[0]
	delete(a.calls.calls, id)
	for i, want := range []bool{false, true} {
		if err := a.FindStrays(context.Background()); err != nil {
			t.Fatal(err)
		}
		if a.calls.holds(id) != want {
			t.Errorf("look %d: held %t, want %t", i+1, !want, want)
		}
	}
	if rec := owner(t, w, id); rec.Epoch != 2 {
		t.Errorf("epoch %d, want 2", rec.Epoch)
	}
}

func TestClaimCall(t *testing.T) {
	w := newWorld()
	a, b := w.worker(t, "w-a", "r1", nil), w.worker(t, "w-b", "r1", nil)
	ids := a.create(t, 2)
	a.stop()
	b.claimOne(context.Background(), ids[0])
	if rec := owner(t, w, ids[0]); rec.Owner != "w-a" {
		t.Fatalf("a living owner was robbed: %+v", rec)
	}
	w.bury("w-a")
	b.ClaimCall(ids[1])
	b.await(t, "claimed")
	if rec := owner(t, w, ids[1]); rec.Owner != "w-b" || !b.calls.holds(ids[1]) {
		t.Errorf("%+v", rec)
	}
}

func TestClaimRecord(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		name     string
		attempts int
		claimed  time.Time
		blamed   bool
		want     int
		aside    bool
	}{
		{"not in hand", 1, now.Add(-time.Second), false, 1, false},
		{"first crash", 0, time.Time{}, true, 1, false},
		{"second, soon after the claim", 1, now.Add(-time.Second), true, 2, true},
		{"second, long after the claim", 1, now.Add(-time.Minute), true, 1, false},
	} {
		rec := Claim(sessions.Record{Owner: "w-a", Epoch: 4, N: 9, Rev: 7, Attempts: c.attempts, Claimed: c.claimed, Body: []byte("x")}, "w-b", now, c.blamed)
		if rec.Attempts != c.want || rec.Aside != c.aside || rec.Epoch != 5 || rec.N != 10 || rec.Rev != 7 || string(rec.Body) != "x" {
			t.Errorf("%s: %+v", c.name, rec)
		}
	}
}

// TestClaimantMovesLittle: the death of one worker changes nobody else's share.
func TestClaimantMovesLittle(t *testing.T) {
	living := make([]sessions.Process, 5)
	for i := range living {
		living[i] = sessions.Process{Role: "worker", ID: fmt.Sprintf("w-%d", i), Release: "r1", SchemaMin: 1, SchemaMax: 2}
	}
	share := map[string]int{}
	for i := range 5000 {
		rec := sessions.Record{ID: codecore.CallID(fmt.Sprintf("%024x", i)), Release: "r1", Schema: 2}
		was := Claimant(rec, living, 0, "w-0")
		share[was]++
		if now := Claimant(rec, living[:4], 0, "w-0"); was != "w-4" && now != was {
			t.Fatalf("call %d changed from %s to %s though %s lives", i, was, now, was)
		}
	}
	for w, n := range share {
		if n < 800 || n > 1200 {
			t.Errorf("%s has %d of 5000", w, n)
		}
	}
	if got := Claimant(sessions.Record{Schema: 3, Release: "r1"}, living, 2*Grace, "w-0"); got != "" {
		t.Errorf("%s claims what it cannot read", got)
	}
}
