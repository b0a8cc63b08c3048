package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"callswitch/codecore"
	"callswitch/sessions"
	"callswitch/sessions/sessionstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeCalls keeps calls as a Runner would, without telephony: the state is one
// counter, peers["steps"].Event.
type fakeCalls struct {
	mu    sync.Mutex
	store sessions.Store
	calls map[codecore.CallID]*fakeCall
	frost chan codecore.CallID // if set: told of each freeze
	drops int
}

type fakeCall struct {
	rec    sessions.Record
	state  codecore.State
	mode   string // "owned", "frozen", "reserved"
	waited []sessions.Msg
}

var errNotHeld = errors.New("not held")

func newFakeCalls(s sessions.Store) *fakeCalls {
	return &fakeCalls{store: s, calls: map[codecore.CallID]*fakeCall{}}
}

func encodeFake(s codecore.State) []byte {
	raw, err := json.Marshal(struct {
		State codecore.State `json:"state"`
	}{s})
	if err != nil {
		panic(err)
	}
	return raw
}

func decodeFake(_ int, body []byte) (codecore.State, error) {
	var b struct {
		State codecore.State `json:"state"`
	}
	err := json.Unmarshal(body, &b)
	return b.State, err
}

func steps(s codecore.State) uint64 { return s.Peers["steps"].Event }

func (f *fakeCalls) List() []codecore.CallID {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []codecore.CallID
	for id, c := range f.calls {
		if c.mode != "reserved" {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (f *fakeCalls) snapshot(c *fakeCall) sessions.Record {
	rec := c.rec
	rec.Body = encodeFake(c.state)
	return rec
}

func (f *fakeCalls) Snapshot(id codecore.CallID) (sessions.Record, uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.calls[id]
	if c == nil || c.mode != "owned" {
		return sessions.Record{}, 0, errNotHeld
	}
	rec := f.snapshot(c)
	return rec, Sum(rec.Body), nil
}

func (f *fakeCalls) Freeze(_ context.Context, id codecore.CallID, mark uint64) (sessions.Record, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.calls[id]
	if c == nil || c.mode != "owned" {
		return sessions.Record{}, false, errNotHeld
	}
	c.mode = "frozen"
	if f.frost != nil {
		f.frost <- id
	}
	rec := f.snapshot(c)
	if Sum(rec.Body) == mark {
		rec.Body = nil
		return rec, true, nil
	}
	return rec, false, nil
}

func (f *fakeCalls) Thaw(id codecore.CallID) { f.mode(id, "frozen", "owned") }

func (f *fakeCalls) Drop(id codecore.CallID) []sessions.Msg {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.calls[id]
	if c == nil || c.mode != "frozen" {
		panic("dropped a call that is not frozen: " + string(id))
	}
	delete(f.calls, id)
	f.drops++
	return c.waited
}

func (f *fakeCalls) Reserve(id codecore.CallID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls[id] != nil {
		return sessions.ErrOwned
	}
	f.calls[id] = &fakeCall{mode: "reserved"}
	return nil
}

func (f *fakeCalls) Release(id codecore.CallID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.calls[id]; c == nil || c.mode != "reserved" {
		panic("released a call that is not reserved: " + string(id))
	}
	delete(f.calls, id)
}

func (f *fakeCalls) Adopt(rec sessions.Record, s codecore.State) {
	f.mode(rec.ID, "reserved", "owned")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[rec.ID].rec, f.calls[rec.ID].state = rec, s
}

func (f *fakeCalls) mode(id codecore.CallID, from, to string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.calls[id]
	if c == nil || c.mode != from {
		panic(fmt.Sprintf("%s: want %s, is %+v", id, from, c))
	}
	c.mode = to
}

// step bumps the counter and saves; false: another owns the call.
func (f *fakeCalls) step(id codecore.CallID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.calls[id]
	if c == nil || c.mode != "owned" {
		return false
	}
	next := c.rec
	next.N++
	state := codecore.State{Peers: map[string]codecore.Peer{"steps": {Event: steps(c.state) + 1}}}
	next.Body = encodeFake(state)
	rev, err := f.store.Put(context.Background(), next)
	if err != nil {
		delete(f.calls, id)
		return false
	}
	next.Rev = rev
	c.rec, c.state = next, state
	return true
}

func (f *fakeCalls) holds(id codecore.CallID) bool { return slices.Contains(f.List(), id) }

// world is what workers share.
type world struct {
	store  *sessions.MemStore
	bus    *sessionstest.MemBus
	mu     sync.Mutex
	living []sessions.Process
}

func newWorld() *world {
	return &world{store: sessions.NewMemStore(), bus: sessionstest.NewBus(1)}
}

func (w *world) list() []sessions.Process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.living)
}

func (w *world) bury(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.living = slices.DeleteFunc(w.living, func(p sessions.Process) bool { return p.ID == id })
}

type worker struct {
	*Driver
	calls *fakeCalls
	seen  chan Observation
	stop  func() // ends Run and waits
}

// guard is a time-out that no test waits for.
const guard = 30 * time.Second

// worker starts a worker; change may alter its configuration.
func (w *world) worker(t testing.TB, id, release string, change func(*Config)) *worker {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, over := make(chan struct{}), make(chan struct{})
	x := &worker{seen: make(chan Observation, 1<<16)}
	x.calls = newFakeCalls(w.store)
	c := Config{
		Worker: id, Release: release, Calls: x.calls, Bus: w.bus, Store: w.store, Living: w.list,
		Core: Core{
			SchemaMin: 1, SchemaMax: 1, Decode: decodeFake,
			Encode: func(s codecore.State, floor int) (int, []byte, error) { return 1, encodeFake(s), nil },
			Check:  func(codecore.State) error { return nil },
		},
		Observe: func(o Observation) { x.seen <- o },
		Ready:   func() { close(ready) },
		// On a busy machine nothing is to be refused or given up because it was slow.
		MigrateLimit: guard, PrepareTimeout: guard, OfferTimeout: guard,
	}
	if change != nil {
		change(&c)
	}
	x.Driver = New(c)
	w.mu.Lock()
	w.living = append(w.living, sessions.Process{Role: "worker", ID: id, Release: release, SchemaMin: c.Core.SchemaMin, SchemaMax: c.Core.SchemaMax})
	w.mu.Unlock()
	go func() {
		defer close(over)
		if err := x.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	<-ready
	var once sync.Once
	x.stop = func() { once.Do(func() { cancel(); <-over }) }
	t.Cleanup(x.stop)
	return x
}

// create begins n calls at x, and returns their ids.
func (x *worker) create(t testing.TB, n int) []codecore.CallID {
	t.Helper()
	return x.createFrom(t, 0, n)
}

// createFrom is create with ids from the given number on.
func (x *worker) createFrom(t testing.TB, from, n int) []codecore.CallID {
	t.Helper()
	var ids []codecore.CallID
	for i := from; i < from+n; i++ {
		rec := sessions.Record{ID: codecore.CallID(fmt.Sprintf("%024x", i)), Owner: x.Worker, Epoch: 1, N: 1, Release: x.Release, Schema: 1}
		state := codecore.State{Peers: map[string]codecore.Peer{"steps": {Event: 1}}}
		rec.Body = encodeFake(state)
		rev, err := x.calls.store.Put(context.Background(), rec)
		if err != nil {
			t.Fatal(err)
		}
		rec.Rev = rev
		x.calls.mu.Lock()
		x.calls.calls[rec.ID] = &fakeCall{rec: rec, state: state, mode: "owned"}
		x.calls.mu.Unlock()
		ids = append(ids, rec.ID)
	}
	return ids
}

// await returns the next observation of the kind.
func (x *worker) await(t testing.TB, what string) Observation {
	t.Helper()
	late := time.After(guard)
	for {
		select {
		case o := <-x.seen:
			if o.What == what {
				return o
			}
		case <-late:
			t.Fatalf("%s: no %q observed", x.Worker, what)
		}
	}
}

func owner(t testing.TB, w *world, id codecore.CallID) sessions.Record {
	t.Helper()
	rec, err := w.store.Get(context.Background(), id)
	if err != nil {
		t.Fatalf("record of %s: %v", id, err)
	}
	return rec
}
