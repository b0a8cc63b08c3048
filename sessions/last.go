package sessions

import (
	"slices"
	"time"

	"callswitch/codecore"
)

// lastWait is how long the answer to a BYE waits for the CDR and the media plane:
// less than its sender waits before it sends again.
const lastWait = 100 * time.Millisecond

// putOff keeps back the event that is not yet taken, nor acknowledged: the answer
// to our BYE, which nobody waits for, while the CDR is not stored or the legs are
// not free. Taken after them it is the last thing the call waits for, and what is
// saved of it is the tombstone, one save instead of two. It reports false when
// the event is to be taken now.
func (c *call) putOff(it *item, d *Delivery) bool {
	ev, ok := d.Event.Event().(codecore.SIPResponse)
	if !ok || ev.Msg.Method != "BYE" || !it.until.IsZero() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life != lifeLive || c.frozen || c.last != nil || !codecore.Ended(c.state) || !c.obliged() {
		return false
	}
	it.delivery, it.until = d, c.r.cfg.Now().Add(lastWait)
	c.hand, c.last = nil, it
	for _, to := range []string{receiverCDR, mediaPlane} {
		if o := c.out[to]; o != nil && !o.busy && o.wait == 0 {
			c.kick(to)
		}
	}
	return true
}

// obliged reports whether the CDR is to be stored or the legs are to be freed.
// c.mu is held.
func (c *call) obliged() bool {
	return c.state.MediaDue || slices.ContainsFunc(c.state.Pending, func(a codecore.Action) bool { return a.To == receiverCDR })
}

// lastReady reports whether what was put off is to be taken now. c.mu is held.
func (c *call) lastReady() bool {
	return c.last != nil && (!c.obliged() || !c.r.cfg.Now().Before(c.last.until))
}

// pop takes the next item: what was put off, when its time has come. c.mu is held.
func (c *call) pop() *item {
	if c.lastReady() {
		it := c.last
		c.last = nil
		return it
	}
	first := c.queue[0]
	c.queue = c.queue[1:]
	if len(c.queue) == 0 {
		c.queue = nil
	}
	return &first
}
