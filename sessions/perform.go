package sessions

import (
	"slices"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
)

// mediaPlane is the key in call.out of the desired media state.
const mediaPlane = "media"

// receiverCDR is the receiver of CDRs, which is the store.
const receiverCDR = "cdr"

// said is the part of an answer that is kept nowhere else. A sender that has not heard
// it asks again, and is told again, until it says something else.
type said struct {
	to, boot string
	num      uint64
	failed   bool
	actions  []codecore.Action // lossy
}

// reply answers the sender with its actions, then does the rest.
func (c *call) reply(it *item, d *Delivery, w *work) {
	to := c.replyTo(it)
	a := Answer{Call: d.Call, Num: d.Num, Status: StatusOK}
	once := c.once(d, w, to != "")
	if once.failed {
		a.Status = StatusFailed
	}
	a.Actions = append(codecore.PendingFor(w.state, d.From, d.Boot), once.actions...)
	c.r.answer(to, a)
	sender := d.From
	if to == "" {
		sender = "" // it hears nothing this way
	}
	c.perform(w, sender)
}

// once is what the answer to an event has besides what is pending. What nobody waits
// for an answer to is told one way (publishLossy), and not again.
func (c *call) once(d *Delivery, w *work, awaited bool) said {
	now := said{d.From, d.Boot, d.Num, w.failed, lossy(w.actions, d.From)}
	if d.Num == 0 { // a confirmation
		return now
	}
	if w.repeat {
		for _, before := range c.said {
			if before.to == d.From && before.boot == d.Boot && before.num == d.Num {
				return before
			}
		}
		return now
	}
	c.said = slices.DeleteFunc(c.said, func(before said) bool { return before.to == d.From })
	if !awaited {
		now.actions = nil
	}
	switch {
	case now.failed || len(now.actions) > 0:
		c.said = append(c.said, now)
	case len(c.said) == 0:
		c.said = nil // a talking call keeps nothing
	}
	return now
}

// replyTo returns where the answer to it is awaited now, and ends the waiting:
// a repeat that comes after this is answered by itself.
func (c *call) replyTo(it *item) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hand = nil
	return it.msg.Reply
}

// lossy returns the actions for to that are performed at most once.
func lossy(actions []codecore.Action, to string) []codecore.Action {
	var out []codecore.Action
	for _, a := range actions {
		if a.Seq == 0 && a.To == to {
			out = append(out, a)
		}
	}
	return out
}

// perform carries out what has been committed: actions for receivers other than
// sender, the media plane, and the end of the call.
func (c *call) perform(w *work, sender string) {
	c.observe(w)
	c.publishLossy(w.actions, sender)
	if codecore.Settled(w.state) {
		c.bury(w.state)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweep()
	for _, to := range receivers(c.state.Pending) {
		switch {
		case len(codecore.PendingFor(c.state, to, c.bootOf(to))) == 0:
		case to == sender:
			// Its next event, or 200 ms, confirms them; this is for neither.
			if o := c.outgoing(to); !o.busy {
				o.at = w.now.Add(c.r.cfg.ConfirmWait)
			}
		case !c.minted(w, to) && c.out[to] != nil:
		case to == receiverCDR:
			c.soon(to, w.now)
		default:
			c.kick(to)
		}
	}
	switch o := c.out[mediaPlane]; {
	case c.mediaForgot() && o == nil:
		c.r.remind(c.state.Media.Node)
	case !c.state.MediaDue, o != nil && o.gen == c.mediaGen:
	case len(c.state.Media.Legs) == 0:
		c.soon(mediaPlane, w.now)
	default:
		c.kick(mediaPlane)
	}
}

func (c *call) minted(w *work, to string) bool {
	for _, a := range w.actions {
		if a.To == to && a.Seq > 0 {
			return true
		}
	}
	return false
}

// sweep forgets receivers that have taken everything. c.mu is held.
func (c *call) sweep() {
	for to, o := range c.out {
		if o.busy {
			continue
		}
		if to == mediaPlane && !c.mediaOwed() ||
			to != mediaPlane && len(codecore.PendingFor(c.state, to, c.bootOf(to))) == 0 {
			delete(c.out, to)
		}
	}
	if len(c.out) == 0 {
		c.out = nil // a talking call keeps nothing
	}
}

// receivers lists who has something pending, each once, in order.
func receivers(pending []codecore.Action) []string {
	var out []string
next:
	for _, a := range pending {
		for _, to := range out {
			if to == a.To {
				continue next
			}
		}
		out = append(out, a.To)
	}
	return out
}

// publishLossy sends provisional responses and the like, once.
func (c *call) publishLossy(actions []codecore.Action, sender string) {
	var done []string
	for _, a := range actions {
		if a.Seq != 0 || a.To == sender || a.To == receiverCDR || slices.Contains(done, a.To) {
			continue
		}
		done = append(done, a.To)
		data, err := wire.Seal(Do{Call: c.id, Epoch: c.rec.Epoch, Actions: lossy(actions, a.To)})
		if err == nil {
			_ = c.r.cfg.Bus.Publish(SubjectDo(a.To), data)
		}
	}
}

// bury ends a call whose tombstone has been saved: who still asks gets the
// tombstone's answer.
func (c *call) bury(s codecore.State) {
	for _, it := range c.end() {
		if it.msg.Data == nil {
			continue
		}
		d := new(Delivery)
		if it.delivery != nil {
			d = it.delivery
		} else if wire.Open(it.msg.Data, d) != nil {
			continue
		}
		if it.msg.Reply != "" {
			c.r.answer(it.msg.Reply, c.r.fromTomb(s, *d))
		}
	}
}

// answer sends an Answer to where it is awaited; nobody there is no error: the
// sender asks again.
func (r *Runner) answer(reply string, a Answer) {
	if reply == "" {
		return
	}
	data, err := wire.Seal(a)
	if err != nil {
		r.cfg.Log.Error("answer cannot be sealed", "call", a.Call, "err", err)
		return
	}
	if err := r.cfg.Bus.Publish(reply, data); err != nil {
		r.cfg.Log.Debug("answer not sent", "call", a.Call, "err", err)
	}
}

// observe tells what happened, in numbers, in the log and in the call's story.
func (c *call) observe(w *work) {
	c.r.cfg.Observe.Step(w.what, string(w.state.Phase), c.r.cfg.Now().Sub(w.now))
	for _, why := range w.reasons {
		c.r.cfg.Observe.Reason(why)
	}
	if !c.dialled.IsZero() {
		for _, a := range w.actions {
			if a.Response != nil && a.Response.Msg.Method == "INVITE" && a.Response.Msg.Status >= 180 {
				if a.Response.Msg.Status < 300 {
					c.r.cfg.Observe.PostDial(max(w.now.Sub(c.dialled), 0))
				}
				c.dialled = time.Time{}
				break
			}
		}
	}
	c.trace(w)
}
