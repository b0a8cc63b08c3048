package handoff

import (
	"context"
	"errors"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

const (
	preparedFor = 10 * time.Second // an offer follows its Prepare within milliseconds
	maxPrepared = 4096             // states kept for offers to come; beyond it an offer is prepared again
)

// prepared is a state that this worker could carry on, and the body it would
// store for it.
type prepared struct {
	stamp  Stamp
	floor  int
	at     time.Time
	state  codecore.State
	schema int
	body   []byte
	code   Code // OK, or why it could not
	detail string
}

// servePrepare is step 0.
func (d *Driver) servePrepare(_ context.Context, p Prepare) Verdicts {
	out := Verdicts{Worker: d.Worker, Release: d.Release, Verdicts: make([]Verdict, len(p.Items))}
	if d.drain.Load() {
		out.Code = CodeDraining
		return out
	}
	var todo []int
	for i, it := range p.Items {
		out.Verdicts[i].Call = it.Call
		code, again := Guard(it, d.here(it.Call))
		out.Verdicts[i].Code = code
		if code == OK && again {
			todo = append(todo, i)
		}
	}
	for k, pr := range d.tryAll(p.Items, todo) {
		v := &out.Verdicts[todo[k]]
		v.Code, v.Detail = pr.code, pr.detail
		if pr.code == OK && !p.Dry {
			d.keep(v.Call, pr)
		}
		if pr.code != OK {
			d.Log.Info("call refused", "call", v.Call, "from", p.From, "code", pr.code, "detail", pr.detail)
		}
	}
	return out
}

// tryAll decodes, migrates, checks and encodes the items named, each recovered
// and time-limited (R5).
func (d *Driver) tryAll(items []Item, todo []int) []prepared {
	floor := d.Floor()
	return attempts[prepared]{
		limit: d.MigrateLimit, stuck: &d.stuck,
		do:   func(k int) prepared { return d.try(items[todo[k]], floor) },
		lost: func(code Code, detail string) prepared { return prepared{code: code, detail: detail} },
	}.run(len(todo))
}

func (d *Driver) try(it Item, floor int) prepared {
	state, code, err := d.decode(it.Schema, it.Body)
	if err != nil {
		return prepared{code: code, detail: err.Error()}
	}
	schema, body, err := d.Core.Encode(state, floor)
	if err != nil {
		return prepared{code: d.classify(err), detail: err.Error()}
	}
	return prepared{
		stamp: Stamp{it.Rev, Sum(it.Body)}, floor: floor, at: d.Now(),
		state: state, schema: schema, body: body,
	}
}

func (d *Driver) decode(schema int, body []byte) (codecore.State, Code, error) {
	state, err := d.Core.Decode(schema, body)
	if err != nil {
		return state, d.classify(err), err
	}
	if err := d.Core.Check(state); err != nil {
		return state, CodeInvariant, err
	}
	return state, OK, nil
}

func (d *Driver) classify(err error) Code {
	if d.Core.Classify != nil {
		if c := d.Core.Classify(err); c != OK {
			return c
		}
	}
	return CodeDecode
}

// here says what this worker knows of a call. Whether it holds it is said by
// Reserve alone, which asks and takes in one.
func (d *Driver) here(id codecore.CallID) Here {
	d.mu.Lock()
	p := d.prepared[id]
	d.mu.Unlock()
	h := Here{Min: d.Core.SchemaMin, Max: d.Core.SchemaMax, Draining: d.drain.Load()}
	if p.floor == d.Floor() {
		h.Prepared = p.stamp
	}
	return h
}

func (d *Driver) keep(id codecore.CallID, p prepared) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.prepared[id]; ok || len(d.prepared) < maxPrepared {
		d.prepared[id] = p
	}
}

// takePrepared returns what was prepared and forgets it: one offer may use it.
func (d *Driver) takePrepared(id codecore.CallID) prepared {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.prepared[id]
	delete(d.prepared, id)
	return p
}

func (d *Driver) forgetPrepared(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, p := range d.prepared {
		if now.Sub(p.at) > preparedFor {
			delete(d.prepared, id)
		}
	}
}

// An adoption is one offered call on its way in.
type adoption struct {
	at     int // index in the offer
	item   Item
	state  codecore.State
	commit sessions.Record
}

// serveOffer is steps 3 to 5.
func (d *Driver) serveOffer(ctx context.Context, o Offer) Verdicts {
	out := Verdicts{Worker: d.Worker, Release: d.Release, Verdicts: make([]Verdict, len(o.Items))}
	in := d.reserve(o, out.Verdicts)
	if len(in) == 0 {
		return out
	}
	limited, cancel := context.WithTimeout(ctx, d.OfferTimeout*6/10) // leaves time to answer
	defer cancel()
	if err := d.Bus.Flush(limited); err != nil {
		for _, a := range in {
			d.Calls.Release(a.item.Call)
			out.Verdicts[a.at].Code, out.Verdicts[a.at].Detail = CodeBus, err.Error()
		}
		return out
	}
	records := make([]sessions.Record, len(in))
	for i, a := range in {
		records[i] = a.commit
	}
	for i, r := range d.Store.PutAll(limited, records) {
		v := &out.Verdicts[in[i].at]
		if AfterCAS(r.Err) == AdoptCall {
			v.Freeze = d.adopt(in[i], r.Rev, o.From)
			continue
		}
		*v = d.afterDoubt(ctx, limited, in[i], o.From)
	}
	return out
}

// reserve is step 3: the guard, the second preparation, the subscription.
func (d *Driver) reserve(o Offer, verdicts []Verdict) []adoption {
	var again, take []int
	for i, it := range o.Items {
		verdicts[i].Call = it.Call
		code, anew := Guard(it, d.here(it.Call))
		verdicts[i].Code = code
		switch {
		case code != OK:
		case anew:
			again = append(again, i)
		default:
			take = append(take, i)
		}
	}
	ready := make(map[int]prepared, len(o.Items))
	for _, i := range take {
		ready[i] = d.takePrepared(o.Items[i].Call)
	}
	for k, p := range d.tryAll(o.Items, again) {
		ready[again[k]] = p
	}
	var in []adoption
	for i, it := range o.Items {
		p, ok := ready[i]
		switch {
		case !ok:
			continue
		case p.code != OK:
			verdicts[i].Code, verdicts[i].Detail = p.code, p.detail
			continue
		case p.stamp.Rev != it.Rev: // another offer took it between the guard and here
			verdicts[i].Code = CodeUnknown
			continue
		}
		if err := d.Calls.Reserve(it.Call); err != nil {
			verdicts[i].Code, verdicts[i].Detail = CodeBus, err.Error()
			if errors.Is(err, sessions.ErrOwned) {
				verdicts[i].Code, _ = Guard(it, Here{Held: true})
			}
			continue
		}
		in = append(in, adoption{
			at: i, item: it, state: p.state,
			commit: Commit(it.record(), d.Worker, d.Release, p.schema, p.body),
		})
	}
	return in
}

// adopt is step 5; it returns the freeze in milliseconds.
func (d *Driver) adopt(a adoption, rev uint64, from string) float64 {
	rec := a.commit
	rec.Rev = rev
	d.Calls.Adopt(rec, a.state)
	freeze := max(0, d.Now().Sub(time.Unix(0, a.item.Frozen)))
	d.Observe(Observation{What: "moved", Freeze: freeze})
	d.tell(rec, "moved", freeze, OK)
	if freeze >= d.OfferTimeout { // the source has not waited for the answer, and may have thawed
		d.dethrone(from, []codecore.CallID{rec.ID})
	}
	d.Log.Debug("call adopted", "call", rec.ID, "from", from, "epoch", rec.Epoch, "freeze_ms", ms(freeze))
	return ms(freeze)
}

// afterDoubt finds out whether a commit that did not say yes was made. When the
// store cannot tell in time the source hears so, and the matter is settled
// behind its back: until then the reservation stands.
func (d *Driver) afterDoubt(ctx, limited context.Context, a adoption, from string) Verdict {
	v := Verdict{Call: a.item.Call}
	next, rev := d.settleOnce(limited, a)
	switch next {
	case AdoptCall:
		v.Freeze = d.adopt(a, rev, from)
	case GiveUp:
		d.Calls.Release(a.item.Call)
		v.Code = CodeConflict
	default:
		v.Code = CodeStore
		d.work.Add(1)
		go func() {
			defer d.work.Done()
			d.settle(ctx, a, from)
		}()
	}
	return v
}

// settleOnce reads the record, and puts it again if the commit was not made.
func (d *Driver) settleOnce(ctx context.Context, a adoption) (Decision, uint64) {
	for ctx.Err() == nil {
		rec, err := d.Store.Get(ctx, a.item.Call)
		next := TargetRead(ReadCommit(rec, err, a.commit))
		if next != PutAgain {
			return next, rec.Rev
		}
		rev, err := d.Store.Put(ctx, a.commit)
		if AfterCAS(err) == AdoptCall {
			return AdoptCall, rev
		}
		if errors.Is(err, sessions.ErrTooLarge) {
			return GiveUp, 0 // nor was it made before
		}
		if !d.pause(ctx, 5*time.Millisecond) {
			break
		}
	}
	return ReadRecord, 0
}

func (d *Driver) settle(ctx context.Context, a adoption, from string) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		if !d.pause(ctx, wait) {
			d.Calls.Release(a.item.Call) // the process ends
			return
		}
		limited, cancel := context.WithTimeout(ctx, 2*time.Second)
		next, rev := d.settleOnce(limited, a)
		cancel()
		switch next {
		case AdoptCall:
			d.adopt(a, rev, from)
			d.dethrone(a.item.Owner, []codecore.CallID{a.item.Call}) // it was told nothing, and may have thawed
			return
		case GiveUp:
			d.Calls.Release(a.item.Call)
			return
		}
	}
}
