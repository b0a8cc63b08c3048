package registrant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// tend steps a registration of ours and saves what has changed. An error says
// that it was not saved, and the step is as if it had not been.
func (k *Keeper) tend(ctx context.Context, id codecore.CallID, h *held, step func(State) State) error {
	now := k.cfg.Now()
	next, err := k.try(h.rec.State, step)
	if err != nil {
		h.wait = now.Add(time.Minute)
		k.cfg.Observe(h.rec.State.Peer, "panic")
		k.cfg.Log.Error("step of a registration panicked; it stays as it is for a minute", "trunk", h.rec.State.Peer, "err", err)
		return nil
	}
	if reflect.DeepEqual(next, h.rec.State) {
		return nil
	}
	rec := h.rec
	rec.State, rec.Release = next, k.cfg.Release
	rec.N++
	rev, err := k.put(ctx, id, rec, h.rev, 0)
	if err != nil {
		return k.unsaved(h, err)
	}
	k.news(h.rec.State, next)
	h.rec, h.rev, h.sent = rec, rev, time.Time{}
	return nil
}

// remove forgets a registration of which nothing is left.
func (k *Keeper) remove(ctx context.Context, id codecore.CallID, h *held) error {
	if _, err := k.put(ctx, id, Record{}, h.rev, tombFor); err != nil {
		return k.unsaved(h, err)
	}
	s := &h.rec.State
	k.cfg.Observe(s.Peer, "removed")
	k.cfg.Log.Info("no registration any more", "trunk", s.Peer, "why", s.Reason)
	k.silence(h)
	delete(k.held, id)
	return nil
}

// try runs code on a state; what it panics with is an error.
func (k *Keeper) try(s State, step func(State) State) (next State, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("registrant: %v", p)
		}
	}()
	return step(s), nil
}

// put writes a record; one without an owner is none.
func (k *Keeper) put(ctx context.Context, id codecore.CallID, rec Record, rev uint64, keep time.Duration) (uint64, error) {
	var value []byte
	if rec.Owner != "" {
		var err error
		if value, err = json.Marshal(rec); err != nil {
			return 0, fmt.Errorf("registrant: %w", err)
		}
	}
	return k.cfg.Store.Put(ctx, string(id), value, rev, keep)
}

// unsaved deals with a write that was not made. After a conflict the record is
// another's, or a write of ours was made after all: the next round reads it.
func (k *Keeper) unsaved(h *held, err error) error {
	if errors.Is(err, sessions.ErrConflict) {
		k.lose(h, "conflict")
		return err
	}
	k.cfg.Log.Warn("registration not saved", "trunk", h.rec.State.Peer, "err", err)
	return err
}

// do sends the action to its edge; nobody waits for the answer, since what counts
// is the registrar's.
func (k *Keeper) do(id codecore.CallID, h *held, a codecore.Action, now time.Time) {
	h.sent = now
	data, err := wire.Seal(sessions.Do{Call: id, Epoch: h.rec.Epoch, Actions: []codecore.Action{a}})
	if err == nil {
		err = k.cfg.Bus.Publish(sessions.SubjectDo(a.To), data)
	}
	if err != nil {
		k.cfg.Log.Warn("REGISTER not handed to the edge, trying again", "trunk", h.rec.State.Peer, "edge", a.To, "err", err)
	}
}

// news tells of a step that was saved.
func (k *Keeper) news(before, after State) {
	log := k.cfg.Log.With("trunk", after.Peer)
	if after.CSeq > before.CSeq {
		k.cfg.Observe(after.Peer, "sent")
	}
	switch {
	case after.Fails > before.Fails:
		k.cfg.Observe(after.Peer, after.Reason)
		log.Warn("registration failed", "reason", after.Reason, "status", after.Status, "again", after.Next, "bound_until", after.Until)
	case after.Until.After(before.Until):
		k.cfg.Observe(after.Peer, "granted")
		if before.Since.IsZero() {
			log.Info("registered", "aor", after.Account.AOR, "until", after.Until)
		}
	}
}

// deliver takes an edge's event: the registrar's answer, or that there is none.
func (k *Keeper) deliver(ctx context.Context, m sessions.Msg) {
	var d sessions.Delivery
	if err := wire.Open(m.Data, &d); err != nil {
		k.cfg.Log.Warn("event not read", "err", err)
		return
	}
	a := sessions.Answer{Call: d.Call, Num: d.Num, Status: sessions.StatusLater}
	if h := k.held[d.Call]; h != nil && k.mine(h) && k.take(ctx, h, &d) == nil {
		a.Status = sessions.StatusOK
		if next, ok := h.rec.State.Request(); ok && next.To == d.From && next.Seq > d.Accepted {
			h.sent = k.cfg.Now()
			a.Actions = []codecore.Action{next}
		}
	}
	data, err := wire.Seal(a)
	if err == nil && m.Reply != "" {
		err = k.cfg.Bus.Publish(m.Reply, data)
	}
	if err != nil {
		k.cfg.Log.Debug("event not answered", "err", err)
	}
}

func (k *Keeper) take(ctx context.Context, h *held, d *sessions.Delivery) error {
	now := k.cfg.Now()
	var step func(State) State
	switch e := d.Event.Event().(type) {
	case codecore.SIPResponse:
		step = func(s State) State { return s.Answered(e, now) }
	case codecore.SIPTimeout:
		step = func(s State) State { return s.TimedOut(e, now) }
	default:
		return nil // Accepted, and what no registration needs
	}
	return k.tend(ctx, d.Call, h, step)
}
