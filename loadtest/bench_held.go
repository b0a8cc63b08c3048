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
	if c.Workers > 1 {
		if r.Takeover, err = b.takeover(ctx); err != nil {
			r.Error = err.Error()
		}
	}
	if c.NextBinary != "" && r.Error == "" {
		if r.Moves, err = b.moves(ctx, c.NextBinary); err != nil {
			r.Error = err.Error()
		}
	}
	r.Dropped = b.empty(ctx, calls, 200)
	return r, nil
}

// takeover kills the busiest worker and waits until every call has a living owner.
func (b *bed) takeover(ctx context.Context) (*Takeover, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ps, err := b.sw.Find(ctx, RoleWorker)
	if err != nil {
		return nil, err
	}
	victim := ps[0]
	owned := map[string]int{}
	calls, err := b.sw.API.Calls(ctx)
	if err != nil {
		return nil, err
	}
	all := len(calls) // a call that nobody owns is not listed
	for _, c := range calls {
		owned[c.Owner]++
	}
	for _, p := range ps {
		if owned[p.ID] > owned[victim.ID] {
			victim = p
		}
	}
	t := &Takeover{Calls: owned[victim.ID]}
	begin := time.Now()
	if err := b.sw.Kill(victim); err != nil {
		return nil, err
	}
	for {
		asked := time.Since(begin)
		// A poll that asks the dead worker waits for it: not longer than this.
		one, stop := context.WithTimeout(ctx, 300*time.Millisecond)
		calls, err := b.sw.API.Calls(one)
		stop()
		left := 0
		for _, c := range calls {
			if c.Owner == victim.ID {
				left++
			}
		}
		if err == nil && left == 0 && len(calls) >= all {
			t.Seconds = asked.Seconds()
			return t, nil
		}
		if !pause(ctx, 20*time.Millisecond) {
			return nil, fmt.Errorf("loadtest: %d calls were not taken over: %w", left, ctx.Err())
		}
	}
}

// moves moves everything to the next release and back, in one wave each.
func (b *bed) moves(ctx context.Context, next string) (out []MoveResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if _, err = b.sw.API.StartRollout(ctx, RolloutStart{Binary: next, Steps: []int{100}, Pause: "0s", ConfirmWithin: "10m"}); err != nil {
		return nil, err
	}
	for _, want := range []string{RolloutDone, RolloutRolledBack} {
		var r Rollout
		for {
			if r, err = b.sw.API.Rollout(ctx); err != nil {
				return out, err
			}
			if r.State == want {
				break
			}
			if r.State == RolloutFailed || want == RolloutDone && r.State == RolloutRolledBack {
				return out, fmt.Errorf("loadtest: rollout %s: %s", r.State, r.Error)
			}
			if !pause(ctx, 50*time.Millisecond) {
				return out, fmt.Errorf("loadtest: rollout is %s: %w", r.State, ctx.Err())
			}
		}
		to := r.To.Name
		if want == RolloutRolledBack {
			to = r.From.Name
		}
		m := MoveResult{To: to}
		for _, w := range r.Waves {
			if w.Back == (want == RolloutRolledBack) {
				m.Moved, m.Refused, m.FreezeMS = m.Moved+w.Moved, m.Refused+w.Refused, w.FreezeMS
				m.Seconds += w.Ended.Sub(w.Started).Seconds()
			}
		}
		if m.Seconds > 0 {
			m.PerSec = float64(m.Moved) / m.Seconds
		}
		out = append(out, m)
		if want == RolloutDone {
			pause(ctx, time.Second)
			if _, err = b.sw.API.Steer(ctx, "undo", Steer{}); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}
