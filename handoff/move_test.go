package handoff

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

func TestMoveTakesEveryCall(t *testing.T) {
	w := newWorld()
	a, b := w.worker(t, "w-a", "r1", nil), w.worker(t, "w-b", "r2", nil)
	ids := a.create(t, 100)
	a.calls.step(ids[3])
	before := owner(t, w, ids[3])
	var told atomic.Int64
	r, err := a.Move(context.Background(), MoveOrder{To: "w-b"}, func(r MoveReport) { told.Add(1) })
	if err != nil || r.Moved != 100 || len(r.Refused) > 0 || len(r.Freeze) != 100 {
		t.Fatalf("moved %d, refused %v, %d freezes, %v", r.Moved, r.Refused, len(r.Freeze), err)
	}
	if got := len(b.calls.List()); got != 100 || len(a.calls.List()) != 0 {
		t.Fatalf("the target holds %d, the source %d", got, len(a.calls.List()))
	}
	after := owner(t, w, ids[3])
	if after.Owner != "w-b" || after.Epoch != before.Epoch+1 || after.N != before.N+1 || after.Release != "r2" {
		t.Errorf("record after the move: %+v; before: %+v", after, before)
	}
	if got := steps(b.calls.calls[ids[3]].state); got != 2 {
		t.Errorf("the moved call has %d steps, want 2", got)
	}
	if told.Load() == 0 {
		t.Error("no progress was told")
	}
	story := w.store.Story(ids[3])
	if len(story) != 1 || story[0].What != "moved" || story[0].Owner != "w-b" || story[0].Epoch != 2 {
		t.Errorf("story = %+v", story)
	}
	if r.Quantile(0.99) < r.Quantile(0.5) {
		t.Error("quantiles are not in order")
	}
}

func TestMoveSome(t *testing.T) {
	w := newWorld()
	a, b := w.worker(t, "w-a", "r1", nil), w.worker(t, "w-b", "r1", nil)
	ids := a.create(t, 50)
	if r, err := a.Move(context.Background(), MoveOrder{To: "w-b", Count: 20}, nil); err != nil || r.Moved != 20 {
		t.Fatalf("by count: %v, %v", r, err)
	}
	if r, err := a.Move(context.Background(), MoveOrder{To: "w-b", IDs: ids[49:]}, nil); err != nil || r.Moved != 1 || !b.calls.holds(ids[49]) {
		t.Fatalf("by id: %v, %v", r, err)
	}
	if _, err := a.Move(context.Background(), MoveOrder{To: "w-a"}, nil); !errors.Is(err, ErrSelf) {
		t.Errorf("to itself: %v", err)
	}
	if r, err := a.Move(context.Background(), MoveOrder{To: "w-nobody"}, nil); err == nil || r.Moved != 0 || len(a.calls.List()) != 29 {
		t.Errorf("to nobody: %v, %v", r, err)
	}
}

// TestRefusalLeavesTheCall moves calls that the target cannot carry on, each in
// its own way, among others that it can.
func TestRefusalLeavesTheCall(t *testing.T) {
	w := newWorld()
	hang := make(chan struct{})
	poison := map[string]func(codecore.State) (codecore.State, error){
		"panic":     func(codecore.State) (codecore.State, error) { panic("migration of a marked number") },
		"hang":      func(s codecore.State) (codecore.State, error) { <-hang; return s, nil },
		"decode":    func(s codecore.State) (codecore.State, error) { return s, errors.New("not a state") },
		"refuse":    func(s codecore.State) (codecore.State, error) { return s, errRefuse },
		"invariant": func(s codecore.State) (codecore.State, error) { return s, nil },
	}
	a := w.worker(t, "w-a", "r1", nil)
	w.worker(t, "w-b", "r2", func(c *Config) {
		c.MigrateLimit = 400 * time.Millisecond // the others must not be taken for one that hangs
		c.Core.Decode = func(schema int, body []byte) (codecore.State, error) {
			s, err := decodeFake(schema, body)
			for how, f := range poison {
				if _, ok := s.Peers[how]; ok && err == nil {
					return f(s)
				}
			}
			return s, err
		}
		c.Core.Check = func(s codecore.State) error {
			if _, ok := s.Peers["invariant"]; ok {
				return errors.New("two legs with one id")
			}
			return nil
		}
		c.Core.Classify = func(err error) Code {
			if errors.Is(err, errRefuse) {
				return CodeMigrate
			}
			return OK
		}
	})
	t.Cleanup(func() { close(hang) })
	ids := a.create(t, 40)
	want := map[codecore.CallID]Code{
		ids[1]: CodeMigratePanic, ids[2]: CodeMigrateTimeout, ids[17]: CodeDecode, ids[18]: CodeMigrate,
		ids[33]: CodeInvariant, ids[39]: CodePinned,
	}
	mark := map[int]string{1: "panic", 2: "hang", 17: "decode", 18: "refuse", 33: "invariant"}
	for i, how := range mark {
		a.calls.calls[ids[i]].state.Peers[how] = codecore.Peer{}
	}
	a.calls.calls[ids[39]].rec.Schema = 2
	dry, err := a.DryRun(context.Background(), MoveOrder{To: "w-b"})
	if err != nil || dry.Moved != 34 || len(dry.Refused) != 6 || len(a.calls.List()) != 40 {
		t.Fatalf("dry run: %v, %v", dry, err)
	}
	if n := len(a.seen); n != 0 {
		t.Errorf("the dry run counts %d outcomes of moves, and nothing was to move", n)
	}
	if s := dry.String(); !strings.Contains(s, "moved 34 of 40") || !strings.Contains(s, "1 pinned") {
		t.Errorf("dry run says %q", s)
	}
	r, err := a.Move(context.Background(), MoveOrder{To: "w-b"}, nil)
	if err != nil || r.Moved != 34 || len(r.Refused) != 6 {
		t.Fatalf("move: %v, %v", r, err)
	}
	for _, f := range r.Refused {
		if want[f.Call] != f.Code {
			t.Errorf("%s refused with %q (%s), want %q", f.Call, f.Code, f.Detail, want[f.Call])
		}
		if rec := owner(t, w, f.Call); rec.Owner != "w-a" || rec.N != 1 || !a.calls.step(f.Call) {
			t.Errorf("%s does not go on where it was: %+v", f.Call, rec)
		}
	}
}

var errRefuse = errors.New("this call kind cannot be migrated")

// TestHangingMigrationsAreBounded lets every migration hang.
func TestHangingMigrationsAreBounded(t *testing.T) {
	w := newWorld()
	hang := make(chan struct{})
	a := w.worker(t, "w-a", "r1", nil)
	b := w.worker(t, "w-b", "r2", func(c *Config) {
		c.MigrateLimit = 2 * time.Millisecond
		c.Core.Decode = func(schema int, body []byte) (codecore.State, error) { <-hang; return codecore.State{}, nil }
	})
	t.Cleanup(func() { close(hang) })
	a.create(t, 200)
	r, err := a.Move(context.Background(), MoveOrder{To: "w-b"}, nil)
	if err != nil || r.Moved != 0 || len(r.Refused) != 200 {
		t.Fatalf("move: %v, %v", r, err)
	}
	if n := b.stuck.Load(); n < maxStuck || n > maxStuck+Lanes {
		t.Errorf("%d migrations hang, want about %d", n, maxStuck)
	}
}

// TestChangedSincePrepare steps a call between its Prepare and its freeze: the
// target must carry on the newer state.
func TestChangedSincePrepare(t *testing.T) {
	w := newWorld()
	a := w.worker(t, "w-a", "r1", nil)
	var once atomic.Bool
	b := w.worker(t, "w-b", "r2", func(c *Config) {
		decode := c.Core.Decode
		c.Core.Decode = func(schema int, body []byte) (codecore.State, error) {
			if once.CompareAndSwap(false, true) && !a.calls.step("000000000000000000000000") {
				t.Error("the source does not work during Prepare")
			}
			return decode(schema, body)
		}
	})
	ids := a.create(t, 3)
	r, err := a.Move(context.Background(), MoveOrder{To: "w-b"}, nil)
	if err != nil || r.Moved != 3 || steps(b.calls.calls[ids[0]].state) != 2 {
		t.Fatalf("%v, %v, state %+v", r, err, b.calls.calls[ids[0]].state)
	}
}

// TestWaitingMessagesArePassedOn publishes again what came during the freeze.
func TestWaitingMessagesArePassedOn(t *testing.T) {
	w := newWorld()
	a := w.worker(t, "w-a", "r1", nil)
	w.worker(t, "w-b", "r1", nil)
	ids := a.create(t, 1)
	got := make(chan string, 1)
	sub, err := w.bus.Subscribe(sessions.SubjectCall(ids[0]), "", func(m sessions.Msg) { got <- string(m.Data) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	a.calls.calls[ids[0]].waited = []sessions.Msg{{Subject: sessions.SubjectCall(ids[0]), Data: []byte("BYE")}}
	if r, err := a.Move(context.Background(), MoveOrder{To: "w-b"}, nil); err != nil || r.Moved != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	select {
	case s := <-got:
		if s != "BYE" {
			t.Errorf("passed on %q", s)
		}
	case <-time.After(guard):
		t.Error("what waited was not passed on")
	}
}

func TestDrain(t *testing.T) {
	w := newWorld()
	a := w.worker(t, "w-a", "r1", nil)
	b, c, other := w.worker(t, "w-b", "r1", nil), w.worker(t, "w-c", "r1", nil), w.worker(t, "w-d", "r2", nil)
	ids := a.create(t, 60)
	a.calls.calls[ids[7]].rec.Aside = true
	r, err := a.DrainTo(context.Background(), DrainOrder{})
	if err != nil || r.Moved != 59 || len(r.Refused) != 1 || r.Refused[0].Code != CodeAside {
		t.Fatalf("%v %v, %v", r, r.Refused, err)
	}
	if x, y, z := len(b.calls.List()), len(c.calls.List()), len(other.calls.List()); x < 20 || y < 20 || z != 0 {
		t.Errorf("calls went to %d, %d of the same release and %d of another", x, y, z)
	}
	if r, _ := b.Move(context.Background(), MoveOrder{To: "w-a"}, nil); r.Moved != 0 || r.Refused[0].Code != CodeDraining {
		t.Errorf("a draining worker took calls: %v", r)
	}
}

// BenchmarkMove moves 4,000 held calls to and fro.
func BenchmarkMove(b *testing.B) {
	w := newWorld()
	x, y := w.worker(b, "w-a", "r1", func(c *Config) { c.Observe = nil }), w.worker(b, "w-b", "r2", func(c *Config) { c.Observe = nil })
	x.create(b, 4000)
	var freeze []float64
	moved := 0
	for b.Loop() {
		r, err := x.Move(context.Background(), MoveOrder{To: y.Worker}, nil)
		if err != nil || r.Moved != 4000 {
			b.Fatal(r, err)
		}
		moved += r.Moved
		freeze = append(freeze, r.Freeze...)
		x, y = y, x
	}
	r := MoveReport{Freeze: freeze}
	b.ReportMetric(float64(moved)/b.Elapsed().Seconds(), "moves/s")
	b.ReportMetric(r.Quantile(0.5), "freeze-p50-ms")
	b.ReportMetric(r.Quantile(0.99), "freeze-p99-ms")
}
