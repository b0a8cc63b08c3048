package loadtest

import (
	"context"
	"fmt"
	"time"
)

func benchHeld(ctx context.Context, c BenchConfig) (*HeldResult, error) {
	b, err := newBed(ctx, c, c.Calls, c.Workers, RigConfig{Mux: true, UAs: 2})
	if err != nil {
		return nil, err
	}
	defer b.close()
	pause(ctx, 3*time.Second)
	r := &HeldResult{Calls: c.Calls}
	idle, err := b.pss(ctx)
	if err != nil {
		return nil, err
	}
	r.PSSIdle = idle.PSS
	calls, err := b.fill(ctx, c.Calls, 200)
	if err != nil {
		return nil, err
	}
	_, _ = fmt.Fprintf(c.Progress, "%d calls held, waiting %d s\n", len(calls), c.HeldSeconds)
	pause(ctx, time.Duration(c.HeldSeconds-5)*time.Second)
	u0, err := b.pss(ctx)
	if err != nil {
		return nil, err
	}
	pause(ctx, 5*time.Second)
	u, err := b.pss(ctx)
	if err != nil {
		return nil, err
	}
	r.PSS, r.FDs, r.IdleCPU = u.PSS, u.FDs, (u.CPU-u0.CPU)/5*100
	r.KBCall = float64(u.PSS-idle.PSS) / float64(c.Calls)
	_, _ = fmt.Fprintf(c.Progress, "%.1f kB a held call, %.1f %% of a core\n", r.KBCall, r.IdleCPU)
	// The moves first: a takeover leaves a worker that has just grown.
	if c.NextBinary != "" {
		if r.Moves, err = b.moves(ctx, c); err != nil {
			r.Error = err.Error()
		}
		r.MoveSum = summary(r.Moves)
	}
	if c.Workers > 1 && r.Error == "" {
		if r.Takeover, err = b.takeover(ctx, c); err != nil {
			r.Error = err.Error()
		}
	}
	r.Dropped = b.empty(ctx, calls, 200)
	return r, nil
}
