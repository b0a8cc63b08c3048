package handoff

import (
	"context"
	"sync"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// A ClaimOrder tells a worker that owners are dead. Every living worker gets
// it; rendezvous says who takes which call.
type ClaimOrder struct {
	Dead []Death `json:"dead"`
}

// A ClaimReport says what became of a ClaimOrder at one worker.
type ClaimReport struct {
	Worker  string    `json:"worker"`
	Claimed int       `json:"claimed"` // live here now, those set aside too
	Aside   int       `json:"aside"`   // set aside by this claim
	Left    []Refusal `json:"left,omitempty"`
	Seconds float64   `json:"seconds"` // until the last was live
	Error   string    `json:"error,omitempty"`
}

const (
	claimChunk = 64 // calls claimed together while the scan goes on
	claimLanes = 4
	claimReads = 16 // concurrent Gets of one chunk
)

// Claim takes over the calls of dead owners, its share by rendezvous at once,
// what nobody has claimed after Grace, and after twice that whatever is left.
// It returns when no call of theirs is left that a living worker can read, at
// the latest after twice Grace. Claims may run side by side.
func (d *Driver) Claim(ctx context.Context, o ClaimOrder) (ClaimReport, error) {
	start := d.Now()
	dead := make(map[string]Death, len(o.Dead))
	for _, x := range o.Dead {
		if x.Owner != d.Worker {
			dead[x.Owner] = x
		}
	}
	d.remember(dead)
	total := ClaimReport{Worker: d.Worker}
	var err error
	for waited := time.Duration(0); len(dead) > 0; waited += Grace {
		var others int
		total.Left = nil
		others, err = d.claimPass(ctx, dead, waited, start, &total)
		if err != nil || others == 0 || waited >= 2*Grace {
			break
		}
		if !d.pause(ctx, Grace-d.Now().Sub(start)%Grace) {
			err = context.Cause(ctx)
			break
		}
	}
	if err != nil {
		total.Error = err.Error()
	}
	return total, err
}

// claimPass scans once and claims this worker's share. others counts the calls
// left to other workers.
func (d *Driver) claimPass(ctx context.Context, dead map[string]Death, waited time.Duration, start time.Time, total *ClaimReport) (others int, err error) {
	living := d.alive(dead)
	chunks := make(chan []sessions.Record, claimLanes)
	var mu sync.Mutex
	var lanes sync.WaitGroup
	for range claimLanes {
		lanes.Go(func() {
			for c := range chunks {
				r := d.claimChunk(ctx, c, dead, start)
				mu.Lock()
				total.Claimed += r.Claimed
				if r.Claimed > 0 {
					total.Seconds = d.Now().Sub(start).Seconds()
				}
				total.Aside += r.Aside
				total.Left = append(total.Left, r.Left...)
				mu.Unlock()
			}
		})
	}
	var chunk []sessions.Record
	err = d.Store.Scan(ctx, true, func(rec sessions.Record) error {
		if _, ok := dead[rec.Owner]; !ok || rec.Tomb {
			return nil
		}
		switch Claimant(rec, living, waited, d.Worker) {
		case d.Worker:
			if chunk = append(chunk, rec); len(chunk) == claimChunk {
				chunks <- chunk
				chunk = nil
			}
		case "":
			mu.Lock()
			total.Left = append(total.Left, Refusal{rec.ID, CodePinned, "no living worker reads its schema"})
			mu.Unlock()
			others++ // one may start meanwhile
		default:
			others++
		}
		return nil
	})
	if len(chunk) > 0 {
		chunks <- chunk
	}
	close(chunks)
	lanes.Wait()
	return others, err
}

// alive is the living workers without the dead; this one is always among them.
func (d *Driver) alive(dead map[string]Death) []sessions.Process {
	self := sessions.Process{
		Role: "worker", ID: d.Worker, Release: d.Release,
		SchemaMin: d.Core.SchemaMin, SchemaMax: d.Core.SchemaMax, Draining: d.drain.Load(),
	}
	out := []sessions.Process{self}
	for _, p := range d.Living() {
		if _, gone := dead[p.ID]; !gone && p.ID != d.Worker {
			out = append(out, p)
		}
	}
	return out
}

// claimChunk claims some calls: subscribe, read, CAS, and only then run code.
func (d *Driver) claimChunk(ctx context.Context, headers []sessions.Record, dead map[string]Death, start time.Time) ClaimReport {
	var r ClaimReport
	var ids []codecore.CallID
	for _, h := range headers {
		if d.Calls.Reserve(h.ID) == nil { // else: it came here by another way meanwhile
			ids = append(ids, h.ID)
		}
	}
	if len(ids) == 0 {
		return r
	}
	if err := d.Bus.Flush(ctx); err != nil {
		d.Log.Warn("claiming without the bus", "err", err) // senders will send again
	}
	recs, errs := d.getAll(ctx, ids)
	var base, puts []sessions.Record
	for i, rec := range recs {
		death, ok := dead[rec.Owner]
		if errs[i] != nil || !ok || rec.Tomb {
			d.Calls.Release(ids[i])
			if errs[i] != nil {
				r.Left = append(r.Left, Refusal{ids[i], CodeStore, errs[i].Error()})
			}
			continue
		}
		base = append(base, rec)
		puts = append(puts, Claim(rec, d.Worker, d.Now(), death.Blames(rec.ID)))
	}
	var mine []sessions.Record
	lost := map[string][]codecore.CallID{}
	for i, p := range d.Store.PutAll(ctx, puts) {
		rec := puts[i]
		if AfterCAS(p.Err) == AdoptCall {
			rec.Rev = p.Rev
		} else if !d.makeSure(ctx, &rec) {
			d.Calls.Release(rec.ID)
			continue
		}
		mine = append(mine, rec)
		lost[base[i].Owner] = append(lost[base[i].Owner], rec.ID)
	}
	for owner, calls := range lost {
		d.dethrone(owner, calls)
	}
	d.restore(ctx, mine, start, &r)
	return r
}

// makeSure finds out whether the CAS of rec was made, and makes it if it was
// not; it sets rec.Rev. False: another's was.
func (d *Driver) makeSure(ctx context.Context, rec *sessions.Record) bool {
	a := adoption{item: Item{Call: rec.ID}, commit: *rec}
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		limited, cancel := context.WithTimeout(ctx, 2*time.Second)
		next, rev := d.settleOnce(limited, a)
		cancel()
		switch next {
		case AdoptCall:
			rec.Rev = rev
			return true
		case GiveUp:
			return false
		}
		if !d.pause(ctx, wait) {
			return false
		}
	}
}

// restore runs code on claimed records: the word in memory names each before.
func (d *Driver) restore(ctx context.Context, mine []sessions.Record, start time.Time, r *ClaimReport) {
	type restored struct {
		state codecore.State
		code  Code
		err   string
	}
	out := attempts[restored]{
		limit: d.MigrateLimit, stuck: &d.stuck,
		do: func(i int) restored {
			if mine[i].Aside {
				return restored{code: CodeAside}
			}
			defer d.InHand(mine[i].ID)()
			state, code, err := d.decode(mine[i].Schema, mine[i].Body)
			if err != nil {
				return restored{code: code, err: err.Error()}
			}
			return restored{state: state}
		},
		lost: func(code Code, detail string) restored { return restored{code: code, err: detail} },
	}.run(len(mine))
	for i, x := range out {
		rec := mine[i]
		if x.code != OK {
			d.setAside(ctx, rec, x.code, x.err, r)
			continue
		}
		over := d.InHand(rec.ID)
		d.Calls.Adopt(rec, x.state)
		over()
		r.Claimed++
		took := d.Now().Sub(start)
		d.Observe(Observation{What: "claimed", Freeze: took})
		d.tell(rec, "taken over", took, OK)
	}
}

// setAside gives a call to the caretaker: it crashed its owners twice (the
// claim says so already), or no code here can read it.
func (d *Driver) setAside(ctx context.Context, rec sessions.Record, code Code, detail string, r *ClaimReport) {
	if !rec.Aside {
		rec = SetAside(rec)
		if !d.makeSure(ctx, &rec) {
			d.Calls.Release(rec.ID)
			return
		}
	}
	d.Caretaker(rec)
	r.Claimed++
	r.Aside++
	d.Observe(Observation{What: "aside", Code: code})
	d.tell(rec, "set aside", 0, code)
	d.Log.Error("call set aside", "call", rec.ID, "code", code, "detail", detail, "attempts", rec.Attempts)
}

// getAll reads records with their bodies.
func (d *Driver) getAll(ctx context.Context, ids []codecore.CallID) ([]sessions.Record, []error) {
	recs, errs := make([]sessions.Record, len(ids)), make([]error, len(ids))
	var all sync.WaitGroup
	for lane := range claimReads {
		all.Go(func() {
			for i := lane; i < len(ids); i += claimReads {
				recs[i], errs[i] = d.Store.Get(ctx, ids[i])
			}
		})
	}
	all.Wait()
	return recs, errs
}

// dethrone tells a former owner, which may only have slept.
func (d *Driver) dethrone(owner string, calls []codecore.CallID) {
	data, err := wire.Seal(Dethroned{By: d.Worker, Calls: calls})
	if err == nil {
		err = d.Bus.Publish(sessions.SubjectControl(owner, VerbDethroned), data)
	}
	if err != nil {
		d.Log.Warn("former owner not told", "owner", owner, "err", err) // it re-reads
	}
}
