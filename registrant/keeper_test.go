package registrant

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"callswitch/codecore"
	"callswitch/sessions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const soon = 3 * time.Second

func TestRegistersAndRefreshes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.password = "n1"
		w.worker("w1", "d1", Form)
		w.after(soon, "1, 2 n1/1")
		w.after(250*time.Second, "3 n1/2")
		w.set(planOf(2))
		w.after(soon, "4 leave n1/3")
		if _, there := w.shelf.record(); there || len(w.bus.Subjects()) != 1 {
			t.Errorf("left: %v, subjects %v", there, w.bus.Subjects())
		}
		w.after(time.Hour, "")
	})
}

func TestNoPlanIsNoOrder(t *testing.T) {
	inWorld(t, func(w *world) {
		w.worker("w1", "d1", Form)
		w.after(soon, "1")
		w.set(&codecore.Plan{})
		w.kill("w1")
		w.worker("w2", "d1", Form) // its plan has not been read
		w.after(2*soon, "")
		w.set(plan1)
		w.after(soon, "")
		if w.owner() != "w2" {
			t.Errorf("owner %s", w.owner())
		}
	})
}

// One owner among several, taken over at its death without being sent again;
// only what is due is.
func TestTakeover(t *testing.T) {
	inWorld(t, func(w *world) {
		ids := []string{"w1", "w2", "w3"}
		for _, id := range ids {
			w.worker(id, "d1", Form)
		}
		w.after(soon, "1")
		for i := range 2 {
			first := w.owner()
			w.kill(first)
			w.after(10*time.Millisecond, "")
			if next := w.owner(); next == first || !slices.Contains(ids, next) {
				t.Fatalf("owner %q after %q", next, first)
			}
			w.after(250*time.Second, fmt.Sprint(2+i))
		}
		if w.lapsed {
			t.Error("the binding lapsed")
		}
	})
}

// A worker dies after its k-th save and before it acts; whoever comes next
// repeats what was decided. The registrar never sees a number twice but as a
// retransmission, and never a gap in the binding.
func TestDeathAfterEverySave(t *testing.T) {
	for k := 1; k <= 12; k++ {
		inWorld(t, func(w *world) {
			w.password = "n1"
			n, workers := 0, 1
			died := make(chan string, 2)
			w.shelf.after = func(r Record) {
				if n++; n == k || n == k+1 { // the successor too
					died <- r.Owner
					runtime.Goexit()
				}
			}
			w.worker("w1", "d1", Form)
			for range 900 {
				time.Sleep(2 * time.Second)
				select {
				case id := <-died:
					w.bury(id)
					workers++
					w.worker(fmt.Sprintf("w%d", workers), "d1", Form)
				default:
				}
			}
			synctest.Wait()
			if r, _ := w.shelf.record(); workers != 3 || !r.State.Bound(time.Now()) || w.lapsed || time.Now().After(w.until) {
				t.Errorf("death %d: %d workers, lapsed %v, %+v", k, workers, w.lapsed, r)
			}
		})
	}
}

// An edge that is killed and back gets the action again: at the registrar it is
// a retransmission.
func TestEdgeDies(t *testing.T) {
	inWorld(t, func(w *world) {
		w.deaf = true
		w.worker("w1", "d1", Form)
		w.after(soon, "1")
		w.restartEdge()
		w.after(1500*time.Millisecond, "1 again")
		w.mu.Lock()
		w.deaf, w.edgeOff, w.boot, w.last = false, true, 7, 0
		w.mu.Unlock()
		w.after(20*time.Second, "")
		w.mu.Lock()
		w.edgeOff = false
		w.mu.Unlock()
		w.after(soon, "1 again")
		w.after(time.Minute, "")
	})
}

// An owner dies while the registrar thinks: its successor waits for the answer to
// what was asked (RFC 3261 10.2: no second REGISTER before that), and an edge
// that has forgotten it is told the same again.
func TestOwnerDiesWhileTheRegistrarThinks(t *testing.T) {
	inWorld(t, func(w *world) {
		w.deaf = true
		w.worker("w1", "d1", Form)
		w.after(soon, "1")
		w.kill("w1")
		w.worker("w2", "d1", Form)
		w.after(2*soon, "")
		w.mu.Lock()
		w.deaf = false
		w.mu.Unlock()
		w.restartEdge()
		w.after(soon, "1 again")
		if r, _ := w.shelf.record(); r.Owner != "w2" || !r.State.Bound(time.Now()) || r.State.CSeq != 1 {
			t.Errorf("%+v", r)
		}
	})
}

// A registration moves with the release that takes the new calls, and back,
// without a word to the carrier.
func TestRelease(t *testing.T) {
	inWorld(t, func(w *world) {
		w.worker("old", "d1", Form)
		w.worker("older", "d0", 0) // knows nothing of registrations
		w.after(10*time.Second, "1")
		w.worker("new", "d2", Form)
		w.after(10*time.Second, "")
		if w.owner() != "old" {
			t.Errorf("it went to %s without a reason", w.owner())
		}
		for _, step := range []struct{ prefer, owner string }{{"d2", "new"}, {"d1", "old"}, {"d0", "old"}, {"d2", "new"}} {
			w.mu.Lock()
			w.prefer = step.prefer
			w.mu.Unlock()
			w.after(10*time.Second, "")
			if w.owner() != step.owner {
				t.Errorf("%s is preferred, and %s owns it", step.prefer, w.owner())
			}
		}
		w.mu.Lock()
		p := w.living["new"]
		p.Draining = true
		w.living["new"] = p
		w.mu.Unlock()
		w.after(10*time.Second, "")
		if w.owner() != "old" {
			t.Errorf("it stays with %s, which drains", w.owner())
		}
		r, _ := w.shelf.record()
		if r.Epoch != 5 || w.lapsed {
			t.Errorf("epoch %d", r.Epoch)
		}
	})
}

// An owner that was taken for dead while it slept writes nothing and says
// nothing once it wakes.
func TestDethronedIsSilent(t *testing.T) {
	inWorld(t, func(w *world) {
		k1 := w.worker("w1", "d1", Form)
		w.after(soon, "1")
		w.mu.Lock()
		w.dead["w1"] = true // as w2 hears; w1 itself does not run for a while
		delete(w.living, "w1")
		w.mu.Unlock()
		w.worker("w2", "d1", Form)
		w.after(10*time.Second, "")
		if w.owner() != "w2" || len(k1.Owned(context.Background())) != 0 {
			t.Fatalf("owner %s", w.owner())
		}
		w.after(250*time.Second, "2")
	})
}

// Two that both think they ought to: the compare-and-set lets one.
func TestManyWantIt(t *testing.T) {
	inWorld(t, func(w *world) {
		for i := range 8 {
			w.worker(fmt.Sprintf("w%d", i), fmt.Sprintf("d%d", i), Form)
		}
		w.after(soon, "1")
		for i := range 40 { // each of them in turn is the preferred one, sooner than all have heard
			w.mu.Lock()
			w.prefer = fmt.Sprintf("d%d", i%8)
			w.mu.Unlock()
			time.Sleep(700 * time.Millisecond)
		}
		w.after(soon, "")
		r, _ := w.shelf.record()
		if r.Epoch > 14 { // 28 s, and an owner is left alone for 3
			t.Errorf("%d changes of owner", r.Epoch)
		}
	})
}

func TestStoreAway(t *testing.T) {
	inWorld(t, func(w *world) {
		w.worker("w1", "d1", Form)
		w.after(soon, "1")
		w.shelf.mu.Lock()
		w.shelf.away = true
		w.shelf.mu.Unlock()
		w.after(290*time.Second, "") // a refresh was due; it is not sent before it is saved
		w.shelf.mu.Lock()
		w.shelf.away = false
		w.shelf.mu.Unlock()
		w.after(soon, "2")
		w.shelf.mu.Lock()
		w.shelf.blind = true // the refresh is saved, and nobody says so
		w.shelf.mu.Unlock()
		time.Sleep(250 * time.Second)
		w.shelf.mu.Lock()
		w.shelf.blind = false
		w.shelf.mu.Unlock()
		time.Sleep(soon)
		synctest.Wait()
		if got := w.heard(); got == "" || strings.Contains(got, "again") {
			t.Errorf("the registrar heard %q", got)
		}
		if r, _ := w.shelf.record(); !r.State.Bound(time.Now()) || r.Owner != "w1" {
			t.Errorf("%+v", r)
		}
	})
}

// A record that this release cannot read stays with its owner (R5).
func TestNewerRecord(t *testing.T) {
	inWorld(t, func(w *world) {
		w.shelf.value, w.shelf.rev = []byte(`{"form":2,"owner":"x","epoch":1,"n":1,"state":{"surprise":true}}`), 1
		w.dead["x"] = true
		w.worker("w1", "d1", Form)
		w.after(time.Minute, "")
		if string(w.shelf.value) != `{"form":2,"owner":"x","epoch":1,"n":1,"state":{"surprise":true}}` {
			t.Errorf("%s", w.shelf.value)
		}
	})
}

func TestOwner(t *testing.T) {
	id := codecore.EnlistID("carrier")
	living := []sessions.Process{{Role: "edge", ID: "e"}}
	for i := range 10 {
		living = append(living, sessions.Process{Role: "worker", ID: fmt.Sprintf("w%d", i), Digest: "d", Registrant: 1})
	}
	first := Owner(id, 0, "", living, "")
	if again := Owner(id, 1, first, living, "d"); again != first {
		t.Error("not stable")
	}
	// Only what the dead one had changes hands.
	for _, p := range living {
		if p.ID == first || p.Role != "worker" {
			continue
		}
		rest := slices.DeleteFunc(slices.Clone(living), func(q sessions.Process) bool { return q.ID == p.ID })
		if Owner(id, 0, "", rest, "") != first {
			t.Errorf("%s died and the owner changed", p.ID)
		}
	}
	if Owner(id, 2, "w1", living, "") != "" {
		t.Error("somebody who cannot read it")
	}
}
