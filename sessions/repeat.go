package sessions

import (
	"time"

	"callswitch/codecore"
)

// A media node confirms an order before its own record of it is written, so a
// node that is killed may have forgotten what it confirmed. The owners have not:
// when a node has a new incarnation, they tell it once more what each of their
// calls there desires, under the generation that it had. The node takes what it
// does not hold and passes over the rest. It is a level: what counts is whether
// the incarnation that confirmed is the youngest one heard of, not whether some
// announcement was heard.

const (
	repeatBatch = 64               // orders in one message
	bootYoung   = 30 * time.Second // so long after a node's restart its former owner may not have repeated yet
)

// heard is the newest incarnation of a receiver, and since when there is one.
type heard struct {
	boot string
	at   time.Time
}

// desired is what the media plane should hold for the call. Before any SDP is
// answered that is the ports alone, which must not become another call's. c.mu
// is held.
func (c *call) desired() codecore.Media {
	m := c.state.Media
	if len(m.Legs) > 0 || m.Node == "" || codecore.Ended(c.state) {
		return m
	}
	for _, l := range []struct {
		id codecore.LegID
		at codecore.MediaEndpoint
	}{{codecore.LegA, c.state.A.Media}, {codecore.LegB, c.state.B.Media}} {
		if l.at.Port != 0 {
			m.Legs = append(m.Legs, codecore.MediaLeg{Leg: l.id, Port: l.at.Port})
		}
	}
	return m
}

// mediaAnew reports whether the media node has begun anew since it last confirmed
// anything of the call. c.mu is held.
func (c *call) mediaAnew() bool {
	node := c.state.Media.Node
	return node != "" && c.bootOf("media."+node) > c.mediaBoot
}

// mediaForgot reports whether the media node may not hold what it has confirmed.
// c.mu is held.
func (c *call) mediaForgot() bool {
	return !c.state.MediaDue && !codecore.Ended(c.state) && c.mediaAnew() && len(c.desired().Legs) > 0
}

// mediaOwed reports whether there is anything to tell the media plane. c.mu is held.
func (c *call) mediaOwed() bool { return c.state.MediaDue || c.mediaForgot() }

// mediaHeld notes that the incarnation boot holds what the call desires. c.mu is held.
func (c *call) mediaHeld(boot string) { c.mediaBoot = max(c.mediaBoot, boot) }

// mediaKnown is for a call that has come from elsewhere: its former owner has
// told the node all, unless it may not have had the time. c.mu is held.
func (c *call) mediaKnown() {
	now := c.r.cfg.Now()
	if now.Sub(c.rec.Claimed) < bootYoung { // an owner that died may have left it undone
		return
	}
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if h := c.r.boots["media."+c.state.Media.Node]; now.Sub(h.at) >= bootYoung {
		c.mediaBoot = h.boot
	}
}

// remind has repeat run soon, once for all calls that ask for it meanwhile.
func (r *Runner) remind(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reminds[node] || len(r.reminds) >= maxBoots {
		return
	}
	r.reminds[node] = true
	if !r.launch(func() { r.repeat(node) }) {
		delete(r.reminds, node)
	}
}

// repeat tells a media node what all calls desire that it may have forgotten,
// many in one message and one message at a time. Among them are those whose order
// is under way: it may have gone to the process that died.
func (r *Runner) repeat(node string) {
	time.Sleep(remindWait)
	r.mu.Lock()
	delete(r.reminds, node) // who asks from now on is not sure to be among these
	r.mu.Unlock()
	var calls []*call
	var orders []DoMedia
	for _, c := range r.snapshotCalls() {
		c.mu.Lock()
		if c.life == lifeLive && !c.frozen && c.state.Media.Node == node && c.mediaAnew() && c.mediaOwed() {
			calls = append(calls, c)
			orders = append(orders, c.order())
		}
		c.mu.Unlock()
		if len(orders) == repeatBatch {
			r.repeatSome(node, calls, orders)
			calls, orders = nil, nil
		}
	}
	r.repeatSome(node, calls, orders)
}

// remindWait lets calls that come in a row, adopted or with their new owner, be
// told of together.
const remindWait = 20 * time.Millisecond

// repeatSome is one message. What the node does not confirm (it is away, or of a
// release that reads the first order only) goes on alone, with its own back-off.
func (r *Runner) repeatSome(node string, calls []*call, orders []DoMedia) {
	if len(orders) == 0 || r.isStopping() {
		return
	}
	do := orders[0]
	do.More = orders[1:]
	var done MediaDone
	if err := r.request(SubjectDo("media."+node), r.cfg.DoTimeout, do, &done); err != nil {
		r.cfg.Log.Debug("media not repeated yet", "node", node, "calls", len(calls), "err", err)
		done = MediaDone{}
	}
	all := append([]MediaDone{done}, done.More...)
	for i, c := range calls {
		c.mu.Lock()
		if i < len(all) && all[i].Reason == "" && done.Boot != "" && !orders[i].Gen.Newer(all[i].Gen) {
			due := c.state.MediaDue
			if orders[i].Gen == c.mediaGen {
				c.mediaHeld(done.Boot)
			}
			c.mu.Unlock()
			if due {
				c.tell(codecore.MediaApplied{Gen: orders[i].Gen}) // of an older generation: left
			}
			continue
		}
		if c.mediaOwed() {
			c.kick(mediaPlane)
		}
		c.mu.Unlock()
	}
	r.mediaSaid(node, done.Boot)
}

// mediaSaid notes an incarnation that an answer names: the announcement of it may
// have been lost.
func (r *Runner) mediaSaid(node, boot string) {
	if len(boot) <= maxBootLen && r.noteBoot("media."+node, boot, time.Time{}) {
		r.remind(node)
	}
}

// order is the desired state as it is sent. c.mu is held.
func (c *call) order() DoMedia {
	return DoMedia{Call: c.id, Gen: c.mediaGen, Media: c.desired()}
}
