package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"callswitch/codecore"
)

// maxBackOff is the longest pause between two attempts at anything.
const (
	minBackOff = 10 * time.Millisecond
	maxBackOff = time.Second
)

// commit makes w the call's state: in the store, if a successor could miss it,
// and in memory. Only after it may anybody hear of w.
func (c *call) commit(w *work) error {
	tomb := codecore.Settled(w.state)
	rec := c.rec
	if w.save || tomb {
		var err error
		if rec, err = c.save(w, tomb); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life == lifeGone {
		return errGone
	}
	saved := rec.N > c.rec.N
	w.saved = saved
	if saved && w.state.MediaDue && (!c.state.MediaDue || !c.state.Media.Same(w.state.Media)) {
		c.mediaGen = codecore.Generation{Epoch: rec.Epoch, N: rec.N}
	}
	if saved || w.changed {
		c.mark = c.r.marks.Add(1)
	}
	c.state, c.rec = w.state, rec
	c.r.tally.set(c.id, codecore.Occupied(c.state), time.Time{})
	if c.life == lifeNew {
		c.life, c.since = lifeLive, w.now
	}
	return nil
}

// save writes the record, and goes on trying while the store is away.
func (c *call) save(w *work, tomb bool) (Record, error) {
	rec := c.rec
	if rec.Epoch == 0 {
		rec.ID, rec.Epoch = c.id, 1
	}
	if !w.failed {
		rec.Attempts = 0
	}
	rec.N++
	rec.Owner, rec.Release, rec.Tomb = c.r.cfg.ID, c.r.cfg.Release, tomb
	defer c.writing.Store(0)
	for wait := minBackOff; ; wait = min(2*wait, maxBackOff) {
		// Anew for each attempt: the floor may have risen while the store was away.
		var err error
		if rec.Schema, rec.Body, err = c.r.encode(w.state, c.aim()); err != nil {
			c.r.cfg.Log.Error("state cannot be encoded", "call", c.id, "event", w.what, "err", err)
			return rec, errEncode
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(c.r.ops, c.r.cfg.SaveTimeout)
		rev, err := c.r.cfg.Store.Put(ctx, rec)
		cancel()
		took := time.Since(began)
		switch {
		case err == nil:
			c.r.cfg.Observe.Save("ok", took)
			rec.Rev, rec.Body = rev, nil
			return rec, nil
		case errors.Is(err, ErrConflict):
			c.r.cfg.Observe.Save("conflict", took)
			return rec, ErrConflict
		case errors.Is(err, ErrFull) && rec.Rev == 0:
			c.r.cfg.Observe.Save("full", took)
			return rec, ErrFull
		case errors.Is(err, ErrTooLarge): // trying on would keep new calls waiting, as if the store were away
			c.r.cfg.Observe.Save("too-large", took)
			c.r.cfg.Log.Warn("state cannot be saved", "call", c.id, "event", w.what, "bytes", len(rec.Body), "err", err)
			return rec, errEncode
		}
		c.r.cfg.Observe.Save("away", took)
		if err := c.pause(wait); err != nil {
			return rec, err
		}
	}
}

// encode is codecore.Encode at the floor; a state it stumbles over costs this
// event, not the process with all its calls.
func (r *Runner) encode(s codecore.State, floor int) (schema int, body []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.cfg.Observe.Panic("encode")
			err = fmt.Errorf("%w: %v", errPanicked, p)
		}
	}()
	return codecore.Encode(s, floor)
}

// pause waits for the store; new calls are told to come later meanwhile.
func (c *call) pause(wait time.Duration) error {
	c.r.away.Add(1)
	defer c.r.away.Add(-1)
	return c.sleep(wait)
}

// sleep returns early, with an error, when there is nothing left to wait for.
func (c *call) sleep(wait time.Duration) error {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.r.ops.Done():
		return errStopped
	}
	switch {
	case c.r.isStopping():
		return errStopped
	case c.gone():
		return errGone
	}
	return nil
}
