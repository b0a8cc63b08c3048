// Package sessions keeps calls alive: it stores their records, says which
// worker owns each, and runs codecore.Step on the events that reach them. One
// call has one session. It does not decide what a call does next (codecore) nor
// how a call changes its owner (handoff), and it opens no socket: the Store and
// the Bus are given to it. Rules R1 to R7 are those of handoff/design.md.
package sessions

import (
	"context"
	"errors"
	"time"

	"callswitch/codecore"
)

// Record is a session at rest: what is in the store and what a move moves. All
// but Body travels as headers, so that a takeover can read them without bodies.
type Record struct {
	ID       codecore.CallID
	Owner    string // incarnation of a worker, "w-<ulid>"
	Epoch    uint64 // of ownership; grows by one with every change of owner
	N        uint64 // mutation number; grows by one with every save, no gaps
	Release  string // that wrote it
	Schema   int    // of the state in Body
	Attempts int    // takeovers since the call last completed a step (R7)
	Claimed  time.Time
	Tomb     bool   // the call has ended; expires 60 s after
	Aside    bool   // set aside: only its stub is read (R7)
	Body     []byte // JSON {"stub": codecore.Stub, "state": …}
	Rev      uint64 // the store's revision; 0 = not stored yet
}

// Errors of a Store.
var (
	ErrNotFound    = errors.New("sessions: no record")
	ErrConflict    = errors.New("sessions: record has changed") // a CAS lost: final, the store has been re-read
	ErrUnavailable = errors.New("sessions: store is away")      // nothing is known: ask again
	ErrFull        = errors.New("sessions: store is full")      // 80 % of the stream's limits (creation only)
	ErrTooLarge    = errors.New("sessions: value is too large") // final: no store of this cluster takes it
	ErrOwned       = errors.New("sessions: call is owned or reserved here")
)

// Store keeps records; compare-and-set on Rev is the only way to write.
// sessionstest has the conformance suite.
type Store interface {
	// Put writes r if the record's revision is still r.Rev (0: there is none)
	// and returns the new revision. In doubt (time-out, odd error) it re-reads
	// and looks for its own writer nonce, so ErrConflict means that another
	// writer won, and ErrUnavailable that nobody knows yet.
	Put(ctx context.Context, r Record) (rev uint64, err error)
	// PutAll is Put for many, pipelined; one result per record, in order.
	PutAll(ctx context.Context, rs []Record) []PutResult
	// Get reads the newest record (never a stale replica's).
	Get(ctx context.Context, id codecore.CallID) (Record, error)
	// Scan calls fn for the newest record of each call, without Body when
	// headersOnly. It stops at fn's first error and returns it.
	Scan(ctx context.Context, headersOnly bool, fn func(Record) error) error
	// ScanSince is Scan without bodies of the records written after a revision; of
	// all when it is 0, or one that this store has not reached. upTo is for the
	// next time: nothing at or before it was missed.
	ScanSince(ctx context.Context, rev uint64, fn func(Record) error) (upTo uint64, err error)
	// AddCDR stores a CDR once by its ID; a repeat is no error.
	AddCDR(ctx context.Context, c codecore.CDR) error
	// Tell appends to the story of a call: lossy, for operators.
	Tell(id codecore.CallID, line StoryLine)
}

// PutResult is the outcome of one record of PutAll.
type PutResult struct {
	Rev uint64
	Err error
}

// StoryLine is one line of a call's history as `switch call ID` shows it.
type StoryLine struct {
	At      time.Time `json:"at"`
	Owner   string    `json:"owner"`
	Release string    `json:"release"`
	Epoch   uint64    `json:"epoch"`
	N       uint64    `json:"n"`
	What    string    `json:"what"`           // event or move, "request INVITE", "moved", "taken over", "refused"
	Phase   string    `json:"phase"`          // after it
	Acts    []string  `json:"acts,omitempty"` // "1 edge.n1 request INVITE"
	Freeze  float64   `json:"freeze_ms,omitempty"`
	Reason  string    `json:"reason,omitempty"` // codes of what was refused or hung up; "panic"
}

// Process is what a process tells of itself, in heartbeats and to the host.
type Process struct {
	Role      string `json:"role"` // worker, edge, media, api, nats, host; edge-tls: an edge that was replaced and stays
	Node      string `json:"node"`
	ID        string `json:"id"` // incarnation: role letter and a sortable unique id
	PID       int    `json:"pid"`
	Release   string `json:"release"`
	Digest    string `json:"digest"` // of the executable: SHA-256, 64 hex digits
	SchemaMin int    `json:"schema_min"`
	SchemaMax int    `json:"schema_max"`
	ProtoMin  int    `json:"proto_min"`
	ProtoMax  int    `json:"proto_max"`
	Calls     int    `json:"calls"` // owned (workers)
	Draining  bool   `json:"draining,omitempty"`

	// Load is how many of Calls each party has that the dialplan bounds (workers).
	Load map[string]int `json:"load,omitempty"`

	Closed bool     `json:"closed,omitempty"` // admits no new calls (workers)
	Listen []string `json:"listen,omitempty"` // SIP addresses (edges)

	Connections int `json:"connections,omitempty"` // carried for the edge at work (edge-tls)

	Registrant int `json:"registrant,omitempty"` // newest form of a registration at a carrier that it reads; 0: it keeps none (workers)
}
