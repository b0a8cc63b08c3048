package handoff

import (
	"context"
	"sync"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// TestOrdersSideBySideTakeEachCallOnce gives one worker the orders of a wave
// with two targets. Orders that choose from one list independently both choose
// some calls, and leave others where they are.
func TestOrdersSideBySideTakeEachCallOnce(t *testing.T) {
	w := newWorld()
	a := w.worker(t, "w-a", "r1", nil)
	targets := []*worker{w.worker(t, "w-b", "r2", nil), w.worker(t, "w-c", "r2", nil)}
	a.create(t, 400)
	var all sync.WaitGroup
	reports := make([]MoveReport, len(targets))
	for i, to := range targets {
		all.Go(func() { reports[i], _ = a.Move(context.Background(), MoveOrder{To: to.Worker, Count: 200}, nil) })
	}
	all.Wait()
	for i, r := range reports {
		if held := len(targets[i].calls.List()); r.Asked != 200 || r.Moved != 200 || r.Gone != 0 || held != 200 {
			t.Errorf("order %d: asked %d, moved %d, gone %d; the target holds %d; want 200 of each", i, r.Asked, r.Moved, r.Gone, held)
		}
	}
	a.createFrom(t, 400, 10)
	if r, err := a.Move(context.Background(), MoveOrder{To: "w-b"}, nil); err != nil || r.Moved != 10 {
		t.Errorf("a later order: %v, %v; what the first ones took was not given back", r, err)
	}
}

// TestEveryCallIsCountedOnce ends calls between the choice and their turn, lets
// some be refused and the order end early: the report says of each what became of it.
func TestEveryCallIsCountedOnce(t *testing.T) {
	w := newWorld()
	a := w.worker(t, "w-a", "r1", nil)
	w.worker(t, "w-b", "r2", func(c *Config) { c.Core.SchemaMax = 1 })
	ids := a.create(t, 300)
	a.calls.calls[ids[7]].rec.Schema = 2 // pinned
	a.calls.calls[ids[250]].rec.Schema = 2
	gone := append([]codecore.CallID{"000000000000000000ffffff"}, ids...)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, err := a.Move(ctx, MoveOrder{To: "w-b", IDs: gone}, func(r MoveReport) {
		if r.Moved > 100 {
			cancel()
		}
	})
	if err == nil || r.Gone != 1 || r.Left == 0 || r.Asked != 301 || r.Moved+len(r.Refused)+r.Gone+r.Left != r.Asked {
		t.Errorf("asked %d, moved %d, refused %d, gone %d, left %d, %v", r.Asked, r.Moved, len(r.Refused), r.Gone, r.Left, err)
	}
}

// crew carries out a rollout's orders with real drivers.
type crew struct {
	*stage
	workers []*worker
	digest  map[string]string
}

func (c crew) Facts(context.Context, Rollout) (f Facts, err error) {
	for _, w := range c.workers {
		f.Workers = append(f.Workers, sessions.Process{Role: "worker", ID: w.Worker, Digest: c.digest[w.Release], Calls: len(w.calls.List())})
	}
	return f, nil
}

func (c crew) Do(ctx context.Context, o Order) (MoveReport, error) {
	for _, w := range c.workers {
		switch {
		case w.Worker != o.Source:
		case o.Kind == OrderDryRun:
			return w.DryRun(ctx, o.Move)
		case o.Kind == OrderMove:
			return w.Move(ctx, o.Move, nil)
		}
	}
	return MoveReport{}, nil
}

// TestWaveSaysWhatBecameOfEachCall moves the calls of two workers to two others
// in one wave, and back: moved + refused + ended = listed, in one round of orders.
func TestWaveSaysWhatBecameOfEachCall(t *testing.T) {
	w := newWorld()
	c := crew{stage: newStage(), digest: map[string]string{"r1": "old", "r2": "new"}}
	for id, release := range map[string]string{"w-a": "r1", "w-b": "r1", "w-c": "r2", "w-d": "r2"} {
		c.workers = append(c.workers, w.worker(t, id, release, func(c *Config) {
			if release == "r1" {
				c.Core.SchemaMax = 2
			}
		}))
	}
	total := 0
	for _, x := range c.workers {
		if x.Release == "r1" {
			for _, id := range x.createFrom(t, total, 150) {
				if total++; total%100 == 0 {
					x.calls.calls[id].rec.Schema = 2 // pinned
				}
			}
		}
	}
	now := time.Unix(1000, 0)
	r, err := NewRollout("x", Side{Digest: "old"}, Side{Digest: "new"}, []int{100}, 0, 0, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := StartRollout(t.Context(), c, "k", r); err != nil {
		t.Fatal(err)
	}
	cfg := RolloutConfig{Docs: c, Executor: c, Now: func() time.Time { return now }}.withDefaults()
	for i := 0; i < 20 && r.Phase != PhaseRolledBack; i++ {
		if _, err := cfg.advance(t.Context(), new(time.Time)); err != nil {
			t.Fatal(err)
		}
		if r, _, err = ReadRollout(t.Context(), c, "k"); err != nil {
			t.Fatal(err)
		}
		if r.Phase == PhaseDone {
			if _, err := SteerRollout(t.Context(), cfg, SteerAbort, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(r.Waves) != 2 || r.Phase != PhaseRolledBack {
		t.Fatalf("%s after %d waves", r.Phase, len(r.Waves))
	}
	for i, want := range []Wave{{Listed: 300, Moved: 297, Refused: 3}, {Listed: 297, Moved: 297}} {
		got := r.Waves[i]
		if got.Listed != want.Listed || got.Moved != want.Moved || got.Refused != want.Refused || got.Gone != 0 || got.Left != 0 {
			t.Errorf("wave %d: %+v, want listed %d, moved %d, refused %d, none gone or left", i, got, want.Listed, want.Moved, want.Refused)
		}
	}
}
