package loadtest

import (
	"encoding/json"
	"time"
)

// The JSON of the switch's API. A reader ignores fields it does not know; a
// server may add fields, never rename one. Durations in requests are Go strings
// ("30s"); durations in answers are numbers with their unit in the name.

// Status says whether calls are taken and where they are.
type Status struct {
	Ready          bool           `json:"ready"`     // nats, edge, media and one worker answer
	Accepting      bool           `json:"accepting"` // new calls are admitted
	Floor          int            `json:"floor"`
	Release        string         `json:"release"`          // that new calls go to
	Listen         []string       `json:"listen"`           // "udp:127.0.0.1:5060", "tcp:127.0.0.1:5060"
	Calls          int            `json:"calls"`            // that have not ended
	CallsByRelease map[string]int `json:"calls_by_release"` // by the release of their owner
}

// CallInfo is one living call.
type CallInfo struct {
	ID       string    `json:"id"`
	From     string    `json:"from"`              // user part of the caller
	To       string    `json:"to"`                // number dialled
	FromPeer string    `json:"from_peer"`         //
	ToPeer   string    `json:"to_peer,omitempty"` //
	Phase    string    `json:"phase"`             //
	Start    time.Time `json:"start"`             //
	Answer   time.Time `json:"answer,omitzero"`   //
	Owner    string    `json:"owner"`             // incarnation of the worker
	Epoch    uint64    `json:"epoch"`             // grows by one with every change of owner
	N        uint64    `json:"n"`                 // mutation number
	Release  string    `json:"release"`           // of the owner
	Schema   int       `json:"schema"`            // of the record as stored
	Pinned   string    `json:"pinned,omitempty"`  // why it cannot go to an older schema
	Since    time.Time `json:"since,omitzero"`    // owned by Owner since
	Aside    bool      `json:"aside,omitempty"`   // set aside: only the caretaker serves it
}

// RolloutStart asks for a rollout. Zero values mean the defaults.
type RolloutStart struct {
	Binary        string `json:"binary"`                   // absolute path of the release's executable
	Steps         []int  `json:"steps,omitempty"`          // per cent of the calls after each wave, rising; default 1,10,50,100
	Pause         string `json:"pause,omitempty"`          // between waves, "30s"
	ConfirmWithin string `json:"confirm_within,omitempty"` // else it goes back by itself, "10m"
}

// Steer is the body of POST /v1/rollouts/current/{verb}.
type Steer struct {
	Steps []int `json:"steps,omitempty"` // undo only: per cent moved back after each wave; none = one wave
	Force bool  `json:"force,omitempty"` // finalize only: also when serve would not start again
}

// States of a rollout.
const (
	RolloutPreparing  = "preparing"   // workers start, dry run
	RolloutMoving     = "moving"      // a wave is under way
	RolloutPausing    = "pausing"     // between waves, by plan or by the operator
	RolloutDone       = "done"        // all waves moved; waits for confirm or undo
	RolloutConfirmed  = "confirmed"   // old workers leave when they own nothing
	RolloutFinalizing = "finalizing"  // the new schema is written everywhere; waits until no record is older
	RolloutFinalized  = "finalized"   // the floor has risen
	RolloutUndoing    = "undoing"     // calls go back (undo, abort, failed gate, not confirmed)
	RolloutRolledBack = "rolled-back" // all that could is back; new calls go to the old release
	RolloutFailed     = "failed"      // nothing was moved (binary does not start, …): Error
)

// Rollout is the document of the running or last rollout.
type Rollout struct {
	ID       string     `json:"id"`
	State    string     `json:"state"`
	From     Release    `json:"from"`
	To       Release    `json:"to"`
	Steps    []int      `json:"steps"`
	Waves    []Wave     `json:"waves"`              // begun so far, those of the way back too
	Refusals []Refusal  `json:"refusals,omitempty"` // of the newest direction, one per call
	DryRun   *DryRun    `json:"dry_run,omitempty"`  //
	Confirm  *time.Time `json:"confirm_by,omitempty"`
	Left     int        `json:"left,omitempty"`  // records still in an older schema, while finalizing
	Error    string     `json:"error,omitempty"` // why it failed or went back
}

// Release names a release.
type Release struct {
	Name   string `json:"name"`
	Digest string `json:"digest"` // SHA-256 of the executable, lower-case hex, 12 digits or all
	Schema int    `json:"schema"` // newest it writes
}

// Wave is one step of a rollout or of its way back.
type Wave struct {
	Back     bool      `json:"back,omitempty"`
	Percent  int       `json:"percent"`
	Calls    int       `json:"calls"`   // that this wave is to move
	Moved    int       `json:"moved"`   // so far
	Refused  int       `json:"refused"` // so far
	Listed   int       `json:"listed"`  // that it has to move; 0: not told
	Gone     int       `json:"gone"`    // ended before their turn
	Left     int       `json:"left"`    // should have moved and did not
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended,omitzero"`
	FreezeMS Quantiles `json:"freeze_ms"`
}

// Refusal says why a call stayed where it was.
type Refusal struct {
	Call   string `json:"call"`
	To     string `json:"to,omitempty"` // number dialled
	Reason string `json:"reason"`       // stable code: "pinned", "migration-refused", …
	Detail string `json:"detail,omitempty"`
}

// DryRun is what preparing every call without committing found.
type DryRun struct {
	Would  int `json:"would"`
	Cannot int `json:"cannot"`
}

// Moves sums up all moves.
type Moves struct {
	Moved    int       `json:"moved"`
	Refused  int       `json:"refused"`
	Lost     int       `json:"lost,omitempty"` // moves whose end is not known
	FreezeMS Quantiles `json:"freeze_ms"`
}

// Quantiles are milliseconds.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Process is the host ("host") or one of its children ("nats", "edge",
// "media", "worker", "api").
type Process struct {
	Role    string `json:"role"`
	ID      string `json:"id"`
	PID     int    `json:"pid"`
	Release string `json:"release"`
	Digest  string `json:"digest"` // SHA-256 of its executable, 12 hex digits or all; the rig computes its own
	Calls   int    `json:"calls"`  // owned (workers only)
}

// CDR is one line of GET /v1/cdrs: what the rig checks of it, and the rest as it came.
type CDR struct {
	ID       string    `json:"id"`
	From     string    `json:"from"`
	To       string    `json:"to"`
	Start    time.Time `json:"start"`
	Answer   time.Time `json:"answer,omitzero"`
	End      time.Time `json:"end"`
	Seconds  float64   `json:"seconds"`
	Result   string    `json:"result"`
	Code     int       `json:"code"`
	HungUpBy string    `json:"hung_up_by,omitempty"`
	Cause    string    `json:"cause,omitempty"`
}

// Dialplan is the routing table: peers as they may call, routes as they apply.
type Dialplan struct {
	Version uint64          `json:"version,omitempty"`
	Peers   []DialplanPeer  `json:"peers"`
	Routes  []DialplanRoute `json:"routes"`
	Limits  json.RawMessage `json:"limits,omitempty"` // {"no_answer": s, "max_call": s}
}

// DialplanPeer is a trunk or a phone, known by its source.
type DialplanPeer struct {
	Name    string   `json:"name"`
	Kind    string   `json:"kind"`
	Sources []string `json:"sources"`
	Target  string   `json:"target"`

	Reliable string `json:"reliable,omitempty"` // provisional responses: "off", "allowed", "required"
	Redirect string `json:"redirect,omitempty"` // of its 3xx: "follow", "pass", "refuse"
	SRTP     string `json:"srtp,omitempty"`     // "required", "preferred", "off"
	Media    string `json:"media,omitempty"`    // "webrtc"
	Ping     int    `json:"ping,omitempty"`     // seconds between two OPTIONS

	Register *DialplanRegister `json:"register,omitempty"` // at the registrar of a trunk
}

// DialplanRegister is a registration of the switch at a trunk.
type DialplanRegister struct {
	AOR     string `json:"aor"`
	URI     string `json:"uri,omitempty"`
	Expires int    `json:"expires,omitempty"`
	Number  string `json:"number,omitempty"`
}

// Carrier is one of the switch's own registrations.
type Carrier struct {
	Peer    string    `json:"peer"`
	State   string    `json:"state"` // "bound", "asking", "waiting", "leaving", "none"
	Until   time.Time `json:"until"`
	Reason  string    `json:"reason"`
	Owner   string    `json:"owner"`
	Epoch   uint64    `json:"epoch"`
	Release string    `json:"release"`
	CSeq    uint32    `json:"cseq"`
}

// DialplanRoute sends a prefix to a peer.
type DialplanRoute struct {
	Prefix string `json:"prefix"`
	To     string `json:"to"`
	From   string `json:"from,omitempty"`

	Targets []DialplanTarget `json:"targets,omitempty"` // instead of To
	Fork    string           `json:"fork,omitempty"`    // "parallel"; "" = one after the other
}

// DialplanTarget is one of several targets of a route.
type DialplanTarget struct {
	To      string `json:"to"`
	Seconds int    `json:"seconds,omitempty"` // it may ring; 0 = as the switch likes
}
