package sessions_test

import (
	"testing"
	"testing/synctest"
	"time"

	"callswitch/sessions"
)

const gather = 50 * time.Millisecond // Config.Gather by default

var bye = script{End: true, CDR: true, Media: -1, Act: []string{"edge.n1"}}

// TestWhatNobodyWaitsForIsGathered: the CDR and the freeing of the ports come at
// the end of an interval that is the same for all calls, not with the BYE.
func TestWhatNobodyWaitsForIsGathered(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e, m := r.edge("edge.n1", "b1"), r.media("n1")
		w, _ := r.worker("w-1")
		e.invite(script{Media: 4000})
		wantMedia(t, m, "1.1 4000") // an order that somebody hears is not put off
		end := time.Now().Truncate(gather).Add(gather)
		time.Sleep(time.Until(end) + gather/2)
		e.ask("BYE", bye)
		wantDone(t, e, "1 BYE")
		if n := len(r.store.CDRs()); n != 0 {
			t.Errorf("%d CDRs at once", n)
		}
		wantMedia(t, m, "1.1 4000")
		e.confirm()
		sent := r.bus.Sent()
		time.Sleep(time.Until(end.Add(gather)))
		synctest.Wait()
		if n := len(r.store.CDRs()); n != 1 {
			t.Errorf("%d CDRs at the end of the interval", n)
		}
		wantMedia(t, m, "1.1 4000", "1.2 0")
		if n := r.bus.Sent() - sent; n != 2 {
			t.Errorf("%d messages, want an order and its answer", n)
		}
		if rec, err := r.store.Get(t.Context(), theCall); err != nil || !rec.Tomb || w.Len() != 0 {
			t.Errorf("tomb %t, %v, %d held", rec.Tomb, err, w.Len())
		}
	})
}

// TestAWorkerThatDiesWithGatheredWorkLosesNone: what waits is in the record.
func TestAWorkerThatDiesWithGatheredWorkLosesNone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e, m := r.edge("edge.n1", "b1"), r.media("n1")
		long := func(c *sessions.Config) { c.Gather = time.Hour }
		_, crash := r.worker("w-1", long)
		e.invite(script{Media: 4000})
		wantMedia(t, m, "1.1 4000")
		e.ask("BYE", bye)
		crash()
		w, _ := r.worker("w-2")
		adopt(t, r, w, "w-2")
		synctest.Wait()
		if n := len(r.store.CDRs()); n != 1 || w.Len() != 0 {
			t.Errorf("%d CDRs, %d held", n, w.Len())
		}
		wantMedia(t, m, "1.1 4000", "2.3 0")
	})
}
