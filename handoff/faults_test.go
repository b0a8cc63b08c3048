package handoff

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// tapBus lets a test stand between a worker and the bus.
type tapBus struct {
	sessions.Bus
	request func(ctx context.Context, subject string, data []byte) ([]byte, error)
}

func (b *tapBus) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	return b.request(ctx, subject, data)
}

// tap puts f before every Offer that the worker sends.
func tap(w *world, f func(pass func() ([]byte, error)) ([]byte, error)) func(*Config) {
	return func(c *Config) {
		c.Bus = &tapBus{w.bus, func(ctx context.Context, subject string, data []byte) ([]byte, error) {
			if !strings.HasSuffix(subject, "."+VerbOffer) {
				return w.bus.Request(ctx, subject, data)
			}
			return f(func() ([]byte, error) { return w.bus.Request(ctx, subject, data) })
		}}
	}
}

// tapStore lets a test fail a worker's writes and readings.
type tapStore struct {
	sessions.Store
	put func(sessions.Record) (uint64, error)
	get func(codecore.CallID) error
}

func (s *tapStore) Put(_ context.Context, r sessions.Record) (uint64, error) { return s.put(r) }

func (s *tapStore) PutAll(_ context.Context, rs []sessions.Record) []sessions.PutResult {
	out := make([]sessions.PutResult, len(rs))
	for i, r := range rs {
		out[i].Rev, out[i].Err = s.put(r)
	}
	return out
}

func (s *tapStore) Get(ctx context.Context, id codecore.CallID) (sessions.Record, error) {
	if s.get != nil {
		if err := s.get(id); err != nil {
			return sessions.Record{}, err
		}
	}
	return s.Store.Get(ctx, id)
}

// TestLateOfferOfAWokenOwner stops the source between its freeze and its offer,
// as SIGSTOP does; meanwhile a third worker takes the call and works on it, or
// the target itself does. The late offer must change nothing.
func TestLateOfferOfAWokenOwner(t *testing.T) {
	for _, taker := range []string{"w-b", "w-c"} {
		t.Run(taker, func(t *testing.T) {
			w := newWorld()
			asleep, wake := make(chan struct{}), make(chan struct{})
			a := w.worker(t, "w-a", "r1", tap(w, func(pass func() ([]byte, error)) ([]byte, error) {
				close(asleep)
				<-wake
				return pass()
			}))
			all := map[string]*worker{"w-b": w.worker(t, "w-b", "r1", nil), "w-c": w.worker(t, "w-c", "r1", nil)}
			id := a.create(t, 1)[0]
			report := make(chan MoveReport, 1)
			go func() {
				r, _ := a.Move(context.Background(), MoveOrder{To: "w-b"}, nil)
				report <- r
			}()
			<-asleep
			w.bury("w-a")
			x := all[taker]
			x.claimOne(context.Background(), id)
			for range 2 {
				if !x.calls.step(id) {
					t.Fatal("the taker does not own the call")
				}
			}
			close(wake)
			r := <-report
			if a.calls.holds(id) {
				t.Error("the woken owner keeps the call")
			}
			if r.Moved+len(r.Refused)+r.Gone != 1 {
				t.Errorf("the call is reported %d times: %v", r.Moved+len(r.Refused)+r.Gone, r)
			}
			if rec := owner(t, w, id); rec.Owner != taker || rec.N != 4 || rec.Epoch != 2 {
				t.Errorf("record after the late offer: %+v", rec)
			}
			if !x.calls.holds(id) || steps(x.calls.calls[id].state) != 3 || !x.calls.step(id) {
				t.Error("the late offer spoiled the live call")
			}
		})
	}
}

// TestLostVerdict loses the target's answer: the source reads the record.
func TestLostVerdict(t *testing.T) {
	w := newWorld()
	a := w.worker(t, "w-a", "r1", tap(w, func(pass func() ([]byte, error)) ([]byte, error) {
		_, _ = pass()
		return nil, sessions.ErrTimeout
	}))
	b := w.worker(t, "w-b", "r2", nil)
	a.create(t, 20)
	r, err := a.Move(context.Background(), MoveOrder{To: "w-b"}, nil)
	if err != nil || r.Moved != 20 || len(a.calls.List()) != 0 || len(b.calls.List()) != 20 {
		t.Fatalf("%v, %v; source %d, target %d", r, err, len(a.calls.List()), len(b.calls.List()))
	}
}

// TestLateCommitIsTold: a source that has not waited for the verdict reads its own
// record and goes on; the target, which commits after that, tells it.
func TestLateCommitIsTold(t *testing.T) {
	w := newWorld()
	var offer func() ([]byte, error)
	a := w.worker(t, "w-a", "r1", tap(w, func(pass func() ([]byte, error)) ([]byte, error) {
		offer = pass
		return nil, sessions.ErrTimeout
	}))
	w.worker(t, "w-b", "r1", func(c *Config) {
		c.Now = func() time.Time { return time.Now().Add(guard) }
	})
	told := make(chan sessions.Msg, 1)
	sub, err := w.bus.Subscribe(sessions.SubjectControl("w-a", VerbDethroned), "", func(m sessions.Msg) { told <- m })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	id := a.create(t, 1)[0]
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if r, _ := a.Move(ctx, MoveOrder{To: "w-b"}, func(MoveReport) { cancel() }); len(r.Refused) != 1 || !a.calls.holds(id) {
		t.Fatalf("%v %v", r, r.Refused)
	}
	_, _ = offer() // nobody waits for its answer any more
	eventually(t, "the target to own the call", func() bool { return owner(t, w, id).Owner == "w-b" })
	select {
	case m := <-told:
		if !strings.Contains(string(m.Data), string(id)) {
			t.Errorf("told of another call: %q", m.Data)
		}
	case <-time.After(guard):
		t.Error("the source is not told that it has lost the call")
	}
}

// TestRepeatedOffer delivers each offer twice: the second finds the call owned.
func TestRepeatedOffer(t *testing.T) {
	w := newWorld()
	a := w.worker(t, "w-a", "r1", tap(w, func(pass func() ([]byte, error)) ([]byte, error) {
		_, _ = pass()
		return pass()
	}))
	b := w.worker(t, "w-b", "r2", nil)
	id := a.create(t, 1)[0]
	r, err := a.Move(context.Background(), MoveOrder{To: "w-b"}, nil)
	if err != nil || r.Moved != 1 || !b.calls.step(id) || owner(t, w, id).Epoch != 2 {
		t.Fatalf("%v %v, %v", r, r.Refused, err)
	}
}

// TestCommitInDoubt lets the store answer the target's commit with an error,
// whether it was made or not, and stay away from it for a while.
func TestCommitInDoubt(t *testing.T) {
	for name, made := range map[string]bool{"made": true, "not made": false} {
		for _, away := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", store away"}[away], func(t *testing.T) {
				w := newWorld()
				var once, gone atomic.Bool
				a := w.worker(t, "w-a", "r1", nil)
				b := w.worker(t, "w-b", "r2", func(c *Config) {
					c.Store = &tapStore{
						Store: w.store,
						put: func(r sessions.Record) (uint64, error) {
							if gone.Load() {
								return 0, sessions.ErrUnavailable
							}
							if !once.CompareAndSwap(false, true) {
								return w.store.Put(context.Background(), r)
							}
							gone.Store(away)
							if made {
								if _, err := w.store.Put(context.Background(), r); err != nil {
									t.Error(err)
								}
							}
							return 0, sessions.ErrUnavailable
						},
						get: func(codecore.CallID) error {
							if gone.Load() {
								return sessions.ErrUnavailable
							}
							return nil
						},
					}
				})
				b.calls.store = w.store
				id := a.create(t, 1)[0]
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				r, _ := a.Move(ctx, MoveOrder{To: "w-b"}, func(MoveReport) { cancel() }) // one offer
				held := a.calls.holds(id)
				if held != (away && !made) {
					t.Errorf("the source holds the call: %t; report %v %v", held, r, r.Refused)
				}
				if held && !a.calls.step(id) {
					t.Error("the source does not go on")
				}
				gone.Store(false)
				if held {
					eventually(t, "the target's reservation to end", func() bool {
						b.calls.mu.Lock()
						defer b.calls.mu.Unlock()
						return b.calls.calls[id] == nil
					})
				} else {
					eventually(t, "the target to own the call", func() bool { return b.calls.holds(id) })
				}
				rec := owner(t, w, id)
				if want := map[bool]string{true: "w-a", false: "w-b"}[held]; rec.Owner != want {
					t.Errorf("owner %s, want %s", rec.Owner, want)
				}
			})
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for late := time.Now().Add(guard); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestTargetDiesMidMove ends the target after it got the offer and before its
// commit: the calls thaw where they are.
func TestTargetDiesMidMove(t *testing.T) {
	w := newWorld()
	var b *worker
	a := w.worker(t, "w-a", "r1", tap(w, func(func() ([]byte, error)) ([]byte, error) {
		b.stop()
		return nil, sessions.ErrTimeout
	}))
	b = w.worker(t, "w-b", "r2", nil)
	ids := a.create(t, BatchSize) // a second batch would not be offered: Left
	r, _ := a.Move(context.Background(), MoveOrder{To: "w-b"}, nil)
	if r.Moved != 0 || len(a.calls.List()) != BatchSize || len(r.Refused) != BatchSize {
		t.Fatalf("%v; source holds %d", r, len(a.calls.List()))
	}
	if !a.calls.step(ids[0]) {
		t.Error("the call does not go on at the source")
	}
}

// TestStoreAwayAtTheSource keeps a call frozen while nobody can say who owns it.
func TestStoreAwayAtTheSource(t *testing.T) {
	w := newWorld()
	a := w.worker(t, "w-a", "r1", tap(w, func(func() ([]byte, error)) ([]byte, error) {
		w.store.SetAway(true)
		time.AfterFunc(30*time.Millisecond, func() { w.store.SetAway(false) })
		return nil, sessions.ErrTimeout
	}))
	w.worker(t, "w-b", "r2", nil)
	id := a.create(t, 1)[0]
	ctx, cancel := context.WithCancel(context.Background())
	r, _ := a.Move(ctx, MoveOrder{To: "w-b"}, func(MoveReport) { cancel() })
	if len(r.Refused) != 1 || r.Refused[0].Code != CodeSilent || !a.calls.step(id) {
		t.Fatalf("%v %v", r, r.Refused)
	}
}

// hungStore answers nobody who reads one record.
type hungStore struct {
	sessions.Store
	asked chan struct{}
	cut   chan error // why whoever asked went
}

func (s hungStore) Get(ctx context.Context, _ codecore.CallID) (sessions.Record, error) {
	s.asked <- struct{}{}
	<-ctx.Done()
	s.cut <- ctx.Err()
	return sessions.Record{}, sessions.ErrUnavailable
}

// TestSourceEndsInDoubt: when the driver ends, what is frozen is left to its records
// at once, and nothing else is frozen.
func TestSourceEndsInDoubt(t *testing.T) {
	w := newWorld()
	hung := hungStore{w.store, make(chan struct{}, 100), make(chan error, 100)}
	lost := tap(w, func(func() ([]byte, error)) ([]byte, error) { return nil, sessions.ErrBusAway })
	a := w.worker(t, "w-a", "r1", func(c *Config) {
		lost(c)
		c.Store = hung
	})
	w.worker(t, "w-b", "r2", nil)
	a.calls.frost = make(chan codecore.CallID, 100)
	a.create(t, 5*BatchSize)
	type result struct {
		MoveReport
		err error
	}
	done := make(chan result, 1)
	go func() {
		r, err := a.Move(context.Background(), MoveOrder{To: "w-b"}, nil)
		done <- result{r, err}
	}()
	for range Lanes {
		<-hung.asked
	}
	a.stop()
	r := <-done
	if r.err == nil || r.Left != r.Asked || r.Moved+r.Gone+len(r.Refused) != 0 || len(a.calls.frost) != Lanes*BatchSize {
		t.Errorf("%+v, %d frozen, %v", r.MoveReport, len(a.calls.frost), r.err)
	}
	close(hung.cut)
	for err := range hung.cut {
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

// TestSourceDiesMidMove kills the source when it has frozen some calls: the
// living take over all of them, moved ones excepted.
func TestSourceDiesMidMove(t *testing.T) {
	w := newWorld()
	var offers atomic.Int64
	var a *worker
	died := make(chan struct{})
	a = w.worker(t, "w-a", "r1", tap(w, func(pass func() ([]byte, error)) ([]byte, error) {
		if offers.Add(1) > 2 {
			<-died
			return nil, sessions.ErrBusAway
		}
		return pass()
	}))
	b, c := w.worker(t, "w-b", "r1", nil), w.worker(t, "w-c", "r1", nil)
	ids := a.create(t, 100)
	a.calls.store = w.store
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	over := make(chan struct{})
	go func() { _, _ = a.Move(ctx, MoveOrder{To: "w-b"}, nil); close(over) }()
	for range 2 * BatchSize {
		b.await(t, "moved")
	}
	w.bury("w-a")
	var all sync.WaitGroup
	for _, x := range []*worker{b, c} {
		all.Go(func() {
			if _, err := x.Claim(context.Background(), ClaimOrder{Dead: []Death{{Owner: "w-a"}}}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	cancel()
	close(died)
	<-over
	a.stop()
	for _, id := range ids {
		rec := owner(t, w, id)
		if rec.Owner == "w-a" || rec.Epoch != 2 || rec.N != 2 {
			t.Errorf("%s: %+v", id, rec)
		}
	}
	if n := len(b.calls.List()) + len(c.calls.List()); n != 100 {
		t.Errorf("%d calls live, want 100", n)
	}
}

// TestLateOfferOfAnEndedCall delivers an offer again after the target has
// carried the call to its end and forgotten it: the record still names the
// target at the offer's epoch.
func TestLateOfferOfAnEndedCall(t *testing.T) {
	w := newWorld()
	a, b := w.worker(t, "w-a", "r1", nil), w.worker(t, "w-b", "r1", nil)
	id := a.create(t, 1)[0]
	rec, _, err := a.calls.Snapshot(id)
	if err != nil {
		t.Fatal(err)
	}
	offer := Offer{From: "w-a", Items: []Item{item(rec)}}
	if v := b.serveOffer(context.Background(), offer); v.Verdicts[0].Code != OK {
		t.Fatalf("first offer: %+v", v)
	}
	end := owner(t, w, id)
	end.N++
	end.Tomb = true
	if _, err := w.store.Put(context.Background(), end); err != nil {
		t.Fatal(err)
	}
	delete(b.calls.calls, id)
	if v := b.serveOffer(context.Background(), offer); v.Verdicts[0].Code != CodeConflict || len(b.calls.calls) != 0 {
		t.Errorf("the ended call was revived: %+v", v)
	}
}

// TestOfferWithoutBody offers what was never prepared.
func TestOfferWithoutBody(t *testing.T) {
	w := newWorld()
	a, b := w.worker(t, "w-a", "r1", nil), w.worker(t, "w-b", "r1", nil)
	rec, _, err := a.calls.Snapshot(a.create(t, 1)[0])
	if err != nil {
		t.Fatal(err)
	}
	it := item(rec)
	it.Body = nil
	if v := b.serveOffer(context.Background(), Offer{From: "w-a", Items: []Item{it}}); v.Verdicts[0].Code != CodeUnknown {
		t.Errorf("%+v", v)
	}
}
