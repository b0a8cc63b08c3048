package sessions_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
	"callswitch/sessions/sessionstest"
)

// media is a media plane that does as it is told.
type media struct {
	mu     sync.Mutex
	gen    codecore.Generation
	seen   []string // "1.2 4000"
	reason string
	deaf   bool
}

func (r *rig) media(node string) *media {
	r.t.Helper()
	m := &media{}
	for subject, h := range map[string]func(sessions.Msg){
		sessions.SubjectDo("media." + node): func(msg sessions.Msg) {
			var do sessions.DoMedia
			_ = wire.Open(msg.Data, &do)
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.deaf {
				return
			}
			if do.Gen.Newer(m.gen) {
				m.gen = do.Gen
				port := 0
				if len(do.Media.Legs) > 0 {
					port = do.Media.Legs[0].Port
				}
				m.seen = append(m.seen, fmt.Sprintf("%d.%d %d", do.Gen.Epoch, do.Gen.N, port))
			}
			data, _ := wire.Seal(sessions.MediaDone{Boot: "m1", Gen: m.gen, Reason: m.reason})
			_ = r.bus.Publish(msg.Reply, data)
		},
		sessions.SubjectAlloc("media." + node): func(msg sessions.Msg) {
			data, _ := wire.Seal(codecore.Allocated{Node: node})
			_ = r.bus.Publish(msg.Reply, data)
		},
	} {
		if _, err := r.bus.Subscribe(subject, "", h); err != nil {
			r.t.Fatal(err)
		}
	}
	return m
}

func (m *media) set(f func()) { m.mu.Lock(); f(); m.mu.Unlock() }

func wantMedia(t *testing.T, m *media, want ...string) {
	t.Helper()
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Equal(m.seen, want) {
		t.Errorf("media saw %q, want %q", m.seen, want)
	}
}

func TestMediaIsBroughtToTheDesiredState(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e, m := r.edge("edge.n1", "b1"), r.media("n1")
		w, crash := r.worker("w-1")
		e.invite(script{Media: 4000})
		wantMedia(t, m, "1.1 4000")
		e.ask("INFO", script{})
		wantMedia(t, m, "1.1 4000")
		m.set(func() { m.deaf = true })
		e.ask("INFO", script{Media: 4002})
		e.ask("INFO", script{Media: 4004})
		time.Sleep(5 * time.Second)
		m.set(func() { m.deaf = false })
		time.Sleep(5 * time.Second)
		wantMedia(t, m, "1.1 4000", "1.4 4004")
		sent := r.bus.Sent()
		time.Sleep(time.Minute)
		if n := r.bus.Sent() - sent; n != 0 {
			t.Errorf("%d messages for a settled call", n)
		}
		_ = w
		crash()
		successor, _ := r.worker("w-2")
		adopt(t, r, successor, "w-2") // the confirmation was in w-1's memory only
		wantMedia(t, m, "1.1 4000", "1.4 4004", "2.5 4004")
	})
}

func TestAllocationPrecedesTheSave(t *testing.T) {
	for _, there := range []bool{true, false} {
		t.Run(fmt.Sprint("media there ", there), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				e := r.edge("edge.n1", "b1")
				want := "1 allocated media-away"
				if there {
					r.media("n1")
					want = "1 allocated "
				}
				r.worker("w-1")
				e.invite(script{Alloc: true})
				wantDone(t, e, want)
				if r.store.Puts() != 1 {
					t.Errorf("%d saves, want the outcome's only", r.store.Puts())
				}
			})
		})
	}
}

func TestTombstoneOnlyWhenSettled(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e, other, m := r.edge("edge.n1", "b1"), r.edge("edge.n2", "b1"), r.media("n1")
		w, _ := r.worker("w-1")
		e.invite(script{Media: 4000})
		wantMedia(t, m, "1.1 4000")
		other.setDeaf(true)
		m.set(func() { m.deaf = true })
		e.ask("BYE", script{End: true, CDR: true, Media: -1, Act: []string{"edge.n1", "edge.n2"}})
		e.confirm()
		tomb := func() bool {
			synctest.Wait()
			rec, err := r.store.Get(t.Context(), theCall)
			return err == nil && rec.Tomb
		}
		time.Sleep(5 * time.Second)
		if tomb() {
			t.Error("tombstone with actions pending")
		}
		other.setDeaf(false)
		time.Sleep(5 * time.Second)
		if tomb() {
			t.Error("tombstone with media not freed")
		}
		m.set(func() { m.deaf = false })
		time.Sleep(5 * time.Second)
		if !tomb() || w.Len() != 0 {
			t.Errorf("tomb %t, %d held", tomb(), w.Len())
		}
		if got := r.store.CDRs(); len(got) != 1 {
			t.Errorf("%d CDRs", len(got))
		}
		if slices.Contains(r.bus.Subjects(), sessions.SubjectCall(theCall)) {
			t.Error("still subscribed to an ended call")
		}
		wantMedia(t, m, "1.1 4000", "1.2 0")
	})
}

func TestEndedCallDoesNotWaitForMediaForEver(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		w, _ := r.worker("w-1")
		e.invite(script{Media: 4000})
		e.ask("BYE", script{End: true, Media: -1})
		time.Sleep(50 * time.Second)
		if w.Len() != 1 {
			t.Fatal("gave up too early")
		}
		time.Sleep(20 * time.Second)
		if w.Len() != 0 {
			t.Error("an ended call is held for ever")
		}
	})
}

func TestHangUpAllWritesCDRs(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		w, _ := r.worker("w-1")
		e.invite(script{Timer: "x", In: time.Hour})
		if n := w.HangUpAll("shutdown"); n != 1 {
			t.Errorf("%d calls told", n)
		}
		time.Sleep(time.Second)
		if w.Len() != 0 || len(r.store.CDRs()) != 1 {
			t.Errorf("%d held, %d CDRs", w.Len(), len(r.store.CDRs()))
		}
		if len(r.store.Story(theCall)) < 2 {
			t.Errorf("story %+v", r.store.Story(theCall))
		}
	})
}

// TestLossyBus sends a long conversation over a bus that loses, doubles and
// swaps, with a store that goes away, an owner that crashes and one that does
// not know that it is none: every action is performed once, in order.
func TestLossyBus(t *testing.T) {
	for seed := range uint64(20) {
		bubble(t, func(t *testing.T, r *rig) {
			r.bus = sessionstest.NewBus(seed)
			e, other := r.edge("edge.n1", "b1"), r.edge("edge.n2", "b1")
			_, crash := r.worker("w-1")
			r.bus.SetFaults(sessionstest.Faults{Lose: 0.2, Duplicate: 0.2, Reorder: 0.2})
			both := script{Act: []string{"edge.n1", "edge.n2"}}
			e.invite(both)
			var want []string
			want = append(want, "1 INVITE")
			for i := 2; i <= 20; i++ {
				switch i {
				case 5:
					r.store.SetAway(true)
					time.AfterFunc(3*time.Second, func() { r.store.SetAway(false) })
				case 10:
					crash()
					w, _ := r.worker("w-2")
					adopt(t, r, w, "w-2")
				case 15: // w-2 is not told: its next save tells it
					w, _ := r.worker("w-3")
					adopt(t, r, w, "w-3")
				}
				e.ask("INFO", both)
				want = append(want, fmt.Sprintf("%d INFO", i))
			}
			time.Sleep(time.Minute)
			wantDone(t, e, want...)
			wantDone(t, other, want...)
		})
	}
}
