package handoff

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"callswitch/sessions"
)

// OrderKind is what an Executor is to do.
type OrderKind string

// Kinds of orders.
const (
	OrderStart  OrderKind = "start-workers" // of Binary; those that run already stay
	OrderDryRun OrderKind = "dry-run"       // Source, Move
	OrderMove   OrderKind = "move"          // Source, Move
	OrderStop   OrderKind = "stop-workers"  // of Digest, each when it owns nothing
	OrderWrite  OrderKind = "write-schema"  // from now on everybody writes at least Schema; 0: what the floor says
	OrderFloor  OrderKind = "raise-floor"   // to Schema
)

// An Order is one thing that a rollout wants done.
type Order struct {
	Kind   OrderKind
	Source string    // worker that moves
	Move   MoveOrder // To, Count
	Binary string
	Digest string
	Schema int
}

const (
	maxTries   = 3                // move orders per worker and wave: calls come and go meanwhile
	maxRefused = 100              // refusals kept in the document
	startLimit = time.Minute      // for the new release's first worker
	dryLimit   = time.Minute      // for a dry run, before it is ordered again
	stopEvery  = 2 * time.Second  // between looks at the old workers
	backEvery  = 30 * time.Second // the same when the rollout is over: who was to leave has been told
)

// Next says how the rollout goes on: the document as it shall be stored, and,
// once it is, the orders to carry out (their reports go into Record). No orders
// and an equal document mean: look again later. Pure.
func Next(r Rollout, now time.Time, f Facts) (Rollout, []Order) {
	r = r.clone()
	from, to := workersOf(f, r.From.Digest), workersOf(f, r.To.Digest)
	if order, missing := r.writes(f); missing {
		return r, []Order{order}
	}
	switch r.Phase {
	case PhasePreparing:
		return r.prepare(now, f, from, to)
	case PhaseMoving:
		return r.moving(now, f, from, to)
	case PhasePausing:
		if why := r.check(f.Health, alive(from)+alive(to)); why != "" {
			return r.back(now, "gate: "+why, nil), nil
		}
		if len(to) == 0 {
			return r.back(now, "no worker of "+r.To.Release+" lives", nil), nil
		}
		if !r.Held && now.Sub(r.Since) >= r.Pause {
			r.Before = f.Health
			return r.enter(PhaseMoving, now, ""), nil
		}
	case PhaseDone:
		if why := r.check(f.Health, alive(from)+alive(to)); why != "" {
			return r.back(now, "gate: "+why, nil), nil
		}
		if r.ConfirmWithin > 0 && !now.Before(r.ConfirmBy) {
			return r.back(now, "not confirmed in time", nil), nil
		}
	case PhaseConfirmed:
		return r.retire(now, stopEvery, r.From.Digest, from, to)
	case PhaseRolledBack, PhaseFailed:
		return r.retire(now, backEvery, r.To.Digest, to, from)
	case PhaseFinalizing:
		return r.finalizing(now, f)
	case PhaseRaising:
		if f.Floor < r.To.Schema {
			return r, []Order{{Kind: OrderFloor, Schema: r.To.Schema}}
		}
		return r.enter(PhaseFinalized, now, ""), nil
	case PhaseUndoing:
		if f.Obeyed > max(f.Floor, 1) {
			return r, nil // a worker that has not heard yet would offer what the old release cannot read
		}
		return r.undoing(now, from, to)
	}
	return r, nil
}

// prepare starts workers of the new release and asks them about every call.
func (r Rollout) prepare(now time.Time, f Facts, from, to []sessions.Process) (Rollout, []Order) {
	switch {
	case len(to) == 0 && r.Tries == 0:
		r.Tries = 1
		return r, []Order{{Kind: OrderStart, Binary: r.To.Binary, Digest: r.To.Digest}}
	case len(to) == 0 && f.Broken != "":
		return r.enter(PhaseFailed, now, f.Broken), []Order{{Kind: OrderStop, Digest: r.To.Digest}}
	case len(to) == 0 && now.Sub(r.Since) > startLimit:
		return r.enter(PhaseFailed, now, "no worker of "+r.To.Release+" started within "+startLimit.String()), []Order{{Kind: OrderStop, Digest: r.To.Digest}}
	case len(to) == 0:
		return r, nil
	case r.Asking > 0 && now.Sub(r.Since) < dryLimit: // another is at it, or has died at it
		return r, nil
	case r.DryRun == nil || r.Asking > 0:
		r.DryRun, r.Since = &MoveReport{}, now
		var orders []Order
		for i, w := range from {
			if w.Calls > 0 {
				orders = append(orders, Order{Kind: OrderDryRun, Source: w.ID, Move: MoveOrder{To: to[i%len(to)].ID}})
			}
		}
		r.Asking = len(orders)
		return r, orders
	}
	if why := r.tooFew(); why != "" {
		return r.enter(PhaseFailed, now, why), []Order{{Kind: OrderStop, Digest: r.To.Digest}}
	}
	return r.enter(PhaseMoving, now, ""), nil
}

// tooFew judges the dry run as the gate would judge the waves, before any call
// has been touched; "" passes. Defects have no allowance for a few calls.
func (r Rollout) tooFew() string {
	d := r.DryRun
	cannot, defects := d.Asked-d.Moved-d.Gone, 0
	for _, code := range []Code{CodeDecode, CodeMigratePanic, CodeMigrateTimeout, CodeInvariant} {
		defects += d.Why[code]
	}
	share := d.Asked * cmp.Or(r.Gate.Refused, 20) / 100
	if cannot <= max(5, share) && defects <= share {
		return ""
	}
	var why []string
	for _, code := range slices.Sorted(maps.Keys(d.Why)) {
		why = append(why, fmt.Sprintf("%d %s", d.Why[code], code))
	}
	return fmt.Sprintf("dry run: %d of %d calls cannot move to %s: %s", cannot, d.Asked, r.To.Release, strings.Join(why, ", "))
}

// moving gives the orders of a wave until the share is reached, or nothing
// more moves.
func (r Rollout) moving(now time.Time, f Facts, from, to []sessions.Process) (Rollout, []Order) {
	if len(to) == 0 {
		return r.back(now, "no worker of "+r.To.Release+" lives", nil), nil
	}
	total := alive(from) + alive(to)
	missing := ceilPercent(total, r.Steps[r.Step]) - alive(to)
	if r.Tries == 0 {
		r.Before = f.Health
		r.Waves = append(r.Waves, Wave{Percent: r.Steps[r.Step], Alive: total, Listed: max(0, min(missing, alive(from))), Started: now})
	}
	wave := &r.Waves[len(r.Waves)-1]
	movable := missing > 0 && alive(from) > 0 && r.Tries < maxTries
	if movable && r.Tries > 0 && wave.Refused > 0 && missing <= wave.Refused {
		movable = false // only the refused are left
	}
	if movable {
		r.Tries++
		wave.Again = 0
		return r, spread(from, to, missing)
	}
	wave.end(now, missing)
	r.Step++
	if r.Step < len(r.Steps) {
		return r.enter(PhasePausing, now, ""), nil
	}
	r.ConfirmBy = now.Add(r.ConfirmWithin)
	return r.enter(PhaseDone, now, ""), nil
}

// undoing moves the calls back, by BackSteps.
func (r Rollout) undoing(now time.Time, from, to []sessions.Process) (Rollout, []Order) {
	if len(from) == 0 && len(to) > 0 {
		if r.Restarted { // nowhere to go back to yet: the calls stay where they live
			return r, nil
		}
		r.Restarted = true // they have left already
		return r, []Order{{Kind: OrderStart, Binary: r.From.Binary, Digest: r.From.Digest}}
	}
	total := alive(from) + alive(to)
	missing := ceilPercent(total, r.BackSteps[r.BackStep]) - alive(from)
	if r.Tries == 0 {
		r.Waves = append(r.Waves, Wave{Back: true, Percent: r.BackSteps[r.BackStep], Alive: total, Listed: max(0, min(missing, alive(to))), Started: now})
	}
	wave := &r.Waves[len(r.Waves)-1]
	if missing > 0 && alive(to) > 0 && r.Tries < maxTries && !(r.Tries > 0 && wave.Refused > 0 && missing <= wave.Refused) {
		r.Tries++
		wave.Again = 0
		return r, spread(to, from, missing)
	}
	wave.end(now, missing)
	if r.BackStep++; r.BackStep < len(r.BackSteps) {
		return r.enter(PhaseUndoing, now, ""), nil
	}
	// A pinned call keeps its worker; the others leave.
	return r.enter(PhaseRolledBack, now, ""), []Order{{Kind: OrderStop, Digest: r.To.Digest}}
}

// end closes a wave that still misses so many calls.
func (w *Wave) end(now time.Time, missing int) {
	w.Ended = now
	if w.Percent == 100 {
		w.Refused = w.Again // the newest orders asked every call that was left
	}
	w.Left = max(0, missing-w.Refused)
}

// retire lets the workers of the side that was left go, and moves what they still
// own now and then: a refused call may have changed into one that can go, and one
// that was leaving when everything was killed is started again and takes calls over.
func (r Rollout) retire(now time.Time, every time.Duration, digest string, leaving, staying []sessions.Process) (Rollout, []Order) {
	if len(leaving) == 0 || len(staying) == 0 || now.Sub(r.Since) < every {
		return r, nil
	}
	r.Since = now
	orders := []Order{{Kind: OrderStop, Digest: digest}}
	if alive(leaving) > 0 {
		r.Since = now.Add(4 * stopEvery)
		orders = append(orders, spread(leaving, staying, alive(leaving))...)
	}
	return r, orders
}

// writes is the order about what is to be written that has not been carried out
// yet: whoever was given it may have died, and a late one of an earlier turn may
// have undone it. The turn shows that this one was the last.
func (r Rollout) writes(f Facts) (o Order, missing bool) {
	o = Order{Kind: OrderWrite}
	switch r.Phase {
	case PhaseRaising, PhaseFinalized:
		return o, false
	case PhaseFinalizing:
		o.Schema = r.To.Schema
	}
	return o, !r.Turn.Equal(f.Turn) && !r.Turn.IsZero() || o.Schema == 0 && f.Writes > f.Floor
}

// finalizing waits until everybody writes the new schema and no record is below;
// only then does the floor rise.
func (r Rollout) finalizing(now time.Time, f Facts) (Rollout, []Order) {
	r.Left = max(f.Behind, f.Below)
	if r.Left > 0 || len(f.Older) > 0 {
		return r, nil
	}
	return r.enter(PhaseRaising, now, ""), nil
}

// Record puts the report of an order into the document. Pure.
func Record(r Rollout, o Order, m MoveReport) Rollout {
	r = r.clone()
	switch {
	case o.Kind == OrderDryRun && r.DryRun != nil:
		sum := *r.DryRun
		sum.add(MoveReport{Asked: m.Asked, Moved: m.Moved, Gone: m.Gone, Error: m.Error})
		sum.Why = maps.Clone(sum.Why)
		for _, f := range m.Refused {
			if sum.Why == nil {
				sum.Why = map[Code]int{}
			}
			sum.Why[f.Code]++
		}
		r.DryRun = &sum
		if m.Error == "" || m.Asked > 0 { // else nobody was asked
			r.Asking = max(0, r.Asking-1)
		}
	case o.Kind == OrderMove && len(r.Waves) > 0 && (r.Phase == PhaseMoving || r.Phase == PhaseUndoing):
		w := &r.Waves[len(r.Waves)-1]
		w.Moved += m.Moved
		w.Gone += m.Gone
		w.Again += len(m.Refused)
		w.Refused = max(w.Refused, w.Again)
		w.freeze = append(slices.Clone(w.freeze), m.Freeze...)
		all := MoveReport{Freeze: w.freeze}
		w.P50, w.P99, w.Max = max(w.P50, all.Quantile(0.5)), max(w.P99, all.Quantile(0.99)), max(w.Max, all.Quantile(1))
	}
	known := map[Refusal]bool{}
	for _, f := range r.Refused {
		known[f] = true
	}
	for _, f := range m.Refused {
		if !known[f] && len(r.Refused) < maxRefused {
			r.Refused = append(r.Refused, f)
		}
	}
	return r
}

// ErrPhase refuses a wish of the operator that does not fit the phase.
var ErrPhase = errors.New("handoff: not in this phase of the rollout")

// ErrOlder refuses to finalize while a process lives that does not know the new schema.
var ErrOlder = errors.New("handoff: a process of an older schema lives")

// Verbs of Steer.
const (
	SteerPause    = "pause"    // stop before the next wave
	SteerPromote  = "promote"  // go on at once
	SteerAbort    = "abort"    // all back, in one wave; takes a finalize back, and no more
	SteerUndo     = "undo"     // all back, by steps
	SteerConfirm  = "confirm"  // keep the new release; the old workers leave
	SteerFinalize = "finalize" // write the new schema, then raise the floor: there is no way back after
)

// Steer is the operator's hand on the document. Pure.
func Steer(r Rollout, verb string, steps []int, now time.Time, f Facts) (Rollout, []Order, error) {
	r = r.clone()
	wrong := func() (Rollout, []Order, error) {
		return r, nil, fmt.Errorf("%w: cannot %s while %s", ErrPhase, verb, r.Phase)
	}
	moving := r.Phase == PhaseMoving || r.Phase == PhasePausing
	switch verb {
	case SteerPause:
		if !moving {
			return wrong()
		}
		r.Held = true
	case SteerPromote:
		if !moving {
			return wrong()
		}
		r.Held = false
		if r.Phase == PhasePausing {
			r.Since = now.Add(-r.Pause)
		}
	case SteerAbort, SteerUndo:
		switch {
		case r.Phase == PhasePreparing:
			return r.enter(PhaseFailed, now, "aborted by the operator"), []Order{{Kind: OrderStop, Digest: r.To.Digest}}, nil
		case r.Phase == PhaseUndoing && verb == SteerAbort:
			return r, nil, nil
		case r.Phase == PhaseFinalizing && verb == SteerAbort:
			r.Left, r.Turn = 0, now
			return r.enter(PhaseConfirmed, now, ""), []Order{{Kind: OrderWrite}}, nil
		case !moving && r.Phase != PhaseDone && r.Phase != PhaseConfirmed && r.Phase != PhaseFinalizing:
			return wrong()
		}
		for i, s := range steps {
			if s < 1 || s > 100 || i > 0 && s <= steps[i-1] {
				return r, nil, fmt.Errorf("handoff: steps %v: want per cents that grow, from 1 to 100", steps)
			}
		}
		was := r.Phase
		r = r.back(now, map[string]string{SteerAbort: "aborted by the operator", SteerUndo: "undone by the operator"}[verb], steps)
		if was == PhaseFinalizing {
			r.Left, r.Turn = 0, now
			return r, []Order{{Kind: OrderWrite}}, nil
		}
	case SteerConfirm:
		if r.Phase != PhaseDone {
			return wrong()
		}
		r = r.enter(PhaseConfirmed, now.Add(-stopEvery), "")
	case SteerFinalize:
		switch {
		case r.Phase != PhaseConfirmed:
			return wrong()
		case len(f.Older) > 0:
			return r, nil, fmt.Errorf("%w: %s cannot read schema %d and would be left out", ErrOlder, strings.Join(f.Older, ", "), r.To.Schema)
		}
		r.Left, r.Turn = 0, now
		return r.enter(PhaseFinalizing, now, ""), nil, nil
	default:
		return r, nil, fmt.Errorf("handoff: no verb %q", verb)
	}
	return r, nil, nil
}

// back begins the way back.
func (r Rollout) back(now time.Time, reason string, steps []int) Rollout {
	if len(steps) == 0 || steps[len(steps)-1] != 100 {
		steps = append(slices.Clone(steps), 100)
	}
	if n := len(r.Waves); n > 0 && r.Waves[n-1].Ended.IsZero() {
		r.Waves[n-1].Ended = now
	}
	r.BackSteps, r.BackStep, r.Held = steps, 0, false
	return r.enter(PhaseUndoing, now, reason)
}

// workersOf lists the living workers of a release, in a stable order.
func workersOf(f Facts, digest string) []sessions.Process {
	var out []sessions.Process
	for _, p := range f.Workers {
		if p.Digest == digest && (p.Role == "" || p.Role == "worker") {
			out = append(out, p)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

func alive(ps []sessions.Process) (n int) {
	for _, p := range ps {
		n += p.Calls
	}
	return n
}

func ceilPercent(n, percent int) int { return (n*percent + 99) / 100 }

// spread orders that count calls move, from each source by its share of what
// is left, and to the targets in turn.
func spread(sources, targets []sessions.Process, count int) []Order {
	var orders []Order
	left := alive(sources)
	for i, s := range sources {
		if s.Calls == 0 || left == 0 {
			continue
		}
		n := min(s.Calls, (count*s.Calls+left-1)/left)
		left -= s.Calls
		count -= n
		for k := range targets {
			part := n / len(targets)
			if (k+i)%len(targets) < n%len(targets) {
				part++
			}
			if part > 0 {
				orders = append(orders, Order{Kind: OrderMove, Source: s.ID, Move: MoveOrder{To: targets[(k+i)%len(targets)].ID, Count: part}})
			}
		}
	}
	return orders
}
