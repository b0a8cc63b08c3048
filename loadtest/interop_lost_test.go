package loadtest

import (
	"encoding/json"
	"syscall"
	"testing"
	"time"
)

// What others lose when a process goes, and no other test here looks at: the end
// of a call that lasts too long, and calls that begin while a worker leaves.

// The longest that a call may last is kept by whoever owns it: its worker is
// killed, and it ends when it had to, at both ends, with one CDR.
func TestMaximumDurationOutlivesItsWorker(t *testing.T) {
	const most = 8 * time.Second // the worker is killed and followed well within it
	b, _ := realSwitch(t, 0, nil)
	plan := b.rig.Dialplan()
	plan.Limits = json.RawMessage(`{"max_call": 8}`)
	if err := b.sw.plan(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	calls := b.establish(t, 5)
	p := b.only(t, RoleWorker)
	if err := b.sw.Kill(p); err != nil {
		t.Fatal(err)
	}
	if _, err := b.sw.Successor(patient(t, 20*time.Second), RoleWorker, p); err != nil {
		t.Fatal(err)
	}
	b.owned(t, len(calls), p)
	for _, c := range calls {
		ctx := patient(t, 20*time.Second)
		for side, l := range map[string]*Leg{"a": c.A, "b": c.B} {
			if err := await(ctx, l.HungUp, "BYE"); err != nil {
				t.Fatalf("%s: %s: %v", c.Number, side, err)
			}
			times := l.Times()
			if d := times.Ended.Sub(times.Answered); d < most-100*time.Millisecond || d > most+time.Second {
				t.Errorf("%s: %s: the call lasted %v, and may for %v", c.Number, side, d, most)
			}
		}
		if v, _ := c.Violations(); len(v) > 0 {
			t.Errorf("%s: %q", c.Number, v)
		}
	}
	b.once(t, calls)
}

// One of two workers is told to end: its calls go to the other, and calls that
// begin meanwhile come up.
func TestCallsBeginWhileAWorkerLeaves(t *testing.T) {
	b, calls := realSwitchAs(t, 50, nil, func(s Site) []byte {
		s.Workers = 2
		return DefaultConfig(s)
	})
	workers := mustFind(t, b, RoleWorker)
	for ctx := patient(t, 30*time.Second); len(workers) != 2; workers = mustFind(t, b, RoleWorker) {
		if !pause(ctx, 20*time.Millisecond) {
			t.Fatalf("workers: %+v", workers)
		}
	}
	stop := b.traffic(t, 20*time.Millisecond, 50)
	pause(t.Context(), 500*time.Millisecond)
	known := workers
	for _, p := range workers {
		if err := syscall.Kill(p.PID, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		next, err := b.sw.Successor(patient(t, 20*time.Second), RoleWorker, known...)
		if err != nil {
			t.Fatal(err)
		}
		known = append(known, next)
		pause(t.Context(), 500*time.Millisecond)
	}
	if placed, failed := stop(); placed < 50 || failed != 0 {
		t.Errorf("%d of %d calls failed that began while a worker left", failed, placed)
	}
	b.verdict(t, calls, 0)
}
