package sessions

import (
	"context"
	"errors"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
)

// onDethroned hears that calls have another owner (R4). The notice is a hint:
// the records are read.
func (r *Runner) onDethroned(m Msg) {
	var notice struct {
		Calls []codecore.CallID `json:"calls"`
	}
	if r.tooBig(m) {
		return
	}
	if err := wire.Open(m.Data, &notice); err != nil {
		r.bad("envelope", m.Subject, err)
		return
	}
	r.launch(func() {
		for _, id := range notice.Calls {
			c := r.lookup(id)
			if c == nil {
				continue
			}
			ctx, cancel := context.WithTimeout(r.ops, r.cfg.SaveTimeout)
			rec, err := r.cfg.Store.Get(ctx, id)
			cancel()
			if err == nil {
				r.compare(c, rec, "notice")
			}
		}
	})
}

// reread looks for calls that we hold and another owns: what a notice that got
// lost would have told. A call without a record is left: silence is no answer.
// Only what was written after since is read; it returns that of the next time.
// Reading everything each time kept all records in the server's memory.
func (r *Runner) reread(ctx context.Context, since uint64) uint64 {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Reread)
	defer cancel()
	began, unsure := time.Now(), false
	upTo, err := r.cfg.Store.ScanSince(ctx, since, func(rec Record) error {
		if c := r.lookup(rec.ID); c != nil && !r.compare(c, rec, "reread") {
			unsure = true
		}
		return nil
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		r.cfg.Log.Warn("records not read again", "err", err, "took", time.Since(began))
	}
	if err != nil || unsure {
		return since
	}
	return upTo
}

// compare drops a call whose record has a later epoch than ours. sure is false
// for another's that is about to be ours: it must be compared again.
func (r *Runner) compare(c *call, rec Record, why string) (sure bool) {
	c.mu.Lock()
	life := c.life
	dethroned := life == lifeLive && rec.Epoch > c.rec.Epoch && rec.Owner != r.cfg.ID
	c.mu.Unlock()
	if dethroned {
		r.lost(c, why)
	}
	return life == lifeLive || life == lifeGone || rec.Owner == r.cfg.ID
}

// lost drops a call silently: no BYE, no CDR, no timer (R4).
func (r *Runner) lost(c *call, why string) {
	c.end()
	r.cfg.Observe.Lost(why)
	r.cfg.Log.Info("call has another owner", "call", c.id, "heard_by", why)
}
