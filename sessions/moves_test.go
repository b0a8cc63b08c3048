package sessions_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// adopt makes w the owner of the stored call, as handoff does.
func adopt(t *testing.T, r *rig, w *sessions.Runner, owner string) {
	t.Helper()
	if err := w.Reserve(theCall); err != nil {
		t.Fatal(err)
	}
	rec := steal(t, r, owner)
	state, err := codecore.Decode(rec.Schema, rec.Body)
	if err != nil {
		t.Fatal(err)
	}
	w.Adopt(rec, state)
}

func TestCrashedOwnersCallGoesOnWithItsSuccessor(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e, other := r.edge("edge.n1", "b1"), r.edge("edge.n2", "b1")
		_, crash := r.worker("w-1")
		other.setDeaf(true)
		e.invite(script{Act: []string{"edge.n2"}, Timer: "no-answer", In: time.Minute})
		d := e.delivery("INFO", toEdge)
		if _, err := e.try(sessions.SubjectCall(theCall), d); err != nil { // answer lost
			t.Fatal(err)
		}
		crash()
		other.setDeaf(false)
		w, _ := r.worker("w-2")
		adopt(t, r, w, "w-2")
		e.send(sessions.SubjectCall(theCall), d)
		wantDone(t, other, "1 INVITE")
		wantDone(t, e, "1 INFO")
		time.Sleep(2 * time.Minute)
		wantDone(t, e, "1 INFO", "2 fired no-answer")
		rec, _ := r.store.Get(t.Context(), theCall)
		if rec.Epoch != 2 || rec.Owner != "w-2" || rec.N != 4 {
			t.Errorf("record %d.%d of %s, want 2.4 of w-2", rec.Epoch, rec.N, rec.Owner)
		}
	})
}

func TestFrozenCallKeepsEventsAndTimers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		w, _ := r.worker("w-1")
		e.invite(script{Timer: "x", In: time.Second})
		_, mark, err := w.Snapshot(theCall)
		if err != nil {
			t.Fatal(err)
		}
		rec, same, err := w.Freeze(t.Context(), theCall, mark)
		if err != nil || !same || len(rec.Body) != 0 || rec.N != 1 {
			t.Fatalf("Freeze: %+v, %t, %v", rec, same, err)
		}
		if _, _, err := w.Freeze(t.Context(), theCall, mark); !errors.Is(err, sessions.ErrFrozen) {
			t.Errorf("a second Freeze: %v", err)
		}
		d := e.delivery("INFO", toEdge)
		if a, err := e.try(sessions.SubjectCall(theCall), d); err == nil {
			t.Errorf("a frozen call answered %+v", a)
		}
		time.Sleep(3 * time.Second)
		wantDone(t, e)
		w.Thaw(theCall)
		wantDone(t, e, "1 INFO", "2 fired x") // what waited comes first
		rec, same, err = w.Freeze(t.Context(), theCall, mark)
		if err != nil || same || len(rec.Body) == 0 {
			t.Errorf("Freeze of another state: same %t, %d bytes, %v", same, len(rec.Body), err)
		}
	})
}

func TestMoveByHand(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		s, _ := r.worker("w-1")
		w, _ := r.worker("w-2", func(c *sessions.Config) { c.Digest = "d2" })
		e.invite(script{})
		if _, _, err := s.Freeze(t.Context(), theCall, 0); err != nil {
			t.Fatal(err)
		}
		d := e.delivery("INFO", toEdge)
		data, _ := wire.Seal(d)
		_ = r.bus.Publish(sessions.SubjectCall(theCall), data)
		synctest.Wait()
		adopt(t, r, w, "w-2")
		if err := w.Reserve(theCall); !errors.Is(err, sessions.ErrOwned) {
			t.Errorf("Reserve of what is owned: %v", err)
		}
		waited := s.Drop(theCall)
		if len(waited) != 1 || string(waited[0].Data) != string(data) {
			t.Fatalf("waited: %d messages", len(waited))
		}
		_ = r.bus.Publish(waited[0].Subject, waited[0].Data)
		synctest.Wait()
		e.send(sessions.SubjectCall(theCall), d)
		wantDone(t, e, "1 INFO")
		if s.Len() != 0 || w.Len() != 1 || !slices.Equal(w.List(), []codecore.CallID{theCall}) {
			t.Errorf("held %d and %d", s.Len(), w.Len())
		}
		if err := s.Reserve(theCall); err != nil {
			t.Fatal(err)
		}
		s.Release(theCall)
		if n := count2(r.bus.Subjects(), sessions.SubjectCall(theCall)); n != 1 {
			t.Errorf("%d subscriptions to the call, want its owner's", n)
		}
	})
}

func count2(all []string, s string) (n int) {
	for _, a := range all {
		if a == s {
			n++
		}
	}
	return n
}

func TestFreezeGivesUpWhileTheStoreIsAway(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		w, _ := r.worker("w-1")
		e.invite(script{})
		r.store.SetAway(true)
		d := e.delivery("INFO", toEdge)
		if _, err := e.try(sessions.SubjectCall(theCall), d); err == nil {
			t.Fatal("answered without a save")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := w.Freeze(ctx, theCall, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Freeze: %v", err)
		}
		r.store.SetAway(false)
		e.send(sessions.SubjectCall(theCall), d)
		wantDone(t, e, "1 INFO")
	})
}

func TestStopLeavesTheRecord(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		_, stop := r.worker("w-1")
		e.invite(script{Timer: "x", In: time.Second})
		r.store.SetAway(true)
		data, _ := wire.Seal(e.delivery("INFO", toEdge))
		_ = r.bus.Publish(sessions.SubjectCall(theCall), data)
		synctest.Wait()
		stop() // with a save that waits
		time.Sleep(time.Minute)
		r.store.SetAway(false)
		rec, err := r.store.Get(t.Context(), theCall)
		if err != nil || rec.N != 1 || rec.Owner != "w-1" || rec.Tomb {
			t.Errorf("record %+v, %v", rec, err)
		}
		if got := r.bus.Subjects(); !slices.Equal(got, []string{"edge.n1.do"}) {
			t.Errorf("still subscribed: %q", got)
		}
		wantDone(t, e)
	})
}

func TestTwoWorkersGetOneInvite(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		one, _ := r.worker("w-1")
		two, _ := r.worker("w-2")
		d := e.delivery("INVITE", toEdge)
		for range 10 { // whoever is second passes it to the owner
			e.send(sessions.SubjectNew("d1"), d)
		}
		wantDone(t, e, "1 INVITE")
		if one.Len()+two.Len() != 1 || r.store.Puts() != 1 {
			t.Errorf("%d and %d calls, %d saves; want one of each", one.Len(), two.Len(), r.store.Puts())
		}
	})
}

func TestOrphan(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		_, crash := r.worker("w-1")
		e.invite(script{})
		crash()
		alive, claimed := true, 0
		var foreign codecore.CallID
		w, _ := r.worker("w-2", func(c *sessions.Config) {
			c.Foreign = func(id codecore.CallID) bool { return id == foreign }
			c.Alive = func(string) bool { return alive }
			c.Claim = func(codecore.CallID) { claimed++ }
		})
		d := e.delivery("BYE", script{End: true, Act: []string{"edge.n1"}})
		ask := func(d sessions.Delivery) sessions.Answer {
			t.Helper()
			data, _ := wire.Seal(sessions.Orphan{Delivery: d, Since: time.Now()})
			raw, err := r.bus.Request(t.Context(), sessions.SubjectOrphan, data)
			if err != nil {
				t.Fatal(err)
			}
			var a sessions.Answer
			_ = wire.Open(raw, &a)
			return a
		}
		if a := ask(d); a.Status != sessions.StatusLater || claimed != 0 {
			t.Errorf("owner alive: %+v, %d claims", a, claimed)
		}
		alive = false
		if a := ask(d); a.Status != sessions.StatusLater || claimed != 1 {
			t.Errorf("owner dead: %+v, %d claims", a, claimed)
		}
		adopt(t, r, w, "w-2")
		if a := ask(d); a.Status != sessions.StatusOK || len(a.Actions) != 1 {
			t.Errorf("owned here: %+v", a)
		}
		time.Sleep(3 * time.Second) // confirmed by Do, settled, a tombstone
		if w.Len() != 0 {
			t.Fatalf("%d calls held, want a tombstone only", w.Len())
		}
		if a := ask(d); a.Status != sessions.StatusOK || len(a.Actions) != 0 {
			t.Errorf("repeat of what was done: %+v", a)
		}
		late := e.delivery("BYE", script{})
		for range 2 {
			if a := ask(late); a.Status != sessions.StatusOK || len(a.Actions) != 1 || a.Actions[0].Seq != 0 {
				t.Errorf("a later event: %+v, want one lossy action each time", a)
			}
		}
		r.store.Expire(theCall)
		if a := ask(late); a.Status != sessions.StatusUnknown {
			t.Errorf("after the tombstone: %+v", a)
		}
		foreign = theCall // what answers to it is no call
		if a := ask(late); a.Status != sessions.StatusLater {
			t.Errorf("somebody else's: %+v", a)
		}
	})
}
