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
