package loadtest

import (
	"context"
	"sync"
	"testing"
	"time"
)

// kill -9 of the worker, or of the edge, in the moment in which both phones of
// 20 forked calls answer: each call ends up with one of them, the other hears
// CANCEL or BYE, and the sound of who has it loses nothing.
func TestKillUnderForksHalfAnswered(t *testing.T) {
	for _, role := range []string{RoleWorker, RoleEdge} {
		t.Run(role, func(t *testing.T) {
			b, _ := realSwitch(t, 1, nil)
			plan := b.rig.Dialplan()
			plan.Routes = append(plan.Routes, b.rig.forkRoute())
			if err := b.sw.plan(t.Context(), plan); err != nil {
				t.Fatal(err)
			}
			stage := newStage()
			calls := make([]*Call, 20)
			errs := make([]error, len(calls))
			var up, over sync.WaitGroup
			up.Add(len(calls))
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			for i := range calls {
				calls[i] = b.rig.NewFork(Mark{}, (*Leg).Ring)
				over.Go(func() {
					ringing := sync.OnceFunc(up.Done)
					defer ringing()
					errs[i] = playForkRace(ctx, calls[i], stage, ringing)
				})
				pause(ctx, 10*time.Millisecond)
			}
			up.Wait()
			p := b.only(t, role)
			stage.moving.set()
			pause(ctx, 150*time.Millisecond) // the middle of what midMove spreads
			if err := b.sw.Kill(p); err != nil {
				t.Fatal(err)
			}
			if _, err := b.sw.Successor(patient(t, time.Minute), role, p); err != nil {
				t.Fatal(err)
			}
			pause(ctx, 5*time.Second)
			stage.end.set()
			over.Wait()
			for i, c := range calls {
				for _, problem := range judge(c, errs[i], true) {
					t.Errorf("%s: %s", c.Number, problem)
				}
			}
			b.once(t, calls)
		})
	}
}
