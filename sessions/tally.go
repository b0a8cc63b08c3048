package sessions

import (
	"slices"
	"sync"
	"time"

	"callswitch/codecore"
)

// A tally is how many calls each party of the dialplan has in this worker. It is
// what the calls held say, no more: a call is counted under whom its state
// occupies, from the Step that says so, and under nobody once it is forgotten,
// whoever took it. So nothing is left over from a move, a takeover or a restart.
type tally struct {
	mu  sync.Mutex
	by  map[codecore.CallID][]string
	n   map[string]int
	new map[string]*second // calls begun, by party
}

// second counts within the running second, by the worker's clock.
type second struct {
	at time.Time
	n  int
}

// set says whom a call occupies now.
func (t *tally) set(id codecore.CallID, parties []string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	had := t.by[id]
	if slices.Equal(had, parties) {
		return
	}
	if t.by == nil {
		t.by, t.n, t.new = map[codecore.CallID][]string{}, map[string]int{}, map[string]*second{}
	}
	for _, p := range had {
		if t.n[p]--; t.n[p] == 0 {
			delete(t.n, p)
		}
	}
	for _, p := range parties {
		t.n[p]++
		if had == nil && !now.IsZero() {
			t.begun(p, now)
		}
	}
	if t.by[id] = parties; len(parties) == 0 {
		delete(t.by, id)
	}
}

// begun counts a new call. t.mu is held.
func (t *tally) begun(party string, now time.Time) {
	s := t.new[party]
	if s == nil {
		if len(t.new) > maxSeconds {
			clear(t.new)
		}
		s = new(second)
		t.new[party] = s
	}
	if now.Sub(s.at) >= time.Second || now.Before(s.at) {
		s.at, s.n = now, 0
	}
	s.n++
}

// maxSeconds bounds the parties whose rate is remembered.
const maxSeconds = 10_000

// Load is how many calls each party has here that the dialplan in force bounds.
func (r *Runner) Load() map[string]int {
	p := r.cfg.Plan()
	if p == nil || !p.Capped() {
		return nil
	}
	r.tally.mu.Lock()
	defer r.tally.mu.Unlock()
	out := map[string]int{}
	for party, n := range r.tally.n {
		if calls, _ := p.Caps(party); calls > 0 {
			out[party] = n
		}
	}
	return out
}

// full are the parties that can have no further call: those at their cap in all
// workers together, as far as the others have told, and those that began as many
// this second as this worker's share of their rate.
func (r *Runner) full(p *codecore.Plan, now time.Time) map[string]string {
	if p == nil || !p.Capped() {
		return nil
	}
	others, workers := r.cfg.Others()
	r.tally.mu.Lock()
	defer r.tally.mu.Unlock()
	var out map[string]string
	is := func(party, why string) {
		if out == nil {
			out = map[string]string{}
		}
		out[party] = why
	}
	for party, s := range r.tally.new {
		if _, rate := p.Caps(party); rate > 0 && now.Sub(s.at) < time.Second && float64(s.n) >= max(1, rate/float64(max(1, workers))) {
			is(party, "trunk-rate")
		}
	}
	for party, n := range r.tally.n {
		if calls, _ := p.Caps(party); calls > 0 && n+others[party] >= calls {
			is(party, "trunk-full")
		}
	}
	for party, n := range others {
		if calls, _ := p.Caps(party); calls > 0 && n >= calls {
			is(party, "trunk-full")
		}
	}
	return out
}
