package sessions

import (
	"strings"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
)

// fromOutside reports whether a Delivery may carry its event: what only the
// Runner can know is not taken from the bus, nor another's acceptance.
func fromOutside(d Delivery) bool {
	switch ev := d.Event.Event().(type) {
	case codecore.Fired, codecore.Allocated, codecore.MediaApplied, codecore.Located:
		return false
	case codecore.Accepted:
		return ev.To == d.From && ev.Boot == d.Boot
	}
	return true
}

// begins reports whether a Delivery can begin a call.
func begins(d Delivery) bool {
	req, ok := d.Event.Event().(codecore.SIPRequest)
	return ok && req.Msg.Method == "INVITE"
}

// validID reports whether id can be a call's: it becomes part of subjects.
func validID(id codecore.CallID) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	for _, b := range []byte(id) {
		if (b < '0' || b > '9') && (b < 'a' || b > 'z') && b != '-' {
			return false
		}
	}
	return true
}

// onCall takes the messages of all calls held here; it must not block.
func (r *Runner) onCall(m Msg) {
	id, ok := strings.CutPrefix(m.Subject, "call.")
	if !ok {
		return
	}
	c := r.lookup(codecore.CallID(strings.TrimSuffix(id, ".in")))
	if c == nil || r.tooBig(m) {
		return
	}
	if !c.put(item{msg: m}) {
		r.overflow(m)
	}
}

// overflow tells a sender to come back later: this call has enough to do.
func (r *Runner) overflow(m Msg) {
	var d struct {
		Call codecore.CallID `json:"call"`
		Num  uint64          `json:"num"`
	}
	r.bad("overflow", m.Subject, nil)
	if wire.Open(m.Data, &d) == nil {
		r.answer(m.Reply, Answer{Call: d.Call, Num: d.Num, Status: StatusLater})
	}
}

// onNew takes the INVITEs that begin calls.
func (r *Runner) onNew(m Msg) {
	if r.tooBig(m) {
		return
	}
	d := new(Delivery)
	if err := wire.Open(m.Data, d); err != nil {
		r.bad("envelope", m.Subject, err)
		return
	}
	if !begins(*d) || !validID(d.Call) || d.From == "" {
		r.bad("event", m.Subject, nil)
		r.answer(m.Reply, Answer{Call: d.Call, Num: d.Num, Status: StatusRefused, Code: 400, Reason: "bad-event"})
		return
	}
	c := r.lookup(d.Call)
	if c == nil {
		if c = r.admit(m, d); c == nil {
			return
		}
	}
	if !c.put(item{msg: m, delivery: d}) {
		r.overflow(m)
	}
}

// admit makes a new call, or says why not and returns nil.
func (r *Runner) admit(m Msg, d *Delivery) *call {
	later := Answer{Call: d.Call, Num: d.Num, Status: StatusLater}
	// While saves wait for the store, they find out when it is back; a new call
	// would only wait with them.
	if r.drained.Load() || r.away.Load() > 0 {
		r.answer(m.Reply, later)
		return nil
	}
	if ok, reason, after := r.cfg.Admit(); !ok {
		r.cfg.Observe.Attempt()
		r.cfg.Observe.Refused(reason)
		r.answer(m.Reply, Answer{Call: d.Call, Num: d.Num, Status: StatusRefused, Code: 503, Reason: reason, After: after})
		return nil
	}
	c, fresh, err := r.enter(d.Call, lifeNew)
	if err != nil {
		r.answer(m.Reply, later)
		return nil
	}
	if fresh {
		r.cfg.Observe.Attempt()
	}
	return c
}

func (r *Runner) tooBig(m Msg) bool {
	if len(m.Data) <= r.cfg.MaxMsg {
		return false
	}
	r.bad("size", m.Subject, nil)
	return true
}

// bad counts a message that cannot be used.
func (r *Runner) bad(why, subject string, err error) {
	r.cfg.Observe.Bad(why)
	r.cfg.Log.Debug("message not used", "why", why, "subject", subject, "err", err)
}

// onAnnounce learns a receiver's new incarnation and sends it what is pending.
func (r *Runner) onAnnounce(m Msg) {
	var a Announce
	if err := wire.Open(m.Data, &a); err != nil {
		r.bad("envelope", m.Subject, err)
		return
	}
	if len(a.Name) > 128 || len(a.Boot) > maxBootLen || SubjectAnnounce(a.Name) != m.Subject || !r.noteBoot(a.Name, a.Boot, a.Began) {
		return
	}
	if node, ok := strings.CutPrefix(a.Name, "media."); ok {
		r.remind(node)
	}
	for _, c := range r.snapshotCalls() {
		c.receiverIsNew(a.Name)
	}
}

// What is remembered of receivers is bounded.
const (
	maxBoots   = 4096
	maxBootLen = 128
)

// noteBoot remembers the newest incarnation of a receiver; it reports whether
// boot is news. began is when it did so, zero: now, for all we know.
func (r *Runner) noteBoot(name, boot string, began time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, known := r.boots[name]
	if boot <= old.boot || !known && len(r.boots) >= maxBoots {
		return false
	}
	if began.IsZero() {
		began = r.cfg.Now()
	}
	r.boots[name] = heard{boot, began}
	return true
}

// bootOf returns the newest incarnation of a receiver that this call or the
// Runner has heard of. c.mu is held.
func (c *call) bootOf(to string) string {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	return max(c.r.boots[to].boot, c.state.Peers[to].Boot)
}

// receiverIsNew sends a receiver's new incarnation what is pending for it.
func (c *call) receiverIsNew(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life != lifeLive || c.frozen {
		return
	}
	if c.state.Peers[name].Boot < c.bootOf(name) && len(codecore.PendingFor(c.state, name, c.bootOf(name))) > 0 {
		c.kick(name)
	}
}
