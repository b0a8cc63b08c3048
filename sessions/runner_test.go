package sessions_test

import (
	"errors"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

var toEdge = script{Act: []string{"edge.n1"}}

func TestSavedBeforeAnybodyHears(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e, other := r.edge("edge.n1", "b1"), r.edge("edge.n2", "b1")
		r.worker("w-1")
		var before []string
		r.store.OnPut(func(rec sessions.Record) error {
			before = append(before, slices.Concat(e.performed(), other.performed())...)
			return nil
		})
		if a := e.invite(script{Act: []string{"edge.n1", "edge.n2"}, Lossy: []string{"edge.n2"}}); a.Status != sessions.StatusOK {
			t.Fatalf("answer %+v", a)
		}
		wantDone(t, e, "1 INVITE")
		wantDone(t, other, "0 INVITE", "1 INVITE")
		if len(before) != 0 {
			t.Errorf("performed before the save: %q", before)
		}
		rec, err := r.store.Get(t.Context(), theCall)
		if err != nil || rec.Owner != "w-1" || rec.Epoch != 1 || rec.N != 1 || rec.Release != "r1" {
			t.Errorf("record %+v, %v", rec, err)
		}
	})
}

func TestRepeatIsAnsweredAgainNotSteppedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		r.worker("w-1")
		e.invite(script{})
		d := e.delivery("INFO", toEdge)
		first, err := e.try(sessions.SubjectCall(theCall), d) // its answer gets lost: not taken
		if err != nil || len(first.Actions) != 1 {
			t.Fatalf("first answer %+v, %v", first, err)
		}
		saves := r.store.Puts()
		again := e.send(sessions.SubjectCall(theCall), d)
		if len(again.Actions) != 1 || again.Actions[0].Seq != 1 {
			t.Errorf("repeat answered %+v, want the action of the first", again)
		}
		if got := r.store.Puts(); got != saves {
			t.Errorf("a repeat was saved (%d saves)", got-saves)
		}
		e.confirm()
		if a := e.send(sessions.SubjectCall(theCall), d); len(a.Actions) != 0 {
			t.Errorf("after the confirmation the repeat carries %+v", a.Actions)
		}
		wantDone(t, e, "1 INFO")
	})
}

// What an answer has that is not pending is said again to who asks again, and to nobody
// once the sender has gone on.
func TestARepeatIsToldWhatItHasNotHeard(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		r.worker("w-1")
		e.invite(script{})
		for _, do := range []script{{Lossy: []string{"edge.n1"}}, {Lossy: []string{"edge.n1"}, NoSave: true}, {Panic: true}} {
			d := e.delivery("INFO", do)
			first, err := e.try(sessions.SubjectCall(theCall), d) // its answer comes too late
			if err != nil || len(first.Actions) != len(do.Lossy) || do.Panic != (first.Status == sessions.StatusFailed) {
				t.Fatalf("first answer %+v, %v", first, err)
			}
			if again, err := e.try(sessions.SubjectCall(theCall), d); err != nil || !reflect.DeepEqual(again, first) {
				t.Errorf("the repeat is told %+v, %v; want %+v", again, err, first)
			}
			e.ask("INFO", script{})
			if late, err := e.try(sessions.SubjectCall(theCall), d); err != nil || len(late.Actions) != 0 || late.Status != sessions.StatusOK {
				t.Errorf("a repeat that is over is told %+v, %v", late, err)
			}
		}
	})
}

// An event that comes without anybody waiting, as a former owner passes it on, has its
// lossy actions sent one way, once.
func TestWhatWasSentOneWayIsNotToldAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		r.worker("w-1")
		e.invite(script{})
		d := e.delivery("INFO", script{Lossy: []string{"edge.n1"}})
		data, err := wire.Seal(d)
		if err == nil {
			err = r.bus.Publish(sessions.SubjectCall(theCall), data)
		}
		if err != nil {
			t.Fatal(err)
		}
		wantDone(t, e, "0 INFO")
		e.send(sessions.SubjectCall(theCall), d)
		wantDone(t, e, "0 INFO")
	})
}

func TestOlderIncarnationIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b2")
		r.worker("w-1")
		e.invite(script{})
		old := e.delivery("BYE", toEdge)
		old.Boot = "b1"
		if a, err := e.try(sessions.SubjectCall(theCall), old); err != nil || a.Status != sessions.StatusRefused {
			t.Errorf("answer %+v, %v; want refused", a, err)
		}
	})
}

func TestUnconfirmedActionsAreSentAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		r.worker("w-1")
		e.invite(script{})
		if _, err := e.try(sessions.SubjectCall(theCall), e.delivery("INFO", toEdge)); err != nil {
			t.Fatal(err)
		}
		wantDone(t, e) // the answer was lost, and the edge lost the event too
		time.Sleep(2 * time.Second)
		wantDone(t, e, "1 INFO")
	})
}

func TestDeafReceiverIsAskedAgainWithBackOff(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e, other := r.edge("edge.n1", "b1"), r.edge("edge.n2", "b1")
		r.worker("w-1")
		other.setDeaf(true)
		e.invite(script{Act: []string{"edge.n2"}})
		sent := r.bus.Sent()
		time.Sleep(30 * time.Second)
		if n := r.bus.Sent() - sent; n < 10 || n > 40 {
			t.Errorf("%d messages in 30 s, want about one per second and time-out", n)
		}
		other.setDeaf(false)
		time.Sleep(2 * time.Second)
		wantDone(t, other, "1 INVITE")
		if r.resent.get() == 0 {
			t.Error("re-sends are not counted")
		}
	})
}

func TestRestartedReceiverGetsAllPendingFromTheFirst(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e, other := r.edge("edge.n1", "b1"), r.edge("edge.n2", "b1")
		w, _ := r.worker("w-1")
		w.SetStep(lasting)
		e.invite(script{Act: []string{"edge.n2"}}) // 1, taken, and not over by it
		synctest.Wait()
		other.setDeaf(true)
		e.ask("INFO", script{Act: []string{"edge.n2"}})
		e.ask("INFO", script{Act: []string{"edge.n2"}})
		time.Sleep(5 * time.Second)
		other.restart("b2")
		other.setDeaf(false)
		sent := time.Now()
		other.announce()
		synctest.Wait()
		if took := time.Since(sent); took != 0 {
			t.Errorf("took %v after the announcement", took)
		}
		time.Sleep(3 * time.Second)
		wantDone(t, other, "1 INVITE", "1 INVITE", "2 INFO", "3 INFO")
		// Not announced: a gap tells it.
		other.restart("b3")
		e.ask("INFO", script{Act: []string{"edge.n2"}})
		time.Sleep(3 * time.Second)
		wantDone(t, other, "1 INVITE", "1 INVITE", "2 INFO", "3 INFO", "1 INVITE", "2 INFO", "3 INFO", "4 INFO")
		if other.gaps == 0 {
			t.Error("no gap seen: the test shows nothing")
		}
	})
}

// lasting is toyStep with actions that outlive their acceptance, as a request
// does that awaits its response: only then can a receiver miss any.
func lasting(s codecore.State, now time.Time, ev codecore.Event) (codecore.State, codecore.Result) {
	pending := s.Pending
	s, res := toyStep(s, now, ev)
	if _, ok := ev.(codecore.Accepted); ok {
		s.Pending = pending
	}
	return s, res
}

func TestStoreAway(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		r.worker("w-1")
		e.invite(script{})
		r.store.SetAway(true)
		d := e.delivery("BYE", script{Act: []string{"edge.n1"}})
		for range 5 {
			if a, err := e.try(sessions.SubjectCall(theCall), d); !errors.Is(err, sessions.ErrTimeout) {
				t.Fatalf("answered without a save: %+v, %v", a, err)
			}
		}
		stranger := e.delivery("INVITE", script{})
		stranger.Call = "another"
		if a, err := e.try(sessions.SubjectNew("d1"), stranger); err != nil || a.Status != sessions.StatusLater {
			t.Errorf("a new call: %+v, %v; want later", a, err)
		}
		wantDone(t, e)
		r.store.SetAway(false)
		e.send(sessions.SubjectCall(theCall), d)
		wantDone(t, e, "1 BYE")
		rec, _ := r.store.Get(t.Context(), theCall)
		if rec.N != 2 {
			t.Errorf("n = %d, want 2: no gaps, and the repeats are one event", rec.N)
		}
	})
}

func TestStoreFullRefusesNewCallsOnly(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		w, _ := r.worker("w-1")
		e.invite(script{})
		r.store.SetFull(true)
		e.ask("INFO", toEdge)
		d := e.delivery("INVITE", script{})
		d.Call = "another"
		if a, err := e.try(sessions.SubjectNew("d1"), d); err != nil || a.Status != sessions.StatusRefused || a.Code != 503 || a.After == 0 {
			t.Errorf("answer %+v, %v; want 503 with Retry-After", a, err)
		}
		if got := w.Len(); got != 1 {
			t.Errorf("%d calls held, want 1", got)
		}
	})
}

// A record that no store takes costs the event that made it, not the calls to come.
func TestRecordTooLargeCostsItsEventAlone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		r.worker("w-1")
		e.invite(script{})
		r.store.OnPut(func(rec sessions.Record) error {
			if rec.ID == theCall {
				return sessions.ErrTooLarge
			}
			return nil
		})
		if a := e.ask("INFO", toEdge); a.Status != sessions.StatusFailed {
			t.Errorf("answer %+v, want failed", a)
		}
		stranger := e.delivery("INVITE", script{})
		stranger.Call = "another"
		if a, err := e.try(sessions.SubjectNew("d1"), stranger); err != nil || a.Status != sessions.StatusOK {
			t.Errorf("a new call: %+v, %v", a, err)
		}
		r.store.OnPut(nil)
		e.ask("INFO", toEdge)
		wantDone(t, e, "1 INFO")
		if rec, _ := r.store.Get(t.Context(), theCall); rec.N != 2 {
			t.Errorf("n = %d, want 2: what could not be saved left nothing", rec.N)
		}
	})
}

func TestConflictDropsTheCallSilently(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		w, _ := r.worker("w-1")
		e.invite(script{Timer: "x", In: time.Minute})
		steal(t, r, "w-2")
		d := e.delivery("BYE", script{Act: []string{"edge.n1", "edge.n2"}, CDR: true})
		if a, err := e.try(sessions.SubjectCall(theCall), d); err == nil {
			t.Errorf("a dethroned owner answered %+v", a)
		}
		if w.Len() != 0 {
			t.Error("held until something else says that it is lost")
		}
		time.Sleep(2 * time.Minute)
		wantDone(t, e)
		if w.Len() != 0 || len(r.store.CDRs()) != 0 || r.lost.get() != 1 {
			t.Errorf("held %d, CDRs %d, lost %d", w.Len(), len(r.store.CDRs()), r.lost.get())
		}
	})
}

// steal makes another worker the owner in the store.
func steal(t *testing.T, r *rig, owner string) sessions.Record {
	t.Helper()
	rec, err := r.store.Get(t.Context(), theCall)
	if err != nil {
		t.Fatal(err)
	}
	rec.Owner, rec.N, rec.Epoch = owner, rec.N+1, rec.Epoch+1
	if rec.Rev, err = r.store.Put(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	return rec
}

func TestDethronedByNoticeAndByReading(t *testing.T) {
	for _, how := range []string{"notice", "reconnect", "tick"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				e := r.edge("edge.n1", "b1")
				w, _ := r.worker("w-1")
				e.invite(script{})
				notice, _ := wire.Seal(map[string]any{"by": "w-2", "calls": []codecore.CallID{theCall, "x"}})
				_ = r.bus.Publish(sessions.SubjectControl("w-1", "dethroned"), notice)
				synctest.Wait()
				if w.Len() != 1 {
					t.Fatal("dropped on hearsay: the record says that it is still ours")
				}
				steal(t, r, "w-2")
				switch how {
				case "notice":
					_ = r.bus.Publish(sessions.SubjectControl("w-1", "dethroned"), notice)
				case "reconnect":
					r.bus.Cut()
					r.bus.Restore()
				case "tick":
					time.Sleep(31 * time.Second)
				}
				synctest.Wait()
				if w.Len() != 0 {
					t.Error("a call of another owner is still held")
				}
			})
		})
	}
}

func TestPanicLeavesTheOldState(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		w, _ := r.worker("w-1")
		e.invite(script{})
		d := e.delivery("INFO", script{Panic: true})
		if a := e.send(sessions.SubjectCall(theCall), d); a.Status != sessions.StatusFailed {
			t.Errorf("answer %+v, want failed", a)
		}
		if a := e.send(sessions.SubjectCall(theCall), d); a.Status != sessions.StatusFailed || r.panic.get() != 1 {
			t.Errorf("its repeat: %+v, %d panics; want it not stepped again", a, r.panic.get())
		}
		if got := w.Phases(); got["talking"] != 1 {
			t.Errorf("phases %v, want the old state", got)
		}
		e.ask("INFO", toEdge)
		wantDone(t, e, "1 INFO")
		fresh := e.delivery("INVITE", script{Panic: true})
		fresh.Call = "another"
		if a := e.send(sessions.SubjectNew("d1"), fresh); a.Status != sessions.StatusFailed || w.Len() != 1 {
			t.Errorf("a new call's panic: %+v, %d held", a, w.Len())
		}
	})
}

func TestIdleCallHasNoGoroutine(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		w, _ := r.worker("w-1")
		synctest.Wait()
		before := runtime.NumGoroutine()
		const calls = 100
		for i := range calls {
			d := e.delivery("INVITE", script{Timer: "max", In: time.Hour, Act: []string{"edge.n2"}})
			d.Call = codecore.CallID("c" + string(rune('a'+i/26)) + string(rune('a'+i%26)))
			d.Accepted = 0
			e.send(sessions.SubjectNew("d1"), d)
		}
		synctest.Wait()
		if n := runtime.NumGoroutine(); n > before+sessions.IdleTasks {
			t.Errorf("%d goroutines more for %d idle calls", n-before, w.Len())
		}
		if w.Len() != calls {
			t.Errorf("%d calls, want %d", w.Len(), calls)
		}
	})
}

func TestFloodOfOneCallIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		r.worker("w-1", func(c *sessions.Config) { c.MaxQueue = 4 })
		e.invite(script{})
		r.store.SetAway(true)
		later := 0
		for range 10 {
			data, _ := wire.Seal(e.delivery("INFO", script{}))
			answers := make(chan string, 1)
			sub, _ := r.bus.Subscribe("flood", "", func(m sessions.Msg) {
				var a sessions.Answer
				_ = wire.Open(m.Data, &a)
				answers <- a.Status
			})
			_ = r.bus.PublishReply(sessions.SubjectCall(theCall), "flood", data)
			synctest.Wait()
			select {
			case s := <-answers:
				if s == sessions.StatusLater {
					later++
				}
			default:
			}
			_ = sub.Unsubscribe()
		}
		if later != 5 { // one in hand, four wait
			t.Errorf("%d of 10 put off, want 5", later)
		}
		r.store.SetAway(false)
		big := make([]byte, 300<<10)
		_ = r.bus.Publish(sessions.SubjectCall(theCall), big)
		_ = r.bus.Publish(sessions.SubjectNew("d1"), []byte("garbage"))
		_ = r.bus.Publish(sessions.SubjectCall(theCall), []byte{1, 1, '{', '}'})
		synctest.Wait()
		if r.bad.get() < 8 {
			t.Errorf("%d bad messages counted, want 8", r.bad.get())
		}
	})
}

func TestAdmission(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		w, _ := r.worker("w-1", func(c *sessions.Config) {
			c.Admit = func() (bool, string, int) { return false, "calls-out", 7 }
		})
		if a := e.invite(script{}); a.Status != sessions.StatusRefused || a.Reason != "calls-out" || a.After != 7 {
			t.Errorf("answer %+v", a)
		}
		w.Drain()
		if _, err := e.try(sessions.SubjectNew("d1"), e.delivery("INVITE", script{})); !errors.Is(err, sessions.ErrNoResponders) {
			t.Errorf("draining: %v, want nobody to listen", err)
		}
	})
}

func TestStepCannotBeForgedFromOutside(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		w, _ := r.worker("w-1")
		r.store.SetAway(false)
		e.invite(script{Timer: "x", In: time.Hour})
		for _, ev := range []codecore.Event{
			codecore.Fired{Timer: "x"},
			codecore.MediaApplied{},
			codecore.Allocated{},
			codecore.Accepted{To: "cdr", Seq: 1},
		} {
			d := e.delivery("", script{})
			d.Event = codecore.Box(ev)
			if a := e.send(sessions.SubjectCall(theCall), d); a.Status != sessions.StatusRefused {
				t.Errorf("%T from outside: %+v", ev, a)
			}
		}
		wantDone(t, e)
		if got := w.Len(); got != 1 {
			t.Errorf("%d calls", got)
		}
	})
}
