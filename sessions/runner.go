package sessions

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"callswitch/codecore"
)

// ErrFrozen reports a call that is frozen already.
var ErrFrozen = errors.New("sessions: call is frozen already")

// Runner owns calls: it takes their events, steps them, saves, and only then
// acts (R1). An idle call costs no goroutine; a call with work has one,
// and one more per receiver while a request to it is under way.
//
// A Runner does not decide who owns a call: it creates calls, and is given and
// relieved of others by the methods that handoff.Calls names.
type Runner struct {
	cfg   Config
	box   Mailbox
	alarm alarm
	tally tally

	mu      sync.Mutex
	calls   map[codecore.CallID]*call
	boots   map[string]heard // newest incarnation of each receiver heard of
	reminds map[string]bool  // media nodes that will be told once more

	life     sync.Mutex // guards stopping and goroutines' additions
	stopping bool
	idle     []chan func() // goroutines that wait for work
	tasks    sync.WaitGroup
	ops      context.Context // ends the I/O of a Runner that does not stop in time
	stopOps  context.CancelFunc

	newSub  Subscription // guarded by life
	drained atomic.Bool  // admits nothing new
	away    atomic.Int64 // saves that wait for the store to come back
	marks   atomic.Uint64
	strays  chan struct{}
	rereads chan struct{}
	ready   chan struct{}
	step    func(codecore.State, time.Time, codecore.Event) (codecore.State, codecore.Result)
}

// maxStrays bounds the look-ups under way for calls that nobody listened for.
const maxStrays = 64

// NewRunner makes a Runner; Run starts it.
func NewRunner(cfg Config) *Runner {
	r := &Runner{
		cfg:     cfg.withDefaults(),
		calls:   map[codecore.CallID]*call{},
		boots:   map[string]heard{},
		reminds: map[string]bool{},
		strays:  make(chan struct{}, maxStrays),
		rereads: make(chan struct{}, 1),
		ready:   make(chan struct{}),
		step:    codecore.Step,
	}
	r.alarm.now = r.cfg.Now
	r.ops, r.stopOps = context.WithCancel(context.Background())
	r.box = cfg.Bus.Mailbox(r.onCall)
	return r
}

// Ready is closed when Run has subscribed and new calls can come.
func (r *Runner) Ready() <-chan struct{} { return r.ready }

// Run takes calls until ctx ends; then it takes nothing more, finishes the
// Steps in hand (up to StopWait) and leaves the records as they are.
func (r *Runner) Run(ctx context.Context) error {
	defer r.stopOps()
	subs, err := r.subscribe()
	defer func() {
		for _, s := range subs {
			_ = s.Unsubscribe()
		}
	}()
	if err != nil {
		r.stop()
		return err
	}
	r.cfg.Bus.OnReconnect(func() {
		select {
		case r.rereads <- struct{}{}:
		default:
		}
	})
	tick := time.NewTicker(r.cfg.Reread)
	defer tick.Stop()
	close(r.ready)
	var read uint64 // what reread has seen
	for {
		select {
		case <-ctx.Done():
			r.stop()
			return nil
		case <-tick.C:
			read = r.reread(ctx, read)
		case <-r.rereads: // the store may be another one, restored from a copy
			read = r.reread(ctx, 0)
		}
	}
}

func (r *Runner) subscribe() ([]Subscription, error) {
	var subs []Subscription
	for _, s := range []struct {
		subject, queue string
		h              func(Msg)
	}{
		{SubjectOrphan, QueueWorkers, r.onOrphan},
		{SubjectAnnounce(">"), "", r.onAnnounce},
		{SubjectControl(r.cfg.ID, "dethroned"), "", r.onDethroned},
	} {
		sub, err := r.cfg.Bus.Subscribe(s.subject, s.queue, s.h)
		if err != nil {
			return subs, err
		}
		subs = append(subs, sub)
	}
	r.life.Lock()
	defer r.life.Unlock()
	if r.drained.Load() {
		return subs, nil
	}
	var err error
	r.newSub, err = r.cfg.Bus.Subscribe(SubjectNew(r.cfg.Digest), QueueWorkers, r.onNew)
	return subs, err
}

// Drain admits nothing new from now on; calls go on.
func (r *Runner) Drain() {
	r.drained.Store(true)
	r.life.Lock()
	defer r.life.Unlock()
	if r.newSub != nil {
		_ = r.newSub.Unsubscribe()
		r.newSub = nil
	}
}

// Draining reports whether Drain was called.
func (r *Runner) Draining() bool { return r.drained.Load() }

// stop ends everything, in the order that leaves nothing half done.
func (r *Runner) stop() {
	r.Drain()
	_ = r.box.Close()
	r.alarm.stop()
	r.life.Lock()
	r.stopping = true
	for _, next := range r.idle {
		close(next)
	}
	r.idle = nil
	r.life.Unlock()
	late := time.AfterFunc(r.cfg.StopWait, r.stopOps)
	r.tasks.Wait()
	late.Stop()
}

// idleTasks is how many goroutines wait for the next piece of work: one that has
// worked before has the stack that decoding and stepping need.
const idleTasks = 16

// launch runs f in a goroutine that stop waits for; false when it is too late.
func (r *Runner) launch(f func()) bool {
	r.life.Lock()
	if r.stopping {
		r.life.Unlock()
		return false
	}
	r.tasks.Add(1)
	if last := len(r.idle) - 1; last >= 0 {
		next := r.idle[last]
		r.idle = r.idle[:last]
		r.life.Unlock()
		next <- f
		return true
	}
	r.life.Unlock()
	go r.work(f)
	return true
}

// work runs f and what it is given then; it ends when enough others wait.
func (r *Runner) work(f func()) {
	next := make(chan func(), 1)
	for f != nil {
		f()
		r.tasks.Done()
		r.life.Lock()
		if r.stopping || len(r.idle) >= idleTasks {
			r.life.Unlock()
			return
		}
		r.idle = append(r.idle, next)
		r.life.Unlock()
		f = <-next
	}
}

func (r *Runner) isStopping() bool {
	r.life.Lock()
	defer r.life.Unlock()
	return r.stopping
}

// lookup returns the call held under id, or nil.
func (r *Runner) lookup(id codecore.CallID) *call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls[id]
}

// enter makes a call under id and subscribes to it, unless one is held: then
// that one and false.
func (r *Runner) enter(id codecore.CallID, life life) (*call, bool, error) {
	r.mu.Lock()
	if c := r.calls[id]; c != nil {
		r.mu.Unlock()
		return c, false, nil
	}
	c := &call{r: r, id: id, life: life, heapAt: -1}
	c.mu.Lock() // until sub is set
	defer c.mu.Unlock()
	r.calls[id] = c
	r.mu.Unlock()
	sub, err := r.box.Add(SubjectCall(id))
	if err != nil {
		c.life = lifeGone
		r.forget(c)
		return nil, false, err
	}
	c.sub = sub
	return c, true, nil
}

func (r *Runner) forget(c *call) {
	r.mu.Lock()
	if r.calls[c.id] == c {
		delete(r.calls, c.id)
		r.tally.set(c.id, nil, time.Time{})
	}
	r.mu.Unlock()
}

// snapshotCalls returns all calls held, in no order.
func (r *Runner) snapshotCalls() []*call {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*call, 0, len(r.calls))
	for _, c := range r.calls {
		all = append(all, c)
	}
	return all
}
