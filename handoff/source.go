package handoff

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// A MoveOrder moves calls of this worker to another.
type MoveOrder struct {
	To    string            `json:"to"`              // worker
	IDs   []codecore.CallID `json:"ids,omitempty"`   // these; else
	Count int               `json:"count,omitempty"` // so many; 0 = all
}

// passes is how often a call is offered when the refusal was of the moment.
const passes = 3

// Move moves calls to another worker, Lanes batches at a time, each call by
// itself. progress may be nil; it is called from one goroutine at a time with
// what is done so far. When ctx ends, the batches under way are brought to
// their end and the rest stays. The error is nil if every call was asked.
func (d *Driver) Move(ctx context.Context, o MoveOrder, progress func(MoveReport)) (MoveReport, error) {
	return d.move(ctx, o, false, progress)
}

// DryRun prepares the calls at the target without freezing or committing any:
// Moved is how many could go, Refused says which could not, and why.
func (d *Driver) DryRun(ctx context.Context, o MoveOrder) (MoveReport, error) {
	return d.move(ctx, o, true, nil)
}

func (d *Driver) move(ctx context.Context, o MoveOrder, dry bool, progress func(MoveReport)) (MoveReport, error) {
	start := d.Now()
	total := MoveReport{Worker: d.Worker}
	if o.To == d.Worker {
		return total, ErrSelf
	}
	ids, done := d.choose(o, dry)
	defer done()
	asked := len(ids)
	var err error
	for pass := 1; len(ids) > 0; pass++ {
		var r MoveReport
		base := total
		r, err = d.movePass(ctx, o.To, ids, dry, func(r MoveReport) {
			if progress != nil {
				sofar := base
				sofar.add(r)
				sofar.Asked, sofar.Seconds = asked, d.Now().Sub(start).Seconds()
				progress(sofar)
			}
		})
		ids = nil
		if pass < passes && err == nil {
			again, final := split(r.Refused)
			if len(again) > 0 && d.pause(ctx, time.Duration(pass*pass)*50*time.Millisecond) {
				ids, r.Refused = again, final
			}
		}
		total.add(r)
	}
	total.Asked, total.Seconds = asked, d.Now().Sub(start).Seconds()
	if err != nil {
		total.Error = err.Error()
	}
	return total, err
}

// choose picks the calls of an order. Orders to several targets run side by
// side, so each takes calls that no other has taken: two halves of one list, not
// one half twice. done gives them back, those that stayed.
func (d *Driver) choose(o MoveOrder, dry bool) (ids []codecore.CallID, done func()) {
	if len(o.IDs) > 0 {
		return o.IDs, func() {}
	}
	all := d.Calls.List()
	if dry {
		if o.Count > 0 && o.Count < len(all) {
			all = all[:o.Count]
		}
		return all, func() {}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range all {
		if o.Count > 0 && len(ids) == o.Count {
			break
		}
		if !d.chosen[id] {
			d.chosen[id] = true
			ids = append(ids, id)
		}
	}
	return ids, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, id := range ids {
			delete(d.chosen, id)
		}
	}
}

// split takes out the calls that may be offered again.
func split(refused []Refusal) (again []codecore.CallID, final []Refusal) {
	for _, r := range refused {
		if r.Code.Passing() {
			again = append(again, r.Call)
			continue
		}
		final = append(final, r)
	}
	return again, final
}

// movePass offers each call once. It stops when the target takes nothing more.
func (d *Driver) movePass(ctx context.Context, to string, ids []codecore.CallID, dry bool, progress func(MoveReport)) (MoveReport, error) {
	var (
		mu     sync.Mutex
		sum    MoveReport
		lanes  sync.WaitGroup
		stop   error
		silent int // batches in a row without a word from the target
	)
	batches := make(chan []codecore.CallID)
	for range Lanes {
		lanes.Go(func() {
			for b := range batches {
				r, err := d.moveBatch(ctx, to, b, dry)
				mu.Lock()
				sum.add(r)
				if silent++; !errors.Is(err, errSilent) {
					silent = 0
				}
				if stop == nil && (!errors.Is(err, errSilent) || silent > Lanes) {
					stop = err
				}
				progress(sum)
				mu.Unlock()
			}
		})
	}
	left := ids
	for b := range slices.Chunk(ids, BatchSize) {
		mu.Lock()
		failed := stop != nil
		mu.Unlock()
		if failed || ctx.Err() != nil {
			break
		}
		batches <- b
		left = left[len(b):]
	}
	close(batches)
	lanes.Wait()
	sum.Asked, sum.Left = sum.Asked+len(left), sum.Left+len(left)
	if stop == nil && len(left) > 0 {
		stop = context.Cause(ctx)
	}
	return sum, stop
}

// moveBatch takes a batch through the steps of a move. The error is set when
// the target takes nothing more.
func (d *Driver) moveBatch(ctx context.Context, to string, ids []codecore.CallID, dry bool) (MoveReport, error) {
	var r MoveReport
	r.Asked = len(ids)
	items := make([]Item, 0, len(ids))
	for _, id := range ids {
		rec, err := d.Calls.Snapshot(id)
		if err != nil {
			r.Gone++
			continue
		}
		items = append(items, item(rec))
	}
	if len(items) == 0 {
		return r, nil
	}
	verdicts, code := d.ask(ctx, to, VerbPrepare, d.PrepareTimeout, Prepare{From: d.Worker, Dry: dry, Items: items})
	if code != OK {
		for _, it := range items {
			d.refused(&r, it.Call, code, "")
		}
		return r, targetError(to, code)
	}
	ready := items[:0]
	for i, it := range items {
		if v := verdictOf(verdicts, i, it.Call); v.Code != OK {
			d.refused(&r, it.Call, v.Code, v.Detail)
		} else {
			ready = append(ready, it)
		}
	}
	if dry {
		r.Moved = len(ready)
		return r, nil
	}
	return r, d.offerBatch(context.WithoutCancel(ctx), to, ready, &r)
}

// offerBatch is the frozen part of a move: steps 1, 2 and 6.
func (d *Driver) offerBatch(ctx context.Context, to string, prepared []Item, r *MoveReport) error {
	frozen := d.freeze(ctx, prepared, r)
	if len(frozen) == 0 {
		return nil
	}
	verdicts, code := d.ask(ctx, to, VerbOffer, d.OfferTimeout, Offer{From: d.Worker, Items: frozen})
	for i, it := range frozen {
		v := Verdict{Code: code}
		if code == OK {
			v = verdictOf(verdicts, i, it.Call)
		}
		d.conclude(ctx, it, v, r)
	}
	return targetError(to, code)
}

// freeze stops the calls side by side, so that one with a save in hand does not
// keep the others waiting in their freeze.
func (d *Driver) freeze(ctx context.Context, prepared []Item, r *MoveReport) []Item {
	type result struct {
		item Item
		err  error
	}
	results := make([]result, len(prepared))
	limited, cancel := context.WithTimeout(ctx, d.OfferTimeout)
	defer cancel()
	var all sync.WaitGroup
	for i, was := range prepared {
		all.Go(func() {
			at := d.Now().UnixNano()
			rec, _, err := d.Calls.Freeze(limited, was.Call)
			it := item(rec)
			it.Frozen = at
			if it.Rev == was.Rev && it.Sum == was.Sum {
				it.Body = nil // the target has it
			}
			results[i] = result{it, err}
		})
	}
	all.Wait()
	frozen := make([]Item, 0, len(prepared))
	for i, res := range results {
		switch {
		case res.err == nil:
			frozen = append(frozen, res.item)
		case errors.Is(res.err, context.DeadlineExceeded), errors.Is(res.err, sessions.ErrFrozen):
			// A save in hand that does not end, or another order's move.
			d.refused(r, prepared[i].Call, CodeBusy, res.err.Error())
		default:
			r.Gone++
		}
	}
	return frozen
}

// conclude is step 6 for one call.
func (d *Driver) conclude(ctx context.Context, it Item, v Verdict, r *MoveReport) {
	next := AfterVerdict(true, v.Code)
	for wait := 10 * time.Millisecond; next == ReadRecord; wait = min(2*wait, time.Second) {
		limited, cancel := context.WithTimeout(ctx, 2*time.Second)
		rec, err := d.Store.Get(limited, it.Call)
		cancel()
		next = SourceRead(ReadOwn(rec, err, d.Worker, it.Epoch))
		if next == ReadRecord && !d.pause(ctx, wait) {
			r.Left++
			return // the process ends with the call frozen: its successor reads the record
		}
	}
	if next == ThawCall {
		d.Calls.Thaw(it.Call)
		d.Observe(Observation{What: "thawed", Code: v.Code})
		d.refused(r, it.Call, v.Code, v.Detail)
		return
	}
	d.leave(it.Call)
	d.Observe(Observation{What: "left"})
	r.Moved++
	if v.Freeze > 0 {
		r.Freeze = append(r.Freeze, v.Freeze)
	}
}

// republisher is a Bus that can keep the reply subject of a message.
type republisher interface{ PublishMsg(sessions.Msg) error }

// leave drops a call that another owns, and passes on what waited for it.
func (d *Driver) leave(id codecore.CallID) {
	for _, m := range d.Calls.Drop(id) {
		var err error
		if b, ok := d.Bus.(republisher); ok {
			err = b.PublishMsg(m)
		} else {
			err = d.Bus.Publish(m.Subject, m.Data)
		}
		if err != nil {
			return // the senders will send again
		}
	}
}

func (d *Driver) refused(r *MoveReport, id codecore.CallID, code Code, detail string) {
	r.Refused = append(r.Refused, Refusal{id, code, detail})
	d.Observe(Observation{What: "refused", Code: code})
}

// ask sends a Prepare or an Offer. The code is set when no verdicts came.
func (d *Driver) ask(ctx context.Context, to, verb string, timeout time.Duration, v any) ([]Verdict, Code) {
	data, err := wire.Seal(v)
	if err != nil {
		return nil, CodeProto
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	raw, err := d.Bus.Request(limited, sessions.SubjectControl(to, verb), data)
	switch {
	case errors.Is(err, sessions.ErrNoResponders):
		return nil, CodeAbsent
	case errors.Is(err, sessions.ErrBusAway):
		return nil, CodeBus
	case err != nil:
		return nil, CodeSilent
	}
	var out Verdicts
	if err := wire.Open(raw, &out); err != nil {
		return nil, CodeProto
	}
	return out.Verdicts, out.Code
}

// verdictOf is the verdict for the i-th item; none is silence.
func verdictOf(vs []Verdict, i int, id codecore.CallID) Verdict {
	if i < len(vs) && vs[i].Call == id {
		return vs[i]
	}
	return Verdict{Call: id, Code: CodeSilent}
}

// errSilent: no word came about a whole batch. One such batch is retried, many
// in a row end the move.
var errSilent = errors.New("handoff: the target is silent")

func targetError(to string, code Code) error {
	if code == CodeSilent || code == CodeBus {
		return errSilent
	}
	if code.OfTarget() {
		return fmt.Errorf("handoff: %s takes no calls: %s", to, code)
	}
	return nil
}
