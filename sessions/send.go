package sessions

import (
	"context"
	"strings"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
)

// outgoing is what is on its way to one receiver of a call. Guarded by call.mu.
type outgoing struct {
	busy  bool          // a request is under way, in a goroutine of its own
	again bool          // there is more than the request carries
	fresh bool          // the receiver found a gap: send all, the oldest marked First
	wait  time.Duration // pause before the next attempt
	at    time.Time     // of the next attempt; zero = when something happens
	first time.Time     // attempt since the receiver last took something
	gen   codecore.Generation
}

// outgoing returns the entry of a receiver, made if needed. c.mu is held.
func (c *call) outgoing(to string) *outgoing {
	if c.out == nil {
		c.out = map[string]*outgoing{}
	}
	if c.out[to] == nil {
		c.out[to] = &outgoing{}
	}
	return c.out[to]
}

// kick sends what is pending for a receiver, now or right after the request that
// is under way. c.mu is held.
func (c *call) kick(to string) {
	if c.life != lifeLive || c.frozen {
		return
	}
	o := c.outgoing(to)
	if o.busy {
		o.again = true
		return
	}
	o.at = time.Time{}
	o.busy = c.r.launch(func() { c.send(to, o) })
}

// soon sends what is pending for a receiver when Config.Gather is over, for what
// nobody waits for: the CDR of a call, the ports it gives back. The ends of the
// intervals are the same for all calls, so that one wake-up of each process
// concerned serves many. Whoever takes the call over meanwhile finds it pending.
// c.mu is held.
func (c *call) soon(to string, now time.Time) {
	o := c.outgoing(to)
	if o.busy {
		o.again = true
		return
	}
	if to == mediaPlane {
		o.gen = c.mediaGen
	}
	gather := c.r.cfg.Gather
	o.at = now.Truncate(gather).Add(gather)
}

// send makes requests to one receiver until nothing is left to say or one fails;
// then the alarm brings it back.
func (c *call) send(to string, o *outgoing) {
	for {
		attempt := c.compose(to, o)
		took := attempt != nil && attempt()
		c.mu.Lock()
		now := c.r.cfg.Now()
		switch {
		case attempt == nil:
			o.busy = false
			if c.out[to] == o {
				delete(c.out, to)
			}
		case took && o.again && !c.frozen && c.life == lifeLive:
			o.again, o.wait, o.first = false, 0, time.Time{}
			c.mu.Unlock()
			continue
		case took: // its Accepted waits in the queue; this is for the case that it does not do
			o.busy, o.again, o.wait, o.first = false, false, 0, time.Time{}
			o.at = now.Add(c.r.cfg.ConfirmWait)
		default:
			c.later(to, o, now)
		}
		if !c.running {
			c.arm()
		}
		c.mu.Unlock()
		return
	}
}

// later puts a receiver off after a failed attempt. c.mu is held.
func (c *call) later(to string, o *outgoing, now time.Time) {
	o.busy, o.again = false, false
	o.wait = min(max(2*o.wait, minBackOff), maxBackOff)
	o.at = now.Add(o.wait)
	if o.first.IsZero() {
		o.first = now
	}
	kind, _, _ := strings.Cut(to, ".")
	c.r.cfg.Observe.Resend(kind)
}

// compose says what is to be sent to a receiver now; nil is nothing.
func (c *call) compose(to string, o *outgoing) func() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life != lifeLive || c.frozen {
		return nil
	}
	if to == mediaPlane {
		if !c.mediaOwed() || c.state.Media.Node == "" {
			return nil
		}
		o.gen = c.mediaGen
		node, do := c.state.Media.Node, c.order()
		giveUp := codecore.Ended(c.state) && !o.first.IsZero() && c.r.cfg.Now().Sub(o.first) >= c.r.cfg.MediaGiveUp
		return func() bool { return c.doMedia(node, do) || giveUp && c.mediaGivenUp(do.Gen) }
	}
	boot := c.bootOf(to)
	if o.fresh {
		boot, o.fresh = "", false
	}
	actions := codecore.PendingFor(c.state, to, boot)
	if len(actions) == 0 {
		return nil
	}
	if to == receiverCDR {
		return func() bool { return c.doCDR(actions) }
	}
	do := Do{Call: c.id, Epoch: c.rec.Epoch, Actions: actions}
	return func() bool { return c.do(to, o, do) }
}

// do asks an edge to perform actions.
func (c *call) do(to string, o *outgoing, do Do) bool {
	var done Done
	if err := c.r.request(SubjectDo(to), c.r.cfg.DoTimeout, do, &done); err != nil {
		return false
	}
	c.r.noteBoot(to, done.Boot, time.Time{})
	last := do.Actions[len(do.Actions)-1].Seq
	if done.Gap {
		c.mu.Lock()
		o.fresh = true
		c.mu.Unlock()
		return false
	}
	c.tell(codecore.Accepted{To: to, Boot: done.Boot, Seq: done.Accepted})
	return done.Accepted >= last
}

// doMedia brings the media plane to the desired state.
func (c *call) doMedia(node string, do DoMedia) bool {
	var done MediaDone
	if err := c.r.request(SubjectDo("media."+node), c.r.cfg.DoTimeout, do, &done); err != nil {
		return false
	}
	if done.Reason != "" {
		c.r.cfg.Log.Warn("media plane refuses", "call", c.id, "node", node, "reason", done.Reason)
		return false
	}
	if do.Gen.Newer(done.Gen) {
		return false
	}
	c.mu.Lock()
	due := c.state.MediaDue
	if do.Gen == c.mediaGen {
		c.mediaHeld(done.Boot)
	}
	c.mu.Unlock()
	c.r.mediaSaid(node, done.Boot)
	if due {
		c.tell(codecore.MediaApplied{Gen: do.Gen})
	}
	return true
}

// mediaGivenUp lets a call that has ended be settled though its media plane has
// not answered for MediaGiveUp: that plane frees a leg without a record itself.
func (c *call) mediaGivenUp(gen codecore.Generation) bool {
	c.r.cfg.Log.Warn("media plane does not answer, its legs are left to it", "call", c.id)
	c.tell(codecore.MediaApplied{Gen: gen})
	return true
}

// doCDR stores CDRs.
func (c *call) doCDR(actions []codecore.Action) bool {
	for _, a := range actions {
		if a.CDR != nil {
			ctx, cancel := context.WithTimeout(c.r.ops, c.r.cfg.SaveTimeout)
			err := c.r.cfg.Store.AddCDR(ctx, *a.CDR)
			cancel()
			if err != nil {
				c.r.cfg.Log.Warn("CDR not stored yet", "call", c.id, "err", err)
				return false
			}
			c.r.cfg.Observe.Ended(*a.CDR)
		}
		c.tell(codecore.Accepted{To: receiverCDR, Seq: a.Seq})
	}
	return true
}

// reasonMediaAway is a media node's when it cannot give out ports yet, and ours when
// none answers.
const reasonMediaAway = "media-away"

// allocTry is for one answer: the node may have been killed with the question in hand.
const allocTry = 500 * time.Millisecond

// allocate asks the media plane of the event's edge for endpoints, again and
// again until AllocWait is over: the one effect that precedes the save.
func (c *call) allocate(ev codecore.Event, legs []codecore.LegID) codecore.Event {
	node := c.r.cfg.Node
	if req, ok := ev.(codecore.SIPRequest); ok && req.Edge != "" {
		node = req.Edge
	}
	c.mu.Lock()
	c.mediaHeld(c.bootOf("media." + node)) // or a younger one, which then is told once more
	c.mu.Unlock()
	end := time.Now().Add(c.r.cfg.AllocWait)
	for wait := minBackOff; ; wait = min(2*wait, maxBackOff) {
		var got codecore.Allocated
		err := c.r.request(SubjectAlloc("media."+node), min(time.Until(end), allocTry), Alloc{Call: c.id, Legs: legs}, &got)
		if err == nil && got.Reason != reasonMediaAway { // it starts, and reads which ports are taken
			return got
		}
		if time.Until(end) <= wait || c.sleep(wait) != nil {
			c.r.cfg.Log.Warn("no media endpoints", "call", c.id, "node", node, "err", err)
			return codecore.Allocated{Node: node, Reason: reasonMediaAway}
		}
	}
}

// locate asks the directory where an account is.
func (c *call) locate(account string) codecore.Located {
	ctx, cancel := context.WithTimeout(c.r.ops, c.r.cfg.LocateWait)
	defer cancel()
	return c.r.cfg.Locate(ctx, account)
}

// request is one exchange in envelopes.
func (r *Runner) request(subject string, timeout time.Duration, in, out any) error {
	data, err := wire.Seal(in)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.ops, timeout)
	defer cancel()
	answer, err := r.cfg.Bus.Request(ctx, subject, data)
	if err != nil {
		return err
	}
	return wire.Open(answer, out)
}
