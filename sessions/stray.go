package sessions

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"callswitch/codecore"
	"callswitch/internal/wire"
)

// onOrphan answers for calls that nobody listened for.
func (r *Runner) onOrphan(m Msg) {
	if r.tooBig(m) {
		return
	}
	var o Orphan
	if err := wire.Open(m.Data, &o); err != nil {
		r.bad("envelope", m.Subject, err)
		return
	}
	d := o.Delivery
	if !validID(d.Call) || d.Event.Event() == nil || d.From == "" || !fromOutside(d) {
		r.bad("event", m.Subject, nil)
		return
	}
	if c := r.lookup(d.Call); c != nil {
		if !c.put(item{msg: m, delivery: &d}) {
			r.overflow(m)
		}
		return
	}
	r.stray(m.Reply, d)
}

// stray looks a call up that is not here, a few at a time.
func (r *Runner) stray(reply string, d Delivery) {
	select {
	case r.strays <- struct{}{}:
	default:
		r.answer(reply, Answer{Call: d.Call, Num: d.Num, Status: StatusLater})
		return
	}
	if !r.launch(func() {
		defer func() { <-r.strays }()
		r.answer(reply, r.lookUp(d))
	}) {
		<-r.strays
	}
}

// lookUp answers a Delivery from the record.
func (r *Runner) lookUp(d Delivery) Answer {
	a := Answer{Call: d.Call, Num: d.Num, Status: StatusLater}
	ctx, cancel := context.WithTimeout(r.ops, r.cfg.SaveTimeout)
	defer cancel()
	rec, err := r.cfg.Store.Get(ctx, d.Call)
	switch {
	case errors.Is(err, ErrNotFound):
		if r.cfg.Foreign == nil || !r.cfg.Foreign(d.Call) {
			a.Status = StatusUnknown
		}
	case err != nil:
	case rec.Tomb:
		state, err := codecore.Decode(rec.Schema, rec.Body)
		if err != nil {
			r.cfg.Log.Warn("tombstone cannot be read", "call", d.Call, "err", err)
			a.Status = StatusUnknown
			return a
		}
		return r.fromTomb(state, d)
	case rec.Owner == r.cfg.ID && r.lookup(d.Call) == nil, rec.Owner != r.cfg.ID && !r.cfg.Alive(rec.Owner):
		r.cfg.Claim(d.Call)
	}
	return a
}

// fromTomb answers for an ended call. Nothing is saved, so what it says is
// lossy: a repeat is answered again.
func (r *Runner) fromTomb(s codecore.State, d Delivery) (a Answer) {
	a = Answer{Call: d.Call, Num: d.Num, Status: StatusOK}
	defer func() {
		if p := recover(); p != nil {
			r.cfg.Observe.Panic("tombstone")
			r.cfg.Log.Error("step of a tombstone panicked", "call", d.Call, "panic", fmt.Sprint(p))
			a.Status = StatusFailed
		}
	}()
	s.Peers = maps.Clone(s.Peers)
	if d.Num > 0 && s.Note(d.From, d.Boot, d.Num) != codecore.NotedNew {
		return a
	}
	_, res := r.step(s, r.cfg.Now(), d.Event.Event())
	for _, why := range res.Reasons {
		r.cfg.Observe.Reason(why)
	}
	for _, act := range res.Actions {
		if act.To == d.From {
			act.Seq, act.First = 0, false
			a.Actions = append(a.Actions, act)
		}
	}
	return a
}

// forward passes a re-sent INVITE to the owner of the call it has begun, and
// the owner's answer back.
func (r *Runner) forward(id codecore.CallID, m Msg) {
	ctx, cancel := context.WithTimeout(r.ops, r.cfg.SaveTimeout)
	defer cancel()
	answer, err := r.cfg.Bus.Request(ctx, SubjectCall(id), m.Data)
	if err == nil {
		if m.Reply != "" {
			_ = r.cfg.Bus.Publish(m.Reply, answer)
		}
		return
	}
	var d Delivery
	if errors.Is(err, ErrNoResponders) && wire.Open(m.Data, &d) == nil {
		r.stray(m.Reply, d)
	}
}
