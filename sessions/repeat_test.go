package sessions_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// plane is a media node that forgets everything when it restarts.
type plane struct {
	r *rig

	mu       sync.Mutex
	boot     string
	holds    map[codecore.CallID]string // "1.1 4000"
	messages int
	hold     chan struct{} // answers wait for it, when set
	reads    int           // orders of a message that it understands, 0: all
}

func (r *rig) plane() *plane {
	r.t.Helper()
	p := &plane{r: r, boot: "m-1", holds: map[codecore.CallID]string{}}
	if _, err := r.bus.Subscribe(sessions.SubjectDo("media.n1"), "", p.onOrder); err != nil {
		r.t.Fatal(err)
	}
	return p
}

func (p *plane) onOrder(msg sessions.Msg) {
	var do sessions.DoMedia
	if err := wire.Open(msg.Data, &do); err != nil {
		p.r.t.Error(err)
		return
	}
	p.mu.Lock()
	p.messages++
	done := p.take(do)
	for i, more := range do.More {
		if p.reads == 0 || i+1 < p.reads {
			done.More = append(done.More, p.take(more))
		}
	}
	hold := p.hold
	p.mu.Unlock()
	if hold != nil {
		go func() { <-hold; p.answer(msg, done) }()
		return
	}
	p.answer(msg, done)
}

func (p *plane) answer(msg sessions.Msg, done sessions.MediaDone) {
	if data, err := wire.Seal(done); err == nil {
		_ = p.r.bus.Publish(msg.Reply, data)
	}
}

func (p *plane) take(do sessions.DoMedia) sessions.MediaDone {
	if len(do.Media.Legs) == 0 {
		delete(p.holds, do.Call)
	} else {
		p.holds[do.Call] = fmt.Sprintf("%d.%d %d", do.Gen.Epoch, do.Gen.N, do.Media.Legs[0].Port)
	}
	return sessions.MediaDone{Boot: p.boot, Gen: do.Gen}
}

// restart is kill -9 and a new incarnation, which says so.
func (p *plane) restart(boot string) {
	p.mu.Lock()
	p.boot, p.holds, p.messages = boot, map[codecore.CallID]string{}, 0
	p.mu.Unlock()
	p.announce()
}

func (p *plane) announce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	data, _ := wire.Seal(sessions.Announce{Name: "media.n1", Boot: p.boot})
	if err := p.r.bus.Publish(sessions.SubjectAnnounce("media.n1"), data); err != nil {
		p.r.t.Error(err)
	}
}

// want checks what the node holds, and returns how many messages that took.
func (p *plane) want(want map[codecore.CallID]string) int {
	p.r.t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if fmt.Sprint(p.holds) != fmt.Sprint(want) {
		p.r.t.Errorf("media holds %v, want %v", p.holds, want)
	}
	return p.messages
}

// talks makes n calls with sound.
func (r *rig) talks(e *edge, n int) (ids []codecore.CallID, holds map[codecore.CallID]string) {
	r.t.Helper()
	holds = map[codecore.CallID]string{}
	for i := range n {
		d := e.delivery("INVITE", script{Media: 4000 + 2*i})
		d.Call = codecore.CallID(fmt.Sprintf("c%d", i))
		d.Num, d.Accepted = 1, 0
		e.send(sessions.SubjectNew("d1"), d)
		ids = append(ids, d.Call)
		holds[d.Call] = fmt.Sprintf("1.1 %d", 4000+2*i)
	}
	return ids, holds
}

// A node that was killed may have forgotten what it confirmed a moment ago.
func TestRestartedMediaIsToldOnceMore(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e, p := r.edge("edge.n1", "b1"), r.plane()
		r.worker("w-1")
		p.announce()
		_, holds := r.talks(e, 150)
		time.Sleep(time.Second)
		p.want(holds)
		p.restart("m-2")
		time.Sleep(time.Second)
		if n := p.want(holds); n != 3 {
			t.Errorf("%d messages for 150 calls, want 3", n)
		}
		p.announce() // it says so every 5 s
		time.Sleep(time.Minute)
		if n := p.want(holds); n != 3 {
			t.Errorf("%d messages later, want none after the 3", n)
		}
		// A node of a release that reads the first order only gets the rest singly.
		p.reads = 1
		p.restart("m-3")
		time.Sleep(time.Second)
		if n := p.want(holds); n != 150 {
			t.Errorf("%d messages, want 3 and 147", n)
		}
	})
}

func TestEndedCallIsNotRepeated(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e, p := r.edge("edge.n1", "b1"), r.plane()
		w, _ := r.worker("w-1")
		p.announce()
		e.invite(script{Media: 4000})
		time.Sleep(time.Second)
		// Ended, and held on to by a CDR that cannot be stored.
		other := r.edge("edge.n2", "b1")
		other.setDeaf(true)
		e.ask("BYE", script{End: true, Media: -1, Act: []string{"edge.n2"}})
		time.Sleep(time.Second)
		p.restart("m-2")
		time.Sleep(5 * time.Second)
		if n := p.want(map[codecore.CallID]string{}); n != 0 || w.Len() != 1 {
			t.Errorf("%d orders for an ended call, %d held", n, w.Len())
		}
	})
}

// The confirmation of the process that died comes after the word of its successor.
func TestConfirmationOfADeadMediaProcess(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e, p := r.edge("edge.n1", "b1"), r.plane()
		r.worker("w-1")
		p.announce()
		late := make(chan struct{})
		p.hold = late
		e.invite(script{Media: 4000})
		synctest.Wait()
		p.mu.Lock()
		p.hold = nil
		p.mu.Unlock()
		p.restart("m-2")
		time.Sleep(100 * time.Millisecond)
		p.want(map[codecore.CallID]string{theCall: "1.1 4000"}) // long before the request's time is over
		close(late)
		time.Sleep(10 * time.Second)
		if n := p.want(map[codecore.CallID]string{theCall: "1.1 4000"}); n != 1 {
			t.Errorf("%d messages, want the repeat only", n)
		}
	})
}

// A call that is between two owners when the node restarts is nobody's to
// repeat: its new owner does.
func TestCallOnTheMoveIsRepeatedByItsNewOwner(t *testing.T) {
	for _, way := range []string{"thawed", "adopted"} {
		t.Run(way, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				e, p := r.edge("edge.n1", "b1"), r.plane()
				w1, crash := r.worker("w-1")
				w2, _ := r.worker("w-2")
				p.announce()
				e.invite(script{Media: 4000})
				time.Sleep(time.Minute)
				e.ask("INFO", script{}) // the record says that the node has confirmed
				want := map[codecore.CallID]string{theCall: "1.1 4000"}
				switch way {
				case "thawed":
					if _, _, err := w1.Freeze(t.Context(), theCall, 0); err != nil {
						t.Fatal(err)
					}
					p.restart("m-2")
					time.Sleep(time.Second)
					p.want(map[codecore.CallID]string{})
					w1.Thaw(theCall)
				case "adopted":
					crash() // as good as frozen
					p.restart("m-2")
					time.Sleep(time.Second)
					adopt(t, r, w2, "w-2")
					want[theCall] = "2.3 4000"
				}
				time.Sleep(time.Second)
				if n := p.want(want); n != 1 {
					t.Errorf("%d messages, want 1", n)
				}
			})
		})
	}
}

// A node that starts cannot give out ports for a moment; the call waits for it.
func TestStartingMediaIsAskedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e := r.edge("edge.n1", "b1")
		r.worker("w-1")
		asked := 0
		_, err := r.bus.Subscribe(sessions.SubjectAlloc("media.n1"), "", func(msg sessions.Msg) {
			got := codecore.Allocated{Node: "n1"}
			if asked++; asked < 4 {
				got.Reason = "media-away"
			}
			data, _ := wire.Seal(got)
			_ = r.bus.Publish(msg.Reply, data)
		})
		if err != nil {
			t.Fatal(err)
		}
		e.invite(script{Alloc: true})
		wantDone(t, e, "1 allocated ")
	})
}

// A planned move costs the node nothing; a takeover does: nobody knows what the
// dead owner had still to say.
func TestOnlyATakeoverIsRepeatedLater(t *testing.T) {
	for _, claimed := range []bool{false, true} {
		t.Run(fmt.Sprint("claimed ", claimed), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				e, p := r.edge("edge.n1", "b1"), r.plane()
				_, crash := r.worker("w-1")
				w2, _ := r.worker("w-2")
				p.announce()
				e.invite(script{Media: 4000})
				time.Sleep(time.Minute)
				e.ask("INFO", script{})
				crash()
				p.mu.Lock()
				p.messages = 0
				p.mu.Unlock()
				if err := w2.Reserve(theCall); err != nil {
					t.Fatal(err)
				}
				rec := steal(t, r, "w-2")
				state, err := codecore.Decode(rec.Schema, rec.Body)
				if err != nil {
					t.Fatal(err)
				}
				want, messages := "1.1 4000", 0
				if claimed {
					rec.Claimed, want, messages = time.Now(), "2.3 4000", 1
				}
				w2.Adopt(rec, state)
				time.Sleep(time.Second)
				if n := p.want(map[codecore.CallID]string{theCall: want}); n != messages {
					t.Errorf("%d messages, want %d", n, messages)
				}
			})
		})
	}
}
