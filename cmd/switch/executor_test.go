package main

import (
	"errors"
	"testing"
	"time"

	"callswitch/handoff"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// A worker that is killed with an order of a rollout in hand answers nobody: the
// rollout goes on, or back, as soon as its end is known.
func TestOrderEndsWithItsWorker(t *testing.T) {
	conn := embeddedNATS(t)
	b, _ := apiOf(t, conn)
	for kind, verb := range map[handoff.OrderKind]string{handoff.OrderMove: handoff.VerbMove, handoff.OrderDryRun: handoff.VerbDryRun} {
		t.Run(string(kind), func(t *testing.T) {
			source := beating(t, conn, b, sessions.Process{Role: "worker", Node: "n1", ID: "w-n1-" + verb})
			asked := make(chan struct{}, 1)
			s, err := conn.Subscribe(sessions.SubjectControl(source, verb), "", func(sessions.Msg) { asked <- struct{}{} })
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Unsubscribe() }()
			done := make(chan error, 1)
			go func() {
				r, err := executor{b}.Do(t.Context(), handoff.Order{Kind: kind, Source: source, Move: handoff.MoveOrder{To: "w-n1-z", Count: 7}})
				if r.Asked+r.Moved+len(r.Refused)+r.Gone+r.Left != 0 {
					t.Errorf("%+v, of which nobody told", r)
				}
				done <- err
			}()
			select {
			case <-asked:
			case err := <-done:
				t.Fatal("it was not asked: ", err)
			}
			b.dir.Exited(source)
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

// A worker that leaves in good order says goodbye, and then what it has moved.
func TestLastReportOfAWorkerThatLeavesCounts(t *testing.T) {
	conn := embeddedNATS(t)
	b, _ := apiOf(t, conn)
	b.moves = new(moveTally)
	source := beating(t, conn, b, sessions.Process{Role: "worker", Node: "n1", ID: "w-n1-a"})
	s, err := conn.Subscribe(sessions.SubjectControl(source, handoff.VerbMove), "", func(m sessions.Msg) {
		b.dir.Exited(source)
		time.Sleep(200 * time.Millisecond) // nothing may come of what is seen meanwhile: no event tells of that
		data, err := wire.Seal(handoff.MoveReport{Asked: 7, Moved: 7})
		if err == nil {
			err = conn.Publish(m.Reply, data)
		}
		if err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Unsubscribe() }()
	r, err := executor{b}.Do(t.Context(), handoff.Order{Kind: handoff.OrderMove, Source: source, Move: handoff.MoveOrder{To: "w-n1-z", Count: 7}})
	if err != nil || r.Moved != 7 {
		t.Errorf("%+v, %v", r, err)
	}
}
