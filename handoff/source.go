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
// their end and the rest stays; when Run has ended, what is in doubt is left to its
// record. The error is nil if every call was asked.
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

// A wave is one pass over the calls of an order: each is prepared, and then
// offered, once. What is prepared waits for a free lane unfrozen.
type wave struct {
	d   *Driver
	to  string
	dry bool

	mu       sync.Mutex
	sum      MoveReport
	progress func(MoveReport)
	stop     error // the target takes nothing more
	silent   int   // batches in a row without a word from the target
}

// ready is a call that the target could carry on, and the mark of its state.
type ready struct {
	Item
	mark uint64
}

// movePass offers each call once. It stops when the target takes nothing more.
func (d *Driver) movePass(ctx context.Context, to string, ids []codecore.CallID, dry bool, progress func(MoveReport)) (MoveReport, error) {
	w := &wave{d: d, to: to, dry: dry, progress: progress}
	batches, offers := make(chan []codecore.CallID), make(chan []ready)
	var preparers, lanes sync.WaitGroup
	for range prepareLanes {
		preparers.Go(func() {
			for b := range batches {
				if items := w.prepare(ctx, b); len(items) > 0 && !dry {
					offers <- items
				}
			}
		})
	}
	for range Lanes {
		lanes.Go(func() {
			for items := range offers {
				d.lanes <- struct{}{} // shared by the orders that this worker carries out
				if d.ended() {
					w.add(MoveReport{Left: len(items)}, errEnds)
				} else {
					w.offer(context.WithoutCancel(ctx), items)
				}
				<-d.lanes
			}
		})
	}
	left := ids
	for b := range slices.Chunk(ids, BatchSize) {
		if w.stopped() != nil || ctx.Err() != nil {
			break
		}
		batches <- b
		left = left[len(b):]
	}
	close(batches)
	preparers.Wait()
	close(offers)
	lanes.Wait()
	w.sum.Asked, w.sum.Left = w.sum.Asked+len(left), w.sum.Left+len(left)
	if w.stop == nil && len(left) > 0 {
		w.stop = context.Cause(ctx)
	}
	return w.sum, w.stop
}

// add counts what became of a batch, or of a part of it.
func (w *wave) add(r MoveReport, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sum.add(r)
	if w.silent++; !errors.Is(err, errSilent) {
		w.silent = 0
	}
	if w.stop == nil && (!errors.Is(err, errSilent) || w.silent > maxSilent) {
		w.stop = err
	}
	w.progress(w.sum)
}

func (w *wave) stopped() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stop
}

// prepare is step 0; it returns the calls that may be offered.
func (w *wave) prepare(ctx context.Context, ids []codecore.CallID) []ready {
	d := w.d
	r := MoveReport{Asked: len(ids)}
	items, marks := make([]Item, 0, len(ids)), make([]uint64, 0, len(ids))
	for _, id := range ids {
		rec, mark, err := d.Calls.Snapshot(id)
		if err != nil {
			r.Gone++
			continue
		}
		items, marks = append(items, item(rec)), append(marks, mark)
	}
	if len(items) == 0 {
		w.add(r, nil)
		return nil
	}
	verdicts, code := d.ask(ctx, w.to, VerbPrepare, d.PrepareTimeout, Prepare{From: d.Worker, Dry: w.dry, Items: items})
	if code != OK {
		for _, it := range items {
			w.refused(&r, it.Call, code, "")
		}
		w.add(r, targetError(w.to, code))
		return nil
	}
	could := make([]ready, 0, len(items))
	for i, it := range items {
		if v := verdictOf(verdicts, i, it.Call); v.Code != OK {
			w.refused(&r, it.Call, v.Code, v.Detail)
			continue
		}
		it.Body = nil // the target has it
		could = append(could, ready{it, marks[i]})
	}
	if w.dry {
		r.Moved = len(could)
	}
	w.add(r, nil)
	return could
}

// offer is the frozen part of a move: steps 1, 2 and 6.
func (w *wave) offer(ctx context.Context, prepared []ready) {
	d := w.d
	var r MoveReport
	frozen := d.freeze(ctx, prepared, &r)
	if len(frozen) == 0 {
		w.add(r, nil)
		return
	}
	verdicts, code := d.ask(ctx, w.to, VerbOffer, d.OfferTimeout, Offer{From: d.Worker, Items: frozen})
	for i, it := range frozen {
		v := Verdict{Code: code}
		if code == OK {
			v = verdictOf(verdicts, i, it.Call)
		}
		d.conclude(ctx, it, v, &r)
	}
	w.add(r, targetError(w.to, code))
}

// freeze stops the calls side by side, so that one with a save in hand does not
// keep the others waiting in their freeze. Only what has changed since it was
// prepared is encoded again and sent.
func (d *Driver) freeze(ctx context.Context, prepared []ready, r *MoveReport) []Item {
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
			rec, same, err := d.Calls.Freeze(limited, was.Call, was.mark)
			it := was.Item
			if !same || rec.Rev != was.Rev {
				it = item(rec)
			}
			it.Frozen = at
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
	next := AfterVerdict(v.Code)
	for wait := 10 * time.Millisecond; next == ReadRecord; wait = min(2*wait, time.Second) {
		limited, cancel := d.within(ctx, 2*time.Second)
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

// leave drops a call that another owns, and passes on what waited for it,
// without where the answers are awaited: who asked is sent his actions at once, and
// asks again for the answer.
func (d *Driver) leave(id codecore.CallID) {
	for _, m := range d.Calls.Drop(id) {
		if err := d.Bus.Publish(m.Subject, m.Data); err != nil {
			return // the senders will send again
		}
	}
}

// refused counts a refusal, but that of a dry run only in its report: nothing was
// to move, and the wave will meet the call again.
func (w *wave) refused(r *MoveReport, id codecore.CallID, code Code, detail string) {
	if w.dry {
		r.Refused = append(r.Refused, Refusal{id, code, detail})
		return
	}
	w.d.refused(r, id, code, detail)
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

// errEnds: Run has ended, and nothing is offered any more.
var errEnds = errors.New("handoff: the worker ends")

func targetError(to string, code Code) error {
	if code == CodeSilent || code == CodeBus {
		return errSilent
	}
	if code.OfTarget() {
		return fmt.Errorf("handoff: %s takes no calls: %s", to, code)
	}
	return nil
}
