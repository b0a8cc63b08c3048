package loadtest

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"time"
)

// MoveResult is one wave of all calls.
type MoveResult struct {
	To       string    `json:"to"`
	Listed   int       `json:"listed"` // that the wave had to move
	Moved    int       `json:"moved"`
	Refused  int       `json:"refused"`
	Gone     int       `json:"gone"`
	Left     int       `json:"left"`
	Seconds  float64   `json:"seconds"`
	PerSec   float64   `json:"per_second"`
	FreezeMS Quantiles `json:"freeze_ms"`
}

// MoveSummary says of all waves what is usual and what was worst.
type MoveSummary struct {
	Waves        int     `json:"waves"`
	PerSec       float64 `json:"per_second_median"`
	PerSecWorst  float64 `json:"per_second_worst"`
	FreezeP50    float64 `json:"freeze_p50_ms_median"`
	FreezeP99    float64 `json:"freeze_p99_ms_median"`
	FreezeP99Max float64 `json:"freeze_p99_ms_worst"`
	FreezeMax    float64 `json:"freeze_max_ms"`
}

func summary(ms []MoveResult) *MoveSummary {
	if len(ms) == 0 {
		return nil
	}
	sorted := func(of func(MoveResult) float64) []float64 {
		v := make([]float64, len(ms))
		for i, m := range ms {
			v[i] = of(m)
		}
		slices.Sort(v)
		return v
	}
	rate := sorted(func(m MoveResult) float64 { return m.PerSec })
	p50 := sorted(func(m MoveResult) float64 { return m.FreezeMS.P50 })
	p99 := sorted(func(m MoveResult) float64 { return m.FreezeMS.P99 })
	top := sorted(func(m MoveResult) float64 { return m.FreezeMS.Max })
	mid, last := len(ms)/2, len(ms)-1
	return &MoveSummary{
		Waves: len(ms), PerSec: rate[mid], PerSecWorst: rate[0],
		FreezeP50: p50[mid], FreezeP99: p99[mid], FreezeP99Max: p99[last], FreezeMax: top[last],
	}
}

// Takeover is kill -9 of the worker that has all calls, while another lives.
type Takeover struct {
	Calls   int     `json:"calls"`   // it had
	Seconds float64 `json:"seconds"` // kill to the last of them live at its new owner, by that owner's clock
	Polled  bool    `json:"polled"`  // the owners do not tell since when: as seen by polls, an upper bound
}

// moves moves everything to the next release and back, in one wave each, so
// many rounds.
func (b *bed) moves(ctx context.Context, c BenchConfig) (out []MoveResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for range c.Rounds {
		if _, err = b.sw.API.StartRollout(ctx, RolloutStart{Binary: c.NextBinary, Steps: []int{100}, Pause: "0s", ConfirmWithin: "10m"}); err != nil {
			return out, err
		}
		for _, want := range []string{RolloutDone, RolloutRolledBack} {
			r, err := b.rolloutIs(ctx, want)
			if err != nil {
				return out, err
			}
			m := waveOf(r, want == RolloutRolledBack)
			_, _ = fmt.Fprintf(c.Progress, "to %s: %d of %d, %.0f a second, frozen p50 %.1f p99 %.1f max %.1f ms\n",
				m.To, m.Moved, m.Listed, m.PerSec, m.FreezeMS.P50, m.FreezeMS.P99, m.FreezeMS.Max)
			out = append(out, m)
			pause(ctx, time.Second)
			if want == RolloutDone {
				if _, err = b.sw.API.Steer(ctx, "undo", Steer{}); err != nil {
					return out, err
				}
			}
		}
	}
	return out, nil
}

func (b *bed) rolloutIs(ctx context.Context, want string) (Rollout, error) {
	for {
		r, err := b.sw.API.Rollout(ctx)
		if err != nil || r.State == want {
			return r, err
		}
		if r.State == RolloutFailed || want == RolloutDone && r.State == RolloutRolledBack {
			return r, fmt.Errorf("loadtest: rollout %s: %s", r.State, r.Error)
		}
		if !pause(ctx, 50*time.Millisecond) {
			return r, fmt.Errorf("loadtest: rollout is %s: %w", r.State, ctx.Err())
		}
	}
}

func waveOf(r Rollout, back bool) MoveResult {
	m := MoveResult{To: r.To.Name}
	if back {
		m.To = r.From.Name
	}
	for _, w := range r.Waves {
		if w.Back == back {
			m.Listed, m.Moved, m.Refused = m.Listed+w.Listed, m.Moved+w.Moved, m.Refused+w.Refused
			m.Gone, m.Left, m.FreezeMS = m.Gone+w.Gone, m.Left+w.Left, w.FreezeMS
			m.Seconds += w.Ended.Sub(w.Started).Seconds()
		}
	}
	if m.Seconds > 0 {
		m.PerSec = float64(m.Moved) / m.Seconds
	}
	return m
}

// takeover gives all calls to one worker, kills it, and learns from the new
// owners since when they have them.
func (b *bed) takeover(ctx context.Context, c BenchConfig) (*Takeover, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	victim, all, err := b.gather(ctx)
	if err != nil {
		return nil, err
	}
	pause(ctx, 3*time.Second)
	begin := time.Now()
	if err := b.sw.Kill(victim); err != nil {
		return nil, err
	}
	t := &Takeover{Calls: all}
	// Nobody is asked while the calls change hands: it would cost CPU, and owners
	// that tell since when they own need no poll.
	if b.since {
		pause(ctx, 3*time.Second)
	}
	for {
		asked := time.Since(begin)
		one, stop := context.WithTimeout(ctx, time.Second)
		calls, err := b.sw.API.Calls(one)
		stop()
		var last time.Time
		have := 0
		for _, x := range calls {
			if x.Owner == victim.ID {
				continue
			}
			have++
			if x.Since.After(last) {
				last = x.Since
			}
		}
		if err == nil && have >= all {
			t.Seconds, t.Polled = last.Sub(begin).Seconds(), !b.since
			if t.Polled {
				t.Seconds = asked.Seconds()
			}
			_, _ = fmt.Fprintf(c.Progress, "%d calls taken over in %.2f s\n", all, t.Seconds)
			return t, nil
		}
		if !pause(ctx, 20*time.Millisecond) {
			return nil, fmt.Errorf("loadtest: %d of %d calls were not taken over: %w", all-have, all, ctx.Err())
		}
	}
}

// gather ends one worker by SIGTERM after the other, until one has all calls and
// another, started in place of those, has none. It returns the first.
func (b *bed) gather(ctx context.Context) (Process, int, error) {
	for {
		ps, err := b.sw.Find(ctx, RoleWorker)
		if err != nil {
			return Process{}, 0, err
		}
		calls, err := b.sw.API.Calls(ctx)
		if err != nil {
			return Process{}, 0, err
		}
		owned := map[string]int{}
		for _, x := range calls {
			owned[x.Owner]++
			b.since = b.since || !x.Since.IsZero()
		}
		slices.SortFunc(ps, func(x, y Process) int { return owned[y.ID] - owned[x.ID] })
		if len(ps) > 1 && owned[ps[0].ID] == len(calls) {
			return ps[0], len(calls), nil
		}
		if len(ps) > 1 && owned[ps[0].ID]+owned[ps[1].ID] == len(calls) {
			if err := b.sw.signal(ps[1], syscall.SIGTERM); err != nil {
				return Process{}, 0, err
			}
			pause(ctx, time.Second)
		}
		if !pause(ctx, 200*time.Millisecond) {
			return Process{}, 0, fmt.Errorf("loadtest: the calls are not with one worker: %w", ctx.Err())
		}
	}
}
