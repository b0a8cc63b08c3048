package console

import (
	"encoding/json"
	"time"

	"callswitch/sessions"
)

// The JSON of the API. Fields may be added, never renamed. Durations in requests
// are Go strings ("30s"); in answers they are numbers with their unit in the name.

// Status is what the switch is and does.
type Status struct {
	Node           string         `json:"node"`
	Release        string         `json:"release"` // that new calls go to
	Ready          bool           `json:"ready"`   // nats, edge, media and one worker answer
	Reason         string         `json:"reason,omitempty"`
	Accepting      bool           `json:"accepting"` // new calls are admitted
	Listen         []string       `json:"listen"`    // "udp:127.0.0.1:5060"
	Calls          int            `json:"calls"`
	CallsByRelease map[string]int `json:"calls_by_release"`
	CallsByPhase   map[string]int `json:"calls_by_phase"`
	Floor          int            `json:"floor"` // lowest schema that may be written
}

// CallInfo is one living call.
type CallInfo struct {
	ID       string    `json:"id"`
	From     string    `json:"from"`
	To       string    `json:"to"`
	FromPeer string    `json:"from_peer"`
	ToPeer   string    `json:"to_peer,omitempty"`
	Phase    string    `json:"phase"`
	Start    time.Time `json:"start"`
	Answer   time.Time `json:"answer,omitzero"`
	Owner    string    `json:"owner"` // incarnation of the worker
	Epoch    uint64    `json:"epoch"`
	N        uint64    `json:"n"`
	Release  string    `json:"release"` // of the owner
	Schema   int       `json:"schema"`  // of the record as stored
	Pinned   string    `json:"pinned,omitempty"`
	Aside    bool      `json:"aside,omitempty"`
	Since    time.Time `json:"since,omitzero"`     // owned by Owner since; of living calls
	Transfer bool      `json:"transfer,omitempty"` // one is under way
}

// Calls is the page of all living calls.
type Calls struct {
	Calls  []CallInfo `json:"calls"`
	Silent []string   `json:"silent,omitempty"` // workers that did not answer: their calls are missing here
}

// Call is one call with its whole story.
type Call struct {
	CallInfo
	Ended bool            `json:"ended,omitempty"`
	Story []StoryLine     `json:"story"`
	Media json.RawMessage `json:"media,omitempty"` // quality per leg, as the media plane counts
}

// StoryLine is one entry of a call's history.
type StoryLine struct {
	At       time.Time `json:"at"`
	Kind     string    `json:"kind"` // "owner" for moves and takeovers, else "event"
	Text     string    `json:"text"`
	Phase    string    `json:"phase,omitempty"`
	Owner    string    `json:"owner,omitempty"`
	Epoch    uint64    `json:"epoch,omitempty"`
	N        uint64    `json:"n,omitempty"`
	Release  string    `json:"release,omitempty"`
	FreezeMS float64   `json:"freeze_ms,omitempty"`
	Actions  []string  `json:"actions,omitempty"`
	Reason   string    `json:"reason,omitempty"`
}

// RolloutStart asks for a rollout. Zero values mean the defaults.
type RolloutStart struct {
	Binary        string `json:"binary"`                   // absolute path of the release's executable
	Steps         []int  `json:"steps,omitempty"`          // per cent of the calls after each wave; default 1,10,50,100
	Pause         string `json:"pause,omitempty"`          // between waves; default 30s
	ConfirmWithin string `json:"confirm_within,omitempty"` // else back by itself; default 10m
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
	RolloutRaising    = "raising"     // no record is older: the floor rises now
	RolloutFinalized  = "finalized"   // the floor has risen
	RolloutUndoing    = "undoing"     // calls go back
	RolloutRolledBack = "rolled-back" // all that could is back
	RolloutFailed     = "failed"      // nothing was moved: Error
)

// Over reports whether a rollout in this state is finished for good.
func Over(state string) bool {
	switch state {
	case RolloutConfirmed, RolloutFinalized, RolloutRolledBack, RolloutFailed:
		return true
	}
	return false
}

// Rollout is the document of the running or last rollout.
type Rollout struct {
	ID       string     `json:"id"`
	State    string     `json:"state"`
	From     Release    `json:"from"`
	To       Release    `json:"to"`
	Steps    []int      `json:"steps"`
	Waves    []Wave     `json:"waves"` // begun so far, those of the way back too
	Refusals []Refusal  `json:"refusals,omitempty"`
	DryRun   *DryRun    `json:"dry_run,omitempty"`
	Confirm  *time.Time `json:"confirm_by,omitempty"`
	Left     int        `json:"left,omitempty"`  // records still in an older schema, while finalizing
	Error    string     `json:"error,omitempty"` // why it failed or went back
}

// Release names a release.
type Release struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Schema int    `json:"schema"`
}

// Wave is one step of a rollout or of its way back.
type Wave struct {
	Back     bool      `json:"back,omitempty"`
	Percent  int       `json:"percent"`
	Calls    int       `json:"calls"`
	Moved    int       `json:"moved"`
	Refused  int       `json:"refused"`
	Listed   int       `json:"listed"`         // that it had to move: moved, refused, gone and left, if none began and no worker died meanwhile
	Gone     int       `json:"gone"`           // ended before their turn
	Left     int       `json:"left,omitempty"` // should have moved, were not refused, and are where they were
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended,omitzero"`
	FreezeMS Quantiles `json:"freeze_ms"`
}

// Refusal says why a call stayed where it was.
type Refusal struct {
	Call   string `json:"call"`
	To     string `json:"to,omitempty"`
	Reason string `json:"reason"`
	Detail string `json:"detail,omitempty"`
}

// DryRun is what preparing every call without committing found.
type DryRun struct {
	Would  int            `json:"would"`
	Cannot int            `json:"cannot"`
	Why    map[string]int `json:"why,omitempty"` // those that cannot, by reason code
}

// Moves sums up what the living workers know of moves.
type Moves struct {
	Moved    int            `json:"moved"`
	Refused  int            `json:"refused"`
	Reasons  map[string]int `json:"reasons,omitempty"`
	FreezeMS Quantiles      `json:"freeze_ms"`
}

// Quantiles are milliseconds.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Process is the host or one of its children.
type Process = sessions.Process

// Accounts are those who may register and call with a password.
type Accounts struct {
	Realm    string    `json:"realm"` // the hashes are made with it
	Accounts []Account `json:"accounts"`
}

// Account is one of them. Its hashes are never told.
type Account struct {
	Name       string   `json:"name"`
	Algorithms []string `json:"algorithms"` // "SHA-256", "MD5"
	Configured bool     `json:"configured,omitempty"`
	SRTP       string   `json:"srtp,omitempty"` // "required", "preferred", "off"
}

// AccountHashes are HA1 = H(name:realm:password) in lower-case hex; one may be missing.
type AccountHashes struct {
	SHA256 string `json:"ha1_sha256,omitempty"`
	MD5    string `json:"ha1_md5,omitempty"`
	SRTP   string `json:"srtp,omitempty"` // as Account.SRTP
}

// Registration is one address at which an account can be reached.
type Registration struct {
	Account string    `json:"account"`
	Contact string    `json:"contact"`
	Source  string    `json:"source"` // "ip:port" it came from
	Edge    string    `json:"edge"`   // node
	Flow    string    `json:"flow"`
	Path    []string  `json:"path,omitempty"`
	Agent   string    `json:"agent,omitempty"`
	NAT     bool      `json:"nat,omitempty"` // it came from elsewhere than its contact says
	Since   time.Time `json:"since"`         // as last stored
	Until   time.Time `json:"until"`
}

// Carriers are our registrations at carriers.
type Carriers struct {
	Carriers []Carrier `json:"carriers"`
}

// Carrier is one of them.
type Carrier struct {
	Peer    string    `json:"peer"` // trunk of the dialplan
	AOR     string    `json:"aor"`
	State   string    `json:"state"`             // "bound", "asking", "waiting", "leaving"; "none": nobody has begun
	Until   time.Time `json:"until,omitzero"`    // the binding lasts
	Since   time.Time `json:"since,omitzero"`    // without a gap
	Next    time.Time `json:"next,omitzero"`     // the next REGISTER
	Reason  string    `json:"reason,omitempty"`  // of the last failure, while it lasts
	Status  int       `json:"status,omitempty"`  // SIP status of it
	Fails   int       `json:"fails,omitempty"`   // in a row
	Owner   string    `json:"owner,omitempty"`   // incarnation of a worker
	Epoch   uint64    `json:"epoch,omitempty"`   // of ownership
	Release string    `json:"release,omitempty"` // that wrote the record last
	Edge    string    `json:"edge,omitempty"`    // node whose address is bound
	CSeq    uint32    `json:"cseq,omitempty"`    // of the last REGISTER
}

// Trunks are the peers of kind trunk, as each node's edge sees them. Silent are
// the edges that did not answer.
type Trunks struct {
	Trunks []Trunk  `json:"trunks"`
	Silent []string `json:"silent,omitempty"`
}

// Trunk is one of them.
type Trunk struct {
	Name   string `json:"name"`
	Target string `json:"target,omitempty"` // where calls are sent; "" = it only calls us
	Ping   int    `json:"ping,omitempty"`   // seconds between two OPTIONS

	CallsIn  int     `json:"calls_in"` // now
	CallsOut int     `json:"calls_out"`
	MaxCalls int     `json:"max_calls,omitempty"`
	MaxRate  float64 `json:"max_rate,omitempty"`

	// Registered is the state of our registration there; "" = there is none to be.
	Registered string `json:"registered,omitempty"`

	Addresses []TrunkAddress `json:"addresses"`
}

// TrunkAddress is one address of a trunk, and what one edge knows of it.
type TrunkAddress struct {
	Node    string    `json:"node"`
	Address string    `json:"address"` // "udp/192.0.2.1:5060"
	Circuit string    `json:"circuit"` // "up", "down", "half-open"
	Since   time.Time `json:"since"`
	Pinged  time.Time `json:"pinged,omitzero"`  // last answer to a ping
	RTTMS   float64   `json:"rtt_ms,omitempty"` // its time
	Fails   int       `json:"fails,omitempty"`  // in a row
	Failed  time.Time `json:"failed,omitzero"`  // last failure
	Reason  string    `json:"reason,omitempty"` // then: a code of edge/reasons.md
}

// Inherit replaces a process by its next generation.
type Inherit struct {
	Role   string `json:"role"`             // "media", "edge" or "host"
	Binary string `json:"binary,omitempty"` // "" = the executable that runs
}

// Inherited is who went on.
type Inherited struct {
	Role    string `json:"role"`
	Before  int    `json:"before"` // pid
	PID     int    `json:"pid"`
	Release string `json:"release"`
	MS      int64  `json:"ms"`             // from the request to the end
	Stay    int    `json:"stay,omitempty"` // connections in TLS that Before carries for PID (edge)
}

// Transfer sends one party of a call elsewhere.
type Transfer struct {
	Leg    string `json:"leg,omitempty"` // who leaves: "a", who called, or "b"; "" = b
	Target string `json:"target"`        // number or SIP URI
}
