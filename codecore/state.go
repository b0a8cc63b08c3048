package codecore

import "time"

// CallID is a keyed hash of the INVITE that began the call (DESIGN section 4):
// 24 lower-case hex digits.
type CallID string

// Timer names a deadline. Stored: never rename.
type Timer string

// Peer is what the call remembers of one sender of events and receiver of
// actions ("edge.n1", "media.n1", "cdr").
type Peer struct {
	Boot     string `json:"boot,omitempty"`     // incarnation; a newer one starts at Event 0, Accepted 0
	Event    uint64 `json:"event,omitempty"`    // last event number of this incarnation
	Accepted uint64 `json:"accepted,omitempty"` // last action number this incarnation has taken
	Minted   uint64 `json:"minted,omitempty"`   // last action number minted, over all incarnations
}

// Deadline is an absolute time, in store time.
type Deadline struct {
	Timer Timer     `json:"timer"`
	At    time.Time `json:"at"`
}

// Result is what a Step decided. The caller stores the new state (unless Save
// is false) and only then performs the actions (DESIGN R1).
type Result struct {
	// Actions minted by this Step, also in State.Pending but for lossy ones.
	Actions []Action
	// Save tells that a successor could miss what this Step changed. When it is
	// false the new state is kept in memory and rides in the next save.
	Save bool
	// Allocate asks for media endpoints before this Step's state may be saved:
	// the one effect that precedes the save. The caller allocates (idempotent by
	// call id), feeds Allocated into the new state, and saves only the outcome.
	Allocate []LegID
}

// State is everything a worker must know to carry on a call.
type State struct {
	Peers    map[string]Peer `json:"peers,omitempty"`
	Pending  []Action        `json:"pending,omitempty"`
	Timers   []Deadline      `json:"timers,omitempty"`
	Media    Media           `json:"media,omitzero"`
	MediaDue bool            `json:"media_due,omitempty"`
}
