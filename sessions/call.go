package sessions

import (
	"bytes"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"callswitch/codecore"
)

// life is where a call stands in this worker.
//
//	new ------> live ------> gone
//	reserved -> live
//	any ------> gone
type life int

const (
	lifeNew      life = iota // created here, its first save is not done
	lifeReserved             // about to be adopted: its events wait
	lifeLive                 // owned here
	lifeGone                 // no longer in Runner.calls: whoever still holds it stops
)

// A call is one session in memory. It has a goroutine (run) only while it has
// something to do; that goroutine alone steps it and changes state and rec.
type call struct {
	r  *Runner
	id codecore.CallID

	mu      sync.Mutex
	sub     Subscription
	life    life
	running bool
	frozen  bool
	due     bool          // a deadline or a re-send has come
	rested  chan struct{} // closed when run ends; made by Freeze
	queue   []item
	hand    *item // what run is working on
	last    *item // what waits for the end of an ended call's other obligations (last.go)

	writing atomic.Int32 // the floor under which the save in hand may not be; 0: none is in hand

	state codecore.State // as saved, and what rides in the next save
	rec   Record         // headers of the record in the store; Body is not kept
	mark  uint64         // of state: another for each that any call here has had

	out       map[string]*outgoing // by receiver; what is on its way
	mediaGen  codecore.Generation  // of the media now desired
	mediaBoot string               // incarnation of the media node that holds it, "": unknown
	lateUntil time.Time            // overdue deadlines are not tried again before
	dialled   time.Time            // receive time of the INVITE, until its first 18x or 2xx
	since     time.Time            // owned here since
	said      []said               // to each sender, of its last event

	heapAt int       // index in the alarm's heap, -1 = none; guarded by alarm.mu
	wakeAt time.Time // guarded by alarm.mu
}

// item is one thing for a call to take: a message, or an event of the Runner's own.
type item struct {
	msg      Msg
	delivery *Delivery // decoded already (new calls)
	event    codecore.Event
	rewrite  bool      // see Runner.Rewrite
	until    time.Time // it has waited as call.last, until then at most
}

func (it *item) creates() bool { return strings.HasPrefix(it.msg.Subject, "new.") }

// put gives a message to the call; false when its queue is full.
func (c *call) put(it item) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life == lifeGone {
		return true // the sender asks again
	}
	if c.again(c.hand, it.msg) || c.again(c.last, it.msg) {
		return true
	}
	for i := range c.queue {
		if c.again(&c.queue[i], it.msg) {
			return true
		}
	}
	if it.event == nil && len(c.queue) >= c.r.cfg.MaxQueue {
		return c.life == lifeReserved // the owner answers, not we
	}
	c.queue = append(c.queue, it)
	c.start()
	return true
}

// again reports whether m is a re-send of a message that waits: then it only
// tells where the answer is now awaited. While the store is away a sender's
// repeats would fill the queue.
func (c *call) again(waiting *item, m Msg) bool {
	if waiting == nil || waiting.event != nil || m.Data == nil || !bytes.Equal(waiting.msg.Data, m.Data) {
		return false
	}
	if m.Reply != "" {
		waiting.msg.Reply = m.Reply
	}
	return true
}

// tell queues an event of the Runner's own.
func (c *call) tell(ev codecore.Event) { c.put(item{event: ev}) }

// start lets run begin if there is something it may do. c.mu is held.
func (c *call) start() {
	if c.running || !c.mayRun() {
		return
	}
	c.running = c.r.launch(c.run)
}

func (c *call) mayRun() bool {
	return (c.life == lifeNew || c.life == lifeLive) && !c.frozen && (len(c.queue) > 0 || c.due || c.lastReady())
}

// run takes what waits, one at a time, and ends when nothing does.
func (c *call) run() {
	for {
		it, due, more := c.next()
		switch {
		case !more:
			return
		case due:
			c.takeDue()
		case it.rewrite:
			c.rewrite()
		case it.event != nil:
			c.takeOwn(it.event)
		default:
			c.takeMessage(it)
		}
	}
}

// next returns what to do now; more is false when run has to end.
func (c *call) next() (it *item, due, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hand = nil
	if !c.mayRun() || c.r.isStopping() {
		c.running = false
		if c.rested != nil {
			close(c.rested)
			c.rested = nil
		}
		c.arm()
		return nil, false, false
	}
	if c.due {
		c.due = false
		return nil, true, true
	}
	c.hand = c.pop()
	return c.hand, false, true
}

// ring is the alarm: a deadline or a re-send has come.
func (c *call) ring() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life != lifeLive {
		return
	}
	c.due = true
	c.start()
}

// arm sets the alarm to the next deadline or re-send. c.mu is held.
func (c *call) arm() {
	if c.life != lifeLive || c.frozen {
		c.r.alarm.set(c, time.Time{})
		return
	}
	var at time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for _, d := range c.state.Timers {
		if d.At.Before(c.lateUntil) {
			sooner(c.lateUntil)
			continue
		}
		sooner(d.At)
	}
	for _, o := range c.out {
		if !o.busy {
			sooner(o.at)
		}
	}
	if c.last != nil {
		sooner(c.last.until)
	}
	c.r.alarm.set(c, at)
}

// end takes the call out of this worker and returns what waited.
func (c *call) end() []item {
	c.mu.Lock()
	if c.life == lifeGone {
		c.mu.Unlock()
		return nil
	}
	c.life = lifeGone
	waiting := c.queue
	if c.last != nil {
		waiting = append(waiting, *c.last)
	}
	c.queue, c.last, c.out = nil, nil, nil
	c.r.alarm.set(c, time.Time{})
	sub := c.sub
	c.mu.Unlock()
	c.r.forget(c)
	if sub != nil {
		_ = sub.Unsubscribe()
	}
	return waiting
}

func (c *call) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.life == lifeGone
}
