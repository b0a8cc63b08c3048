package handoff

import (
	"fmt"
	"sync/atomic"
	"time"
)

// maxStuck bounds the goroutines that never came back from a migration: when so
// many hang, the release is broken, and nothing more is tried on it.
const maxStuck = 8

// attempts runs code that may panic or hang, for many items: in one goroutine
// (a wake-up per batch, not per call), which is left behind when an item takes
// longer than limit.
type attempts[T any] struct {
	limit time.Duration
	stuck *atomic.Int64
	do    func(i int) T
	lost  func(code Code, detail string) T // the result of an item that panicked or hung
}

// Item states.
const (
	itemOpen int32 = iota
	itemDone
	itemLeft // given up; its goroutine must not write any more
)

// run returns one result for each of n items.
func (a attempts[T]) run(n int) []T {
	out := make([]T, n)
	state := make([]atomic.Int32, n)
	for from := 0; from < n; {
		if a.stuck.Load() >= maxStuck {
			for i := from; i < n; i++ {
				out[i] = a.lost(CodeMigrateTimeout, "too many migrations hang in this worker")
			}
			break
		}
		from = a.pass(from, out, state)
	}
	return out
}

// pass runs items from the given one on, until all are done or one hangs; it
// returns where to go on.
func (a attempts[T]) pass(from int, out []T, state []atomic.Int32) int {
	done := make(chan struct{})
	var at atomic.Int64
	at.Store(int64(from))
	go func() {
		defer close(done)
		for i := from; i < len(out); i++ {
			at.Store(int64(i))
			v := a.guarded(i)
			if !state[i].CompareAndSwap(itemOpen, itemDone) {
				a.stuck.Add(-1) // it came back after all
				return
			}
			out[i] = v
		}
	}()
	timer := time.NewTimer(a.limit)
	defer timer.Stop()
	for last := from - 1; ; {
		select {
		case <-done:
			return len(out)
		case <-timer.C:
			i := int(at.Load())
			if i == last && state[i].CompareAndSwap(itemOpen, itemLeft) {
				a.stuck.Add(1)
				out[i] = a.lost(CodeMigrateTimeout, fmt.Sprintf("longer than %v", a.limit))
				return i + 1
			}
			last = i
			timer.Reset(a.limit)
		}
	}
}

func (a attempts[T]) guarded(i int) (v T) {
	defer func() {
		if r := recover(); r != nil {
			v = a.lost(CodeMigratePanic, fmt.Sprint(r))
		}
	}()
	return a.do(i)
}
