package handoff

import (
	"context"
	"slices"

	"callswitch/codecore"
	"callswitch/sessions"
)

// FindStrays looks for records that name this worker while nothing here holds
// the call (an adoption whose outcome was never learned), and claims those that
// it finds twice in a row: one seen once may be on its way in. Without it a
// call would wait for ever for a living owner who knows nothing of it. The
// other way round, what is held here and owned by another, is the Runner's to
// find (R4).
//
// Only what was written since the last look is read; everything at each
// allLooks-th, since what is held may shrink without a write.
func (d *Driver) FindStrays(ctx context.Context) error {
	d.mu.Lock()
	was, since := d.strays, d.seen
	if d.looks++; d.looks%allLooks == 0 {
		since = 0
	}
	d.mu.Unlock()
	mine := map[codecore.CallID]sessions.Record{}
	upTo, err := d.Store.ScanSince(ctx, since, func(rec sessions.Record) error {
		if rec.Owner == d.Worker && !rec.Tomb {
			mine[rec.ID] = rec
		}
		return nil
	})
	if err != nil {
		return err
	}
	for id, rev := range was {
		if _, newer := mine[id]; newer {
			continue
		}
		rec, err := d.Store.Get(ctx, id)
		if err == nil && rec.Rev == rev {
			mine[id] = rec
		}
	}
	again := d.twice(mine, upTo)
	for chunk := range slices.Chunk(again, claimChunk) {
		d.Log.Warn("own calls found that nobody holds", "calls", len(chunk))
		d.claimChunk(ctx, chunk, map[string]Death{d.Worker: {Owner: d.Worker}}, d.Now())
	}
	return nil
}

// allLooks is after how many looks of FindStrays everything is read: 10 min.
const allLooks = 20

// twice remembers those of mine that are not held, and returns those that were
// remembered before.
func (d *Driver) twice(mine map[codecore.CallID]sessions.Record, upTo uint64) (again []sessions.Record) {
	for _, id := range d.Calls.List() {
		delete(mine, id)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.strays
	d.strays, d.seen = make(map[codecore.CallID]uint64, len(mine)), upTo
	for id, rec := range mine {
		if rev, ok := was[id]; ok && rev == rec.Rev {
			again = append(again, rec)
			continue
		}
		d.strays[id] = rec.Rev
	}
	return again
}

// maxAsked bounds the single claims under way.
const maxAsked = 64

// ClaimCall asks for the takeover of one call that somebody misses (the orphan
// look-up). It returns at once; the call is claimed only if its owner is not
// among the living. More than a few at a time are refused: senders ask again.
func (d *Driver) ClaimCall(id codecore.CallID) {
	select {
	case d.asked <- id:
	default:
	}
}

// serveAsked works off ClaimCall until ctx ends.
func (d *Driver) serveAsked(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case id := <-d.asked:
			d.claimOne(ctx, id)
		}
	}
}

func (d *Driver) claimOne(ctx context.Context, id codecore.CallID) {
	rec, err := d.Store.Get(ctx, id)
	if err != nil || rec.Tomb || rec.Owner == d.Worker {
		return // its own strays are found by FindStrays
	}
	for _, p := range d.Living() {
		if p.ID == rec.Owner {
			return
		}
	}
	if !rec.Aside && (rec.Schema < d.Core.SchemaMin || rec.Schema > d.Core.SchemaMax) {
		return
	}
	d.mu.Lock()
	death, known := d.deaths[rec.Owner]
	d.mu.Unlock()
	if !known {
		death = Death{Owner: rec.Owner}
	}
	d.claimChunk(ctx, []sessions.Record{rec}, map[string]Death{rec.Owner: death}, d.Now())
}

// maxDeaths bounds what is remembered of deaths.
const maxDeaths = 256

// remember keeps what the host said of a death, for claims that come later.
func (d *Driver) remember(dead map[string]Death) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.deaths) > maxDeaths {
		clear(d.deaths)
	}
	for owner, x := range dead {
		if len(x.InHand) > 0 || len(d.deaths[owner].InHand) == 0 { // a late heartbeat knows less than the host
			d.deaths[owner] = x
		}
		dead[owner] = d.deaths[owner]
	}
}
