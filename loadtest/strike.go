package loadtest

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// phoneIP is where the rig's phone with an account calls from.
var phoneIP = netip.MustParseAddr("127.0.0.4")

// strike lets an event of the matrix happen to so many calls, and returns when it is over.
func (m *matrix) strike(ctx context.Context, event string, calls int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	switch event {
	case EventRelease:
		return m.thereAndBack(ctx)
	case EventWorker:
		return m.kill(ctx, RoleWorker, calls)
	case EventEdge:
		return m.kill(ctx, RoleEdge, calls)
	case EventInherit:
		return m.inherit(ctx, RoleEdge)
	case EventSound:
		return m.inherit(ctx, RoleMedia)
	}
	pause(ctx, time.Second)
	return nil
}

// thereAndBack moves every call to the next release and back.
func (m *matrix) thereAndBack(ctx context.Context) error {
	if _, err := m.bed.sw.API.StartRollout(ctx, RolloutStart{
		Binary: m.cfg.NextBinary, Steps: []int{50, 100}, Pause: "100ms", ConfirmWithin: "10m",
	}); err != nil {
		return err
	}
	if err := m.bed.rollout(ctx, RolloutDone); err != nil {
		return err
	}
	if _, err := m.bed.sw.API.Steer(ctx, "undo", Steer{Steps: []int{50, 100}}); err != nil {
		return err
	}
	return m.bed.rollout(ctx, RolloutRolledBack)
}

// inherit replaces the process of a role by its like, by the next release, and by the
// first one again.
func (m *matrix) inherit(ctx context.Context, role string) error {
	for _, binary := range []string{"", m.cfg.NextBinary, m.cfg.SwitchBinary} {
		if err := m.bed.sw.API.Inherit(ctx, role, binary); err != nil {
			return err
		}
		pause(ctx, 500*time.Millisecond)
	}
	return nil
}

// rollout waits for a state, in which nothing was refused.
func (b *bed) rollout(ctx context.Context, state string) error {
	for {
		r, err := b.sw.API.Rollout(ctx)
		switch {
		case err == nil && r.State == state && len(r.Refusals) > 0:
			return fmt.Errorf("loadtest: %d calls were refused: %+v", len(r.Refusals), r.Refusals[0])
		case err == nil && r.State == state:
			return nil
		case err == nil && (r.State == RolloutFailed || r.State == RolloutRolledBack):
			return fmt.Errorf("loadtest: rollout %s: %s", r.State, r.Error)
		}
		if !pause(ctx, 15*time.Millisecond) {
			return fmt.Errorf("loadtest: the rollout is not %s: %+v %w", state, r, err)
		}
	}
}

// kill is kill -9 of the only process of a role; over when its successor has
// what it had.
func (m *matrix) kill(ctx context.Context, role string, n int) error {
	ps, err := m.bed.sw.Find(ctx, role)
	if err != nil {
		return err
	}
	if err := m.bed.sw.Kill(ps[0]); err != nil {
		return err
	}
	if _, err := m.bed.sw.Successor(ctx, role, ps[0]); err != nil {
		return err
	}
	for role == RoleWorker {
		calls, err := m.bed.sw.API.Calls(ctx)
		theirs := 0
		for _, c := range calls {
			if c.Owner == ps[0].ID {
				theirs++
			}
		}
		if err == nil && len(calls) == n && theirs == 0 {
			return nil
		}
		if !pause(ctx, 5*time.Millisecond) {
			return fmt.Errorf("loadtest: %d of %d calls, %d still of the dead worker: %w", len(calls), n, theirs, ctx.Err())
		}
	}
	pause(ctx, 500*time.Millisecond) // what was told to the dead edge is told again
	return nil
}
