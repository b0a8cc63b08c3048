//go:build nextrelease

package sessions_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// A call at rest is written in the new schema although nobody says a word.
func TestRewriteRaisesCallsAtRest(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var floor atomic.Int64
		floor.Store(1)
		e := r.edge("edge.n1", "b1")
		w, _ := r.worker("w-1", func(c *sessions.Config) { c.Floor = func() int { return int(floor.Load()) } })
		e.invite(script{})
		if left := w.Rewrite(); left != 0 {
			t.Fatalf("%d calls under the floor of schema 1", left)
		}
		floor.Store(2)
		if left := w.Rewrite(); left != 1 {
			t.Fatalf("%d calls under the floor, want 1", left)
		}
		synctest.Wait()
		rec, err := r.store.Get(t.Context(), theCall)
		if err != nil || rec.Schema != 2 || rec.N != 2 || w.Rewrite() != 0 {
			t.Errorf("record of schema %d, n %d, %v; %d left", rec.Schema, rec.N, err, w.Rewrite())
		}
		if s, err := codecore.Decode(rec.Schema, rec.Body); err != nil || s.Phase != "talking" {
			t.Errorf("%q, %v", s.Phase, err)
		}
	})
}

// A save that waits for the store while the floor rises is written above it.
func TestSaveInDoubtIsWrittenAboveARisenFloor(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var floor atomic.Int64
		floor.Store(1)
		e := r.edge("edge.n1", "b1")
		w, _ := r.worker("w-1", func(c *sessions.Config) { c.Floor = func() int { return int(floor.Load()) } })
		e.invite(script{})
		away := true
		r.store.OnPut(func(sessions.Record) error {
			if away {
				return errors.New("away")
			}
			return nil
		})
		go e.try(sessions.SubjectCall(theCall), e.delivery("INFO", script{})) //nolint:errcheck // its answer is not the point
		synctest.Wait()
		floor.Store(2)
		away = false
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if rec, err := r.store.Get(t.Context(), theCall); err != nil || rec.N < 2 || rec.Schema != 2 {
			t.Errorf("record of schema %d, n %d, %v", rec.Schema, rec.N, err)
		}
		if left := w.Rewrite(); left != 0 {
			t.Errorf("%d left", left)
		}
	})
}
