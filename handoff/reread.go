package handoff

import (
	"context"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// Reread compares the calls held here with their records (R4), after each
// reconnect and every Config.Recheck: what another owns is dropped silently. A
// call that has no record is left alone: its next save will say what is wrong,
// and an empty store must not end calls. The other way round, a record that
// names this worker twice in a row while nothing here holds the call is claimed
// again, so that no call waits for an owner who knows nothing of it.
func (d *Driver) Reread(ctx context.Context) error {
	held := map[codecore.CallID]bool{}
	for _, id := range d.Calls.List() {
		held[id] = true
	}
	var suspects []codecore.CallID
	var strays []sessions.Record
	err := d.Store.Scan(ctx, true, func(rec sessions.Record) error {
		switch {
		case held[rec.ID] && rec.Owner != d.Worker:
			suspects = append(suspects, rec.ID)
		case !held[rec.ID] && rec.Owner == d.Worker && !rec.Tomb:
			strays = append(strays, rec)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range suspects {
		d.heed(ctx, id)
	}
	if again := d.twice(strays); len(again) > 0 {
		d.Log.Warn("own calls found that nobody holds", "calls", len(again))
		d.claimChunk(ctx, again, map[string]Death{d.Worker: {Owner: d.Worker}}, d.Now())
	}
	return nil
}

// twice returns the strays that stood the same at the last re-reading: one that
// is new may be on its way in.
func (d *Driver) twice(strays []sessions.Record) []sessions.Record {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.strays
	d.strays = make(map[codecore.CallID]uint64, len(strays))
	var again []sessions.Record
	for _, rec := range strays {
		if rev, ok := was[rec.ID]; ok && rev == rec.Rev {
			again = append(again, rec)
			continue
		}
		d.strays[rec.ID] = rec.Rev
	}
	return again
}

// serveDethroned hears an adopter's notice; there is nothing to answer.
func (d *Driver) serveDethroned(ctx context.Context, n Dethroned) struct{} {
	for _, id := range n.Calls {
		d.heed(ctx, id)
	}
	return struct{}{}
}

// heed stops a call that may be another's, reads the record, and drops the call
// or goes on.
func (d *Driver) heed(ctx context.Context, id codecore.CallID) {
	mine, _, err := d.Calls.Freeze(ctx, id)
	if err != nil {
		return // not held (any more), or being moved: that looks for itself
	}
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		rec, err := d.Store.Get(ctx, id)
		switch Heard(rec, err, d.Worker, mine.Epoch) {
		case ThawCall:
			d.Calls.Thaw(id)
			return
		case DropCall:
			d.leave(id)
			d.Observe(Observation{What: "dethroned"})
			d.Log.Warn("call belongs to another", "call", id, "owner", rec.Owner, "epoch", rec.Epoch, "mine", mine.Epoch)
			return
		}
		if !d.pause(ctx, wait) {
			return
		}
	}
}
