package handoff

import (
	"context"
	"slices"
	"sync"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// A DrainOrder empties a worker: by SIGTERM, or at the end of a rollout.
type DrainOrder struct {
	// Targets are the workers to move calls to, as the rollout says. Empty:
	// living ones of the same release, else any.
	Targets []string `json:"targets,omitempty"`
}

// DrainTo moves all calls to other living workers until none is left or nothing
// moves any more; what stayed is in the report. From now on this worker takes
// no calls.
func (d *Driver) DrainTo(ctx context.Context, o DrainOrder) (MoveReport, error) {
	start := d.Now()
	d.drain.Store(true)
	total := MoveReport{Worker: d.Worker}
	asked := len(d.Calls.List())
	var err error
	for round := 0; round < 2*passes; round++ {
		ids := d.Calls.List()
		if len(ids) == 0 {
			break
		}
		targets := d.targets(o.Targets)
		if len(targets) == 0 {
			err = ErrNoTarget
			break
		}
		r := d.drainRound(ctx, ids, targets)
		total.Refused, total.Error = nil, ""
		total.add(r)
		if ctx.Err() != nil || r.Moved == 0 && r.Gone == 0 && r.Error == "" {
			break
		}
	}
	total.Asked, total.Seconds = max(asked, total.Moved), d.Now().Sub(start).Seconds()
	if err != nil {
		total.Error = err.Error()
	}
	return total, err
}

// Draining reports whether DrainTo has begun.
func (d *Driver) Draining() bool { return d.drain.Load() }

// drainRound spreads the calls over the targets.
func (d *Driver) drainRound(ctx context.Context, ids []codecore.CallID, targets []string) MoveReport {
	var mu sync.Mutex
	var sum MoveReport
	var all sync.WaitGroup
	share := (len(ids) + len(targets) - 1) / len(targets)
	n := 0
	for part := range slices.Chunk(ids, share) {
		to := targets[n]
		n++
		all.Go(func() {
			r, _ := d.Move(ctx, MoveOrder{To: to, IDs: part}, nil) // its error is in the report
			mu.Lock()
			sum.add(r)
			mu.Unlock()
		})
	}
	all.Wait()
	return sum
}

// targets are the living workers to drain to, best kind only.
func (d *Driver) targets(wanted []string) []string {
	var same, rest []string
	for _, p := range d.Living() {
		if p.ID == d.Worker || p.Draining || p.Role != "" && p.Role != "worker" {
			continue
		}
		switch {
		case len(wanted) > 0 && slices.Contains(wanted, p.ID), len(wanted) == 0 && p.Release == d.Release:
			same = append(same, p.ID)
		default:
			rest = append(rest, p.ID)
		}
	}
	if len(same) > 0 {
		return same
	}
	return rest
}

// progressEvery bounds how often a move tells of itself.
const progressEvery = 100 * time.Millisecond

func (d *Driver) serveMove(ctx context.Context, o MoveOrder) MoveReport {
	var last time.Time
	r, err := d.Move(ctx, o, func(r MoveReport) {
		if now := d.Now(); now.Sub(last) >= progressEvery {
			last = now
			d.publishProgress(r)
		}
	})
	if err != nil {
		d.Log.Warn("move ended early", "to", o.To, "err", err)
	}
	d.publishProgress(r)
	return r
}

func (d *Driver) publishProgress(r MoveReport) {
	r.Refused, r.Freeze = nil, nil
	if data, err := wire.Seal(r); err == nil {
		_ = d.Bus.Publish(sessions.SubjectControl(d.Worker, VerbProgress), data) // lossy by design
	}
}

func (d *Driver) serveDryRun(ctx context.Context, o MoveOrder) MoveReport {
	r, _ := d.DryRun(ctx, o) // its error is in the report
	return r
}

func (d *Driver) serveDrain(ctx context.Context, o DrainOrder) MoveReport {
	r, _ := d.DrainTo(ctx, o)
	return r
}

func (d *Driver) serveClaim(ctx context.Context, o ClaimOrder) ClaimReport {
	r, err := d.Claim(ctx, o)
	if err != nil {
		d.Log.Warn("takeover ended early", "err", err)
	}
	return r
}
