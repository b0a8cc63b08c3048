package main

import (
	"context"
	"sync"

	"callswitch/console"
	"callswitch/handoff"
)

// moveTally sums up the moves that this process ordered.
type moveTally struct {
	mu  sync.Mutex
	sum handoff.MoveReport
	why map[string]int
}

func (t *moveTally) add(verb string, r handoff.MoveReport) {
	if verb != handoff.VerbMove {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum.Moved += r.Moved
	t.sum.Freeze = append(t.sum.Freeze, r.Freeze...)
	if over := len(t.sum.Freeze) - 100_000; over > 0 { // the newest say enough
		t.sum.Freeze = t.sum.Freeze[over:]
	}
	for _, f := range r.Refused {
		t.why[string(f.Code)]++
	}
}

func (b *backend) Moves(context.Context) (console.Moves, error) {
	t := b.moves
	t.mu.Lock()
	defer t.mu.Unlock()
	m := console.Moves{
		Moved: t.sum.Moved, Reasons: map[string]int{},
		FreezeMS: console.Quantiles{P50: t.sum.Quantile(0.5), P99: t.sum.Quantile(0.99), Max: t.sum.Quantile(1)},
	}
	for code, n := range t.why {
		m.Refused += n
		m.Reasons[code] = n
	}
	return m, nil
}
