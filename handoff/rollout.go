package handoff

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"callswitch/sessions"
)

// Phase of a Rollout. Stored: never rename.
//
//	preparing -> moving <-> pausing -> done -> confirmed <-> finalizing -> raising -> finalized
//	     |          |          |         |         |             |
//	     |          +----------+---------+---------+-------------+--> undoing -> rolled-back
//	     +--> failed
type Phase string

// The phases.
const (
	PhasePreparing  Phase = "preparing"   // new workers start; then the dry run. May become moving or failed.
	PhaseMoving     Phase = "moving"      // a wave is under way; then pausing, after the last one done
	PhasePausing    Phase = "pausing"     // between waves: the gate, the pause, the operator's pause
	PhaseDone       Phase = "done"        // every wave has gone; waits for confirm, undo, or ConfirmBy
	PhaseConfirmed  Phase = "confirmed"   // old workers leave when they own nothing; may be finalized
	PhaseFinalizing Phase = "finalizing"  // everybody writes the new schema, until no record is below; may go back to confirmed, or be undone
	PhaseRaising    Phase = "raising"     // no record is below: the floor rises. There is no way back from here
	PhaseFinalized  Phase = "finalized"   // the floor has risen; the end
	PhaseUndoing    Phase = "undoing"     // calls go back; then rolled-back
	PhaseRolledBack Phase = "rolled-back" // all that could is back; workers that come again are seen off
	PhaseFailed     Phase = "failed"      // the end: nothing was moved
)

// Side is one of a rollout's two releases.
type Side struct {
	Release string `json:"release"`
	Digest  string `json:"digest"` // of the executable; names the workers
	Binary  string `json:"binary,omitempty"`
	Schema  int    `json:"schema,omitempty"` // newest it knows
}

// Rollout is the document of a rollout, the running or the last one. It is
// changed by compare-and-set only, so any host may carry it on.
type Rollout struct {
	ID            string        `json:"id"`
	Phase         Phase         `json:"phase"`
	Since         time.Time     `json:"since"` // of the phase
	From          Side          `json:"from"`
	To            Side          `json:"to"`
	Steps         []int         `json:"steps"` // per cent of the calls alive on To after each wave
	Step          int           `json:"step"`  // index of the wave under way, or of the next one
	Pause         time.Duration `json:"pause"`
	ConfirmWithin time.Duration `json:"confirm_within"`
	ConfirmBy     time.Time     `json:"confirm_by,omitzero"`
	Held          bool          `json:"held,omitempty"` // the operator's pause
	BackSteps     []int         `json:"back_steps,omitempty"`
	BackStep      int           `json:"back_step,omitempty"`
	Restarted     bool          `json:"restarted,omitempty"` // old workers were gone and are started again
	Tries         int           `json:"tries,omitempty"`     // move orders given for the wave under way
	DryRun        *MoveReport   `json:"dry_run,omitempty"`
	Asking        int           `json:"asking,omitempty"` // orders of the dry run that nothing has come of yet
	Waves         []Wave        `json:"waves,omitempty"`
	Refused       []Refusal     `json:"refused,omitempty"` // of the newest dry run or wave, at most maxRefused
	Left          int           `json:"left,omitempty"`    // records under To.Schema when last counted (finalizing)
	Turn          time.Time     `json:"turn,omitzero"`     // of the operator: a finalize, or that it was taken back
	Gate          Gate          `json:"gate"`
	Before        Health        `json:"before"` // at the start of the wave under way
	Reason        string        `json:"reason,omitempty"`
}

// Wave is one step of a rollout, or of its way back. When no call begins
// meanwhile, and no worker dies with an order in hand, Listed = Moved + Refused +
// Gone + Left. What such a one has moved, and what others take over from it, is in
// none of them; the next look counts it where it is.
type Wave struct {
	Back    bool      `json:"back,omitempty"`
	Percent int       `json:"percent"`
	Alive   int       `json:"alive"`  // calls when it began
	Listed  int       `json:"listed"` // of them, those that it had to move
	Moved   int       `json:"moved"`  // distinct calls
	Refused int       `json:"refused"`
	Gone    int       `json:"gone"`            // ended before their turn
	Left    int       `json:"left,omitempty"`  // should have moved, were not refused, and are where they were
	Again   int       `json:"again,omitempty"` // refused by the newest orders: a second order meets the same calls
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	P50     float64   `json:"freeze_p50_ms"`
	P99     float64   `json:"freeze_p99_ms"`
	Max     float64   `json:"freeze_max_ms"`
	freeze  []float64
}

// Health is what a gate compares: counters since the start of the switch.
type Health struct {
	Attempts  map[string]int `json:"attempts,omitempty"` // new calls begun, by digest
	Failed    map[string]int `json:"failed,omitempty"`   // of them, by the switch's own fault (5xx of ours), by digest
	Drops     int            `json:"drops"`              // calls lost or set aside, all releases
	MediaGaps int            `json:"media_gaps"`         // legs that fell silent
}

// Gate says what stops a rollout and moves everything back. Zero values mean
// the defaults.
type Gate struct {
	Setup     int `json:"setup,omitempty"`      // per cent by which setup success may be worse than before; default 2
	Least     int `json:"least,omitempty"`      // attempts before setup success counts; default 20
	Refused   int `json:"refused,omitempty"`    // per cent of a wave that may be refused; default 20, and always 5 calls
	Drops     int `json:"drops,omitempty"`      // calls that may be lost; default 0
	MediaGaps int `json:"media_gaps,omitempty"` // per cent of the calls that may fall silent; default 2
}

// Facts is what a plan must know of the world.
type Facts struct {
	Workers []sessions.Process // living, with their Calls: counted now, not at the last heartbeat
	Health  Health
	Broken  string    // why workers of To do not start; asked for in PhasePreparing only
	Older   []string  // living processes that do not write To.Schema; asked for in PhaseConfirmed and PhaseFinalizing
	Floor   int       // lowest schema that may be there
	Writes  int       // lowest schema that is to be written; 0: the floor
	Turn    time.Time // Rollout.Turn of the order that said so
	Obeyed  int       // highest schema that a living worker was told to write at least
	Behind  int       // calls of living workers that are not yet written in To.Schema; asked for in PhaseFinalizing once Writes says so
	Below   int       // records under To.Schema; counted when nobody is Behind
}

// NewRollout checks the wishes and returns the document that begins.
func NewRollout(id string, from, to Side, steps []int, pause, confirmWithin time.Duration, now time.Time) (Rollout, error) {
	if len(steps) == 0 {
		steps = []int{1, 10, 50, 100}
	}
	for i, s := range steps {
		if s < 1 || s > 100 || i > 0 && s <= steps[i-1] {
			return Rollout{}, fmt.Errorf("handoff: steps %v: want per cents that grow, from 1 to 100", steps)
		}
	}
	if steps[len(steps)-1] != 100 {
		steps = append(slices.Clone(steps), 100)
	}
	if from.Digest == to.Digest {
		return Rollout{}, fmt.Errorf("handoff: release %s (%s) is running already", to.Release, to.Digest)
	}
	return Rollout{
		ID: id, Phase: PhasePreparing, Since: now, From: from, To: to, Steps: steps,
		Pause: pause, ConfirmWithin: confirmWithin,
	}, nil
}

// WantsWritten reports whether an order to write a schema (0: what the floor
// says) is still what the rollout wants: who carries it out may have slept.
func (r Rollout) WantsWritten(schema int) bool {
	switch r.Phase {
	case PhaseFinalizing:
		return schema == r.To.Schema
	case PhaseRaising, PhaseFinalized:
		return false
	}
	return schema == 0
}

// Over reports whether its outcome stands: workers of the side that was left are
// seen off, and nothing else happens any more.
func (r Rollout) Over() bool {
	switch r.Phase {
	case PhaseFinalized, PhaseRolledBack, PhaseFailed:
		return true
	}
	return false
}

// Running reports whether another rollout must wait.
func (r Rollout) Running() bool {
	return r.Phase != "" && !r.Over() && r.Phase != PhaseConfirmed
}

// Weights says how many of a hundred new calls begin on each digest.
func (r Rollout) Weights() map[string]int {
	share := 0
	switch r.Phase {
	case PhaseMoving, PhasePausing:
		if r.Step > 0 { // what the waves that are over have reached
			share = r.Steps[min(r.Step, len(r.Steps))-1]
		}
	case PhaseDone, PhaseConfirmed, PhaseFinalizing, PhaseRaising, PhaseFinalized:
		share = 100
	}
	return map[string]int{r.From.Digest: 100 - share, r.To.Digest: share}
}

// enter begins a phase.
func (r Rollout) enter(p Phase, now time.Time, reason string) Rollout {
	r.Phase, r.Since, r.Tries = p, now, 0
	if reason != "" {
		r.Reason = reason
	}
	return r
}

// check compares the health after a wave with that before it; "" passes.
func (r Rollout) check(now Health, alive int) string {
	g := r.Gate
	g.Setup, g.Least, g.Refused, g.MediaGaps = cmp.Or(g.Setup, 2), cmp.Or(g.Least, 20), cmp.Or(g.Refused, 20), cmp.Or(g.MediaGaps, 2)
	if n := now.Drops - r.Before.Drops; n > g.Drops {
		return fmt.Sprintf("%d calls lost", n)
	}
	if n := now.MediaGaps - r.Before.MediaGaps; n > max(1, alive*g.MediaGaps/100) {
		return fmt.Sprintf("%d legs fell silent", n)
	}
	tried, failed := now.Attempts[r.To.Digest], now.Failed[r.To.Digest]
	was, wasFailed := r.Before.Attempts[r.From.Digest], r.Before.Failed[r.From.Digest]
	if tried >= g.Least {
		worse := 100*failed/tried - 100*wasFailed/max(1, was)
		if worse > g.Setup {
			return fmt.Sprintf("%d of %d new calls failed on %s", failed, tried, r.To.Release)
		}
	}
	if n := len(r.Waves); n > 0 {
		if w := r.Waves[n-1]; !w.Back && w.Refused > max(5, (w.Moved+w.Refused)*g.Refused/100) {
			return fmt.Sprintf("%d of %d calls refused", w.Refused, w.Moved+w.Refused)
		}
	}
	return ""
}

// clone copies what Next and Record change in place.
func (r Rollout) clone() Rollout {
	r.Waves = slices.Clone(r.Waves)
	r.Refused = slices.Clone(r.Refused)
	r.Before.Attempts = maps.Clone(r.Before.Attempts)
	r.Before.Failed = maps.Clone(r.Before.Failed)
	return r
}
