package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"callswitch/handoff"
	"callswitch/nats"
	"callswitch/sessions"
)

// A worker that is killed with an order of a rollout in hand answers nobody: the
// rollout goes on, or back, as soon as its end is known.
func TestOrderEndsWithItsWorker(t *testing.T) {
	conn := embeddedNATS(t)
	b, _ := apiOf(t, conn)
	for kind, verb := range map[handoff.OrderKind]string{handoff.OrderMove: handoff.VerbMove, handoff.OrderDryRun: handoff.VerbDryRun} {
		t.Run(string(kind), func(t *testing.T) {
			source := sessions.Process{Role: "worker", Node: "n1", ID: "w-n1-" + verb}
			ctx, stop := context.WithCancel(t.Context())
			beats := make(chan struct{})
			go func() {
				defer close(beats)
				nats.Beat(ctx, conn, func() sessions.Process { return source })
			}()
			defer func() {
				stop()
				<-beats
			}()
			for !b.dir.Alive(source.ID) {
				time.Sleep(time.Millisecond)
			}
			asked := make(chan struct{}, 1)
			s, err := conn.Subscribe(sessions.SubjectControl(source.ID, verb), "", func(sessions.Msg) { asked <- struct{}{} })
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Unsubscribe() }()
			done := make(chan error, 1)
			go func() {
				r, err := executor{b}.Do(ctx, handoff.Order{Kind: kind, Source: source.ID, Move: handoff.MoveOrder{To: "w-n1-z", Count: 7}})
				if r.Asked+r.Moved+len(r.Refused)+r.Gone+r.Left != 0 {
					t.Errorf("%+v, of which nobody told", r)
				}
				done <- err
			}()
			<-asked
			b.dir.Exited(source.ID)
			select {
			case err := <-done:
				if !errors.Is(err, errDied) {
					t.Error(err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it waits for the dead")
			}
		})
	}
}
