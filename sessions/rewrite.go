package sessions

import "errors"

// rewriteBlock bounds how many calls one Rewrite has written anew.
const rewriteBlock = 256

// Rewrite has calls written anew whose record is under the floor, a block of
// them at a time, and returns how many there are: nobody may have to say
// anything for an hour, and the floor cannot rise meanwhile. When the floor is
// what the caller wants and this returns 0, nothing is on its way from here that
// is under it, and nothing will be.
func (r *Runner) Rewrite() (left int) {
	floor := r.cfg.Floor()
	for _, c := range r.snapshotCalls() {
		c.mu.Lock()
		atRest := c.life == lifeLive && c.rec.Schema < floor
		if now := int(c.writing.Load()); atRest || now > 0 && now < floor {
			left++
		}
		if atRest && left <= rewriteBlock && !c.rewriting() {
			c.queue = append(c.queue, item{rewrite: true})
			c.start()
		}
		c.mu.Unlock()
	}
	return left
}

// aim is the floor that the next save obeys, and says so before that begins: a
// floor that rises in between is read, or Rewrite sees that this save is under it.
func (c *call) aim() int {
	for {
		floor := c.r.cfg.Floor()
		c.writing.Store(int32(floor)) //nolint:gosec // a schema
		if floor == c.r.cfg.Floor() {
			return floor
		}
	}
}

// rewriting reports whether a rewrite waits already. c.mu is held.
func (c *call) rewriting() bool {
	for _, it := range c.queue {
		if it.rewrite {
			return true
		}
	}
	return c.hand != nil && c.hand.rewrite
}

// rewrite saves the state as it is, if its record is still under the floor.
func (c *call) rewrite() {
	if c.rec.Schema >= c.r.cfg.Floor() || c.isNew() {
		return
	}
	w := c.begin("rewrite")
	w.save = true
	switch err := c.commit(w); {
	case err == nil:
		c.perform(w, "")
	case errors.Is(err, ErrConflict):
		c.r.lost(c, "conflict")
	}
}
