package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"callswitch/handoff"
	"callswitch/host"
	"callswitch/nats"
	"callswitch/sessions"
)

type exit = host.Exit

// executor does what a rollout orders, on this node.
type executor struct{ *backend }

var _ handoff.Executor = executor{}

func (b *backend) rolloutConfig() handoff.RolloutConfig {
	return handoff.RolloutConfig{Docs: b.docs, Key: nats.DocRollout, Executor: executor{b}, Every: 200 * time.Millisecond, Log: b.log}
}

// Facts counts now, not at the last heartbeat: a wave that overshoots moves
// calls that should have stayed.
func (x executor) Facts(ctx context.Context, r handoff.Rollout) (handoff.Facts, error) {
	var f handoff.Facts
	if r.Phase == handoff.PhaseFinalized {
		return f, nil
	}
	f.Health = handoff.Health{Attempts: map[string]int{}, Failed: map[string]int{}}
	askAll(ctx, x.backend, verbHealth, nil, func(p sessions.Process, h workerHealth) {
		p.Calls = h.Calls
		f.Workers = append(f.Workers, p)
		f.Health.Attempts[p.Digest] += h.Attempts
		f.Health.Failed[p.Digest] += h.Failed
		f.Health.Drops += h.Drops
		f.Health.MediaGaps += h.MediaGaps
		f.Obeyed = max(f.Obeyed, h.Writes)
	})
	var cluster clusterDoc
	raw, _, err := x.docs.Get(ctx, nats.DocCluster)
	if err != nil && !errors.Is(err, sessions.ErrNotFound) {
		return f, err
	}
	_ = json.Unmarshal(raw, &cluster) // unreadable: as raiseFloor takes it
	f.Floor, f.Writes, f.Turn = cluster.Floor, cluster.Write, cluster.Turn
	switch r.Phase {
	case handoff.PhasePreparing:
		f.Broken = x.broken(ctx, r.To)
	case handoff.PhaseConfirmed:
		f.Older = x.older(r)
	case handoff.PhaseFinalizing:
		f.Older = x.older(r)
		if cluster.writes() >= r.To.Schema {
			return f, x.behind(ctx, r.To.Schema, &f)
		}
	}
	return f, nil
}

func (x executor) Do(ctx context.Context, o handoff.Order) (handoff.MoveReport, error) {
	switch o.Kind {
	case handoff.OrderStart:
		return handoff.MoveReport{}, x.startWorkers(ctx, o.Binary, o.Digest)
	case handoff.OrderStop:
		return handoff.MoveReport{}, x.stopIdle(ctx, o.Digest)
	case handoff.OrderWrite:
		return handoff.MoveReport{}, x.write(ctx, o.Schema)
	case handoff.OrderFloor:
		return handoff.MoveReport{}, x.raiseFloor(ctx, o.Schema)
	case handoff.OrderDryRun:
		return x.order(ctx, o, handoff.VerbDryRun)
	case handoff.OrderMove:
		return x.order(ctx, o, handoff.VerbMove)
	}
	return handoff.MoveReport{}, fmt.Errorf("order %q is not known here: the document is of a newer release", o.Kind)
}

// order has a worker move calls, or say which could. The answer is waited for as
// long as the worker lives: the order that a dead one had in hand is answered by
// nobody. What it has moved until then is counted where it is, and in no report.
func (x executor) order(ctx context.Context, o handoff.Order, verb string) (handoff.MoveReport, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	living, stop := context.WithCancel(ctx)
	defer stop()
	go whileAlive(living, x.dir, o.Source, func() { // who leaves in good order says goodbye before it answers
		select {
		case <-living.Done():
		case <-time.After(workerLimit):
			stop()
		}
	})
	r, err := ask[handoff.MoveReport](living, x.nats, sessions.SubjectControl(o.Source, verb), o.Move)
	switch {
	case err == nil:
		x.moves.add(verb, r)
	case living.Err() != nil && ctx.Err() == nil:
		return r, fmt.Errorf("%w: worker %s, with %s in hand", errDied, o.Source, o.Kind)
	}
	return r, err
}

// errDied: whoever had an order in hand is not heard of any more.
var errDied = errors.New("died")

// startWorkers runs as many workers of a release as the configuration says.
func (x executor) startWorkers(ctx context.Context, binary, digest string) error {
	for i := range x.cfg.Workers {
		name := fmt.Sprintf("%s%d", workerPrefix(digest), i+1)
		err := x.host.Start(ctx, workerSpec(x.cfg, name, binary))
		if err != nil && !errors.Is(err, host.ErrExists) {
			return err
		}
	}
	return nil
}

// workerPrefix begins the names of a release's workers at the host.
func workerPrefix(digest string) string { return "worker-" + digest[:12] + "-" }

// tooManyStarts is how often a new release's worker may end before it is ready.
const tooManyStarts = 3

// broken says why the workers of a release do not come up; "": they may.
func (x executor) broken(ctx context.Context, to handoff.Side) string {
	list, err := x.host.List(ctx)
	if err != nil {
		return ""
	}
	for _, c := range list.Children {
		if strings.HasPrefix(c.Spec.Name, workerPrefix(to.Digest)) && !c.Ready && c.Restarts >= tooManyStarts {
			return fmt.Sprintf("workers of %s end as soon as they start (%d times): the log of 'switch serve' says why", to.Release, c.Restarts)
		}
	}
	return ""
}

// stopIdle ends the workers of a release that own nothing, those too that the
// host starts in vain. A worker that still has calls (pinned, refused) is left
// alone, and one that does not answer; so are all of a release that a restart has
// put in force here since: the rollout would leave this host without a worker.
func (x executor) stopIdle(ctx context.Context, digest string) error {
	if r, _, err := handoff.ReadRollout(ctx, x.docs, nats.DocRollout); err != nil {
		return err
	} else if x.keepRelease(r).Digest == digest {
		return nil
	}
	calls := map[string]int{}
	askAll(ctx, x.backend, verbHealth, nil, func(p sessions.Process, h workerHealth) { calls[p.ID] = h.Calls })
	list, err := x.host.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range list.Children {
		if c.Spec.Role != "worker" || c.Hello.Digest != digest && !strings.HasPrefix(c.Spec.Name, workerPrefix(digest)) {
			continue
		}
		n, answers := calls[c.Hello.ID]
		if answers && n == 0 || !c.Ready {
			errs = append(errs, x.host.Stop(ctx, c.Spec.Name, 0))
		}
	}
	return errors.Join(errs...)
}
