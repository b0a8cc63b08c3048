package sessions_test

import (
	"testing"
	"testing/synctest"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// answered is the word of an edge that the far end has answered our BYE.
func (e *edge) answered() sessions.Delivery {
	d := e.delivery("BYE", script{})
	d.Event = codecore.Box(codecore.SIPResponse{At: time.Now(), Msg: codecore.Message{Method: "BYE", Status: 200}})
	return d
}

// TestTheLastAnswerIsSavedWithTheTombstone: three saves and no fourth, and the
// answer is not acknowledged before.
func TestTheLastAnswerIsSavedWithTheTombstone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e, m := r.edge("edge.n1", "b1"), r.media("n1")
		w, _ := r.worker("w-1")
		e.invite(script{Media: 4000})
		wantMedia(t, m, "1.1 4000")
		e.ask("BYE", bye)
		if a := e.send(sessions.SubjectCall(theCall), e.answered()); a.Status != sessions.StatusOK {
			t.Errorf("answered %q", a.Status)
		}
		rec, err := r.store.Get(t.Context(), theCall)
		if err != nil || !rec.Tomb || rec.N != 3 {
			t.Errorf("save %d, tomb %t, %v when acknowledged; want the tombstone as the third", rec.N, rec.Tomb, err)
		}
		wantMedia(t, m, "1.1 4000", "1.2 0")
		if n := len(r.store.CDRs()); n != 1 || w.Len() != 0 {
			t.Errorf("%d CDRs, %d held", n, w.Len())
		}
	})
}

// TestTheLastAnswerWaitsForNobodyLong: a media plane that is silent does not keep
// the sender until it asks again, and a repeat meanwhile is answered too, once.
func TestTheLastAnswerWaitsForNobodyLong(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e, m := r.edge("edge.n1", "b1"), r.media("n1")
		r.worker("w-1")
		e.invite(script{Media: 4000})
		wantMedia(t, m, "1.1 4000")
		m.mu.Lock()
		m.deaf = true
		m.mu.Unlock()
		e.ask("BYE", bye)
		began, d := time.Now(), e.answered()
		go func() {
			time.Sleep(20 * time.Millisecond)
			_, _ = e.try(sessions.SubjectCall(theCall), d)
		}()
		time.Sleep(30 * time.Millisecond)
		a := e.send(sessions.SubjectCall(theCall), d)
		if took := time.Since(began); a.Status != sessions.StatusOK || took > 150*time.Millisecond {
			t.Errorf("%q after %v", a.Status, took)
		}
		if rec, err := r.store.Get(t.Context(), theCall); err != nil || rec.Tomb || rec.N != 3 {
			t.Errorf("save %d, tomb %t, %v; want the third, a live call", rec.N, rec.Tomb, err)
		}
		time.Sleep(5 * time.Second)
	})
}

// TestTheLastAnswerMovesWithItsCall: what was put off is handed on.
func TestTheLastAnswerMovesWithItsCall(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e, m := r.edge("edge.n1", "b1"), r.media("n1")
		w, _ := r.worker("w-1")
		e.invite(script{Media: 4000})
		wantMedia(t, m, "1.1 4000")
		m.mu.Lock()
		m.deaf = true
		m.mu.Unlock()
		e.ask("BYE", bye)
		d := e.answered()
		go func() { _, _ = e.try(sessions.SubjectCall(theCall), d) }()
		synctest.Wait()
		if _, _, err := w.Freeze(t.Context(), theCall, 0); err != nil {
			t.Fatal(err)
		}
		if waited := w.Drop(theCall); len(waited) != 1 {
			t.Errorf("%d messages waited, want the answer", len(waited))
		}
		time.Sleep(5 * time.Second)
	})
}
