package sessions

import (
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
)

// Errors of one Step.
var (
	errPanicked = errors.New("sessions: step panicked")
	errStopped  = errors.New("sessions: runner stops")
	errGone     = errors.New("sessions: call is not ours any more")
	errEncode   = errors.New("sessions: state cannot be encoded, or no store takes it")
)

// work is what one event does to a call before any of it is saved.
type work struct {
	now     time.Time
	what    string // name of the event
	state   codecore.State
	actions []codecore.Action
	reasons []string // codes of what was refused or hung up
	save    bool     // a successor could miss it
	failed  bool     // the code panicked: state is the old one, with the event's number
	repeat  bool     // of an event that was taken before
	changed bool
	saved   bool // it is in the store
}

// begin copies what Note changes, so that a Step that fails leaves nothing.
func (c *call) begin(what string) *work {
	w := &work{now: c.r.cfg.Now(), what: what, state: c.state}
	w.state.Peers = maps.Clone(w.state.Peers)
	return w
}

// maxLocate bounds the accounts that one event may ask for.
const maxLocate = 32

// step runs the call's code on one event. A panic leaves w as it was.
func (c *call) step(w *work, ev codecore.Event) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.r.cfg.Observe.Panic(w.what)
			c.r.cfg.Log.Error("step panicked", "call", c.id, "event", w.what, "phase", w.state.Phase,
				"panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("%w: %v", errPanicked, p)
		}
	}()
	next, res := c.code(w.state, w.now, ev)
	if c.isNew() { // at once: others may ask for the same while it is being allocated and saved
		c.r.tally.set(c.id, codecore.Occupied(next), w.now)
	}
	actions, save, reasons := res.Actions, res.Save, res.Reasons
	for n := 0; res.Locate != "" && n < maxLocate; n++ {
		var more codecore.Result
		next, more = c.code(next, w.now, c.locate(res.Locate))
		res.Allocate, res.Locate = more.Allocate, more.Locate
		actions, save, reasons = append(actions, more.Actions...), save || more.Save, append(reasons, more.Reasons...)
	}
	if len(res.Allocate) > 0 {
		var more codecore.Result
		next, more = c.code(next, w.now, c.allocate(ev, res.Allocate))
		actions, save, reasons = append(actions, more.Actions...), true, append(reasons, more.Reasons...)
	}
	w.state, w.changed = next, true
	w.actions, w.reasons = append(w.actions, actions...), append(w.reasons, reasons...)
	w.save = w.save || save
	for _, a := range actions {
		// Nothing that is repeated may be uncommitted, whatever Save says.
		w.save = w.save || a.Seq > 0
	}
	return nil
}

// code runs codecore.Step; while it does, a crash of the process is this call's.
func (c *call) code(s codecore.State, now time.Time, ev codecore.Event) (codecore.State, codecore.Result) {
	defer c.r.cfg.Stepping(c.id)()
	return c.r.step(s, now, ev)
}

// takeMessage takes one Delivery: dedupe, Step, save, answer, act.
func (c *call) takeMessage(it *item) {
	d := it.delivery
	if d == nil {
		d = new(Delivery)
		if err := wire.Open(it.msg.Data, d); err != nil {
			c.r.bad("envelope", it.msg.Subject, err)
			return
		}
	}
	if d.Call != c.id || d.Event.Event() == nil || d.From == "" || !fromOutside(*d) {
		c.r.bad("event", it.msg.Subject, nil)
		c.r.answer(c.replyTo(it), Answer{Call: d.Call, Num: d.Num, Status: StatusRefused, Code: 400, Reason: "bad-event"})
		return
	}
	if c.isNew() && !begins(*d) {
		// It overtook the INVITE on another way.
		c.r.answer(c.replyTo(it), Answer{Call: d.Call, Num: d.Num, Status: StatusLater})
		return
	}
	if c.putOff(it, d) {
		return
	}
	w := c.begin(eventName(d.Event.Event()))
	noted := codecore.NotedNew
	if d.Num > 0 {
		noted = w.state.Note(d.From, d.Boot, d.Num)
		w.changed = noted == codecore.NotedNew
	}
	if noted == codecore.NotedStale {
		c.r.answer(c.replyTo(it), Answer{Call: d.Call, Num: d.Num, Status: StatusRefused, Code: 503, Reason: "stale-incarnation"})
		return
	}
	if p := w.state.Peers[d.From]; d.Accepted > p.Accepted && d.Accepted <= p.Minted && d.Boot >= p.Boot {
		_ = c.step(w, codecore.Accepted{To: d.From, Boot: d.Boot, Seq: d.Accepted})
	}
	if noted == codecore.NotedNew {
		if c.step(w, c.prepare(d.Event.Event())) != nil {
			w.failed, w.save = true, true
		}
	} else {
		w.repeat, w.what = true, "repeat of "+w.what
	}
	if w.failed && c.isNew() {
		c.r.answer(c.replyTo(it), Answer{Call: d.Call, Num: d.Num, Status: StatusFailed})
		c.end()
		return
	}
	if err := c.commit(w); err != nil {
		c.notCommitted(it, d, err)
		return
	}
	c.reply(it, d, w)
}

// prepare gives an event what it may not carry itself.
func (c *call) prepare(ev codecore.Event) codecore.Event {
	asked := func() (*codecore.Plan, map[string]string) {
		p := c.r.cfg.Plan()
		return p, c.r.full(p, c.r.cfg.Now())
	}
	switch ev := ev.(type) {
	case codecore.TransferTo:
		ev.Plan, ev.Full = asked()
		return ev
	case codecore.SIPResponse:
		if ev.Plan, ev.Full = nil, nil; ev.Msg.Status/100 == 3 && ev.Msg.Method == "INVITE" {
			ev.Plan, ev.Full = asked()
		}
		return ev
	case codecore.SIPRequest:
		if ev.Plan, ev.Full = nil, nil; ev.Msg.Method == "REFER" || c.isNew() {
			ev.Plan, ev.Full = asked()
		}
		if c.isNew() {
			c.dialled = ev.At
		}
		return ev
	}
	return ev
}

// notCommitted ends what could not be saved: nobody may act on it.
func (c *call) notCommitted(it *item, d *Delivery, err error) {
	a := Answer{Call: d.Call, Num: d.Num, Status: StatusLater}
	switch {
	case errors.Is(err, errStopped), errors.Is(err, errGone):
		return // another owner, or the next process, is asked again
	case errors.Is(err, ErrFull):
		a.Status, a.Code, a.Reason, a.After = StatusRefused, 503, "store-full", 10
		c.r.cfg.Observe.Refused(a.Reason)
		c.r.answer(c.replyTo(it), a)
		c.end()
	case errors.Is(err, errEncode):
		a.Status = StatusFailed
		c.r.answer(c.replyTo(it), a)
		if c.isNew() {
			c.end()
		}
	case errors.Is(err, ErrConflict) && c.isNew():
		// Another worker made this call of a re-sent INVITE: it knows the answer.
		for _, w := range append(c.end(), *it) {
			if w.creates() {
				c.r.launch(func() { c.r.forward(c.id, w.msg) })
			}
		}
	case errors.Is(err, ErrConflict):
		c.r.lost(c, "conflict")
	}
}

// takeOwn takes an event of the Runner's own; one that is outdated is left.
func (c *call) takeOwn(ev codecore.Event) {
	if applied, ok := ev.(codecore.MediaApplied); ok && applied.Gen != c.mediaGen {
		return
	}
	c.stepOwn(ev)
}

func (c *call) stepOwn(ev codecore.Event) {
	if c.isNew() {
		return
	}
	w := c.begin(eventName(ev))
	if c.step(w, ev) != nil {
		return
	}
	switch err := c.commit(w); {
	case err == nil:
		c.perform(w, "")
	case errors.Is(err, ErrConflict):
		c.r.lost(c, "conflict")
	}
}

// takeDue takes deadlines and re-sends that have come.
func (c *call) takeDue() {
	now := c.r.cfg.Now()
	c.mu.Lock()
	timers := c.state.Timers
	late := now.Before(c.lateUntil)
	for to, o := range c.out {
		if !o.busy && !o.at.IsZero() && !o.at.After(now) {
			c.kick(to)
		}
	}
	c.mu.Unlock()
	if late {
		return
	}
	for _, d := range timers {
		if !d.At.After(now) && c.has(d) {
			c.stepOwn(codecore.Fired{Timer: d.Timer})
		}
		if c.has(d) && !d.At.After(now) {
			// The code did not take it: not again at once, for ever.
			c.mu.Lock()
			c.lateUntil = now.Add(time.Second)
			c.mu.Unlock()
		}
	}
}

// has reports whether a deadline still stands after the ones before it fired.
func (c *call) has(d codecore.Deadline) bool {
	for _, e := range c.state.Timers {
		if e.Timer == d.Timer && e.At.Equal(d.At) {
			return !c.gone()
		}
	}
	return false
}

func (c *call) isNew() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.life == lifeNew
}
