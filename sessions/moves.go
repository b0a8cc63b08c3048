package sessions

import (
	"context"
	"fmt"
	"time"

	"callswitch/codecore"
)

// List returns the calls owned here.
func (r *Runner) List() []codecore.CallID {
	var ids []codecore.CallID
	for _, c := range r.snapshotCalls() {
		c.mu.Lock()
		if c.life == lifeLive {
			ids = append(ids, c.id)
		}
		c.mu.Unlock()
	}
	return ids
}

// Snapshot returns the record of a call owned here, with the state in memory,
// and the mark of that state.
func (r *Runner) Snapshot(id codecore.CallID) (Record, uint64, error) {
	c := r.lookup(id)
	if c == nil {
		return Record{}, 0, ErrNotFound
	}
	return c.record(0)
}

// record encodes the state in memory, unless it is the one of mark.
func (c *call) record(mark uint64) (rec Record, now uint64, err error) {
	c.mu.Lock()
	rec, now = c.rec, c.mark
	live, state := c.life == lifeLive, c.state
	c.mu.Unlock()
	if !live {
		return Record{}, 0, ErrNotFound
	}
	if now == mark {
		return rec, now, nil
	}
	rec.Schema, rec.Body, err = c.r.encode(state, c.r.cfg.Floor())
	if err != nil {
		return Record{}, 0, fmt.Errorf("sessions: %w", err)
	}
	return rec, now, nil
}

// Freeze stops a call after the Step in hand: from then on its events and
// deadlines wait, and nothing new is sent for it. If ctx ends before (the store
// is away) the call goes on. The state is encoded only if it is not that of mark.
func (r *Runner) Freeze(ctx context.Context, id codecore.CallID, mark uint64) (rec Record, same bool, err error) {
	c := r.lookup(id)
	if c == nil {
		return Record{}, false, ErrNotFound
	}
	c.mu.Lock()
	switch {
	case c.life != lifeLive:
		c.mu.Unlock()
		return Record{}, false, ErrNotFound
	case c.frozen:
		c.mu.Unlock()
		return Record{}, false, ErrFrozen
	}
	c.frozen = true
	var rested chan struct{}
	if c.running {
		rested = make(chan struct{})
		c.rested = rested
	}
	c.arm()
	c.mu.Unlock()
	if rested != nil {
		select {
		case <-rested:
		case <-ctx.Done():
			r.Thaw(id)
			return Record{}, false, fmt.Errorf("sessions: freeze: %w", ctx.Err())
		}
	}
	rec, now, err := c.record(mark)
	if err != nil {
		r.Thaw(id)
	}
	return rec, now == mark, err
}

// Thaw goes on with a frozen call: what waited first, then what is pending.
func (r *Runner) Thaw(id codecore.CallID) {
	c := r.lookup(id)
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.frozen {
		return
	}
	c.frozen = false
	if c.rested != nil {
		close(c.rested)
		c.rested = nil
	}
	c.resume()
}

// resume starts what a call that was not running has to do. c.mu is held.
func (c *call) resume() {
	c.start()
	if !c.running {
		c.arm()
	}
	for _, to := range receivers(c.state.Pending) {
		if len(codecore.PendingFor(c.state, to, c.bootOf(to))) > 0 {
			c.kick(to)
		}
	}
	if c.state.MediaDue {
		c.kick(mediaPlane)
	} else if c.mediaForgot() {
		c.r.remind(c.state.Media.Node)
	}
}

// Drop forgets a call that has another owner; it returns the messages that
// waited.
func (r *Runner) Drop(id codecore.CallID) []Msg {
	c := r.lookup(id)
	if c == nil {
		return nil
	}
	var waited []Msg
	for _, it := range c.end() {
		if it.msg.Data != nil {
			waited = append(waited, it.msg)
		}
	}
	return waited
}

// Reserve subscribes to a call that is about to be adopted.
func (r *Runner) Reserve(id codecore.CallID) error {
	if !validID(id) {
		return fmt.Errorf("sessions: %q cannot be a call's id", id)
	}
	_, fresh, err := r.enter(id, lifeReserved)
	if err == nil && !fresh {
		return ErrOwned
	}
	return err
}

// Release ends a reservation that came to nothing.
func (r *Runner) Release(id codecore.CallID) {
	c := r.lookup(id)
	if c == nil {
		return
	}
	c.mu.Lock()
	reserved := c.life == lifeReserved
	c.mu.Unlock()
	if reserved {
		c.end()
	}
}

// Adopt makes a reserved call live. A call that is not reserved is left alone:
// it has been released meanwhile, and its record will be claimed.
func (r *Runner) Adopt(rec Record, state codecore.State) {
	c := r.lookup(rec.ID)
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life != lifeReserved {
		return
	}
	rec.Body = nil
	c.life, c.rec, c.state, c.since = lifeLive, rec, state, r.cfg.Now()
	r.tally.set(c.id, codecore.Occupied(state), time.Time{})
	c.mark = r.marks.Add(1)
	c.mediaGen = codecore.Generation{Epoch: rec.Epoch, N: rec.N}
	c.mediaKnown()
	if codecore.Settled(state) {
		// Its last confirmation was in the old owner's memory only: the
		// tombstone is written by the next commit, and this is one.
		c.queue = append(c.queue, item{event: codecore.MediaApplied{Gen: c.mediaGen}})
	}
	c.resume()
}
