package codecore

import "time"

// CallID is a keyed hash of the INVITE that began the call:
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
// is false) and only then performs the actions (R1).
type Result struct {
	// Actions minted by this Step, also in State.Pending but for lossy ones.
	Actions []Action
	// Save tells that a successor could miss what this Step changed. When it is
	// false the new state is kept in memory and rides in the next save.
	Save bool
	// Reasons are the codes of what this Step refused or hung up (reasons.md), for
	// logs and metrics. They stand in its answers and BYEs.
	Reasons []string
	// Allocate asks for media endpoints before this Step's state may be saved:
	// the one effect that precedes the save. The caller allocates (idempotent by
	// call id), feeds Allocated into the new state, and saves only the outcome.
	Allocate []LegID
	// Locate asks where this account is, likewise: the caller feeds Located into
	// the new state at once. Nothing is saved in between.
	Locate string
}

// Phase is where a call stands. Stored: never rename one.
type Phase string

const (
	// PhaseRouting: the INVITE is routed and media is being allocated. Never saved:
	// the Step after it decides. Next: inviting, ended, answered (by a service).
	PhaseRouting Phase = "routing"
	// PhaseInviting: the INVITE to the callee is out; the caller hears ringing at
	// most. Timer no-answer runs. Next: answered, ended.
	PhaseInviting Phase = "inviting"
	// PhaseAnswered: the callee's 2xx is acknowledged, ours to the caller awaits its
	// ACK. Timer max-call runs from here on. Next: talking, ended.
	PhaseAnswered Phase = "answered"
	// PhaseTalking: both dialogs are confirmed. Next: ended.
	PhaseTalking Phase = "talking"
	// PhaseEnded: everything is decided, the CDR minted; what is pending is carried
	// out, late messages get their answers. Terminal.
	PhaseEnded Phase = "ended"
)

// Timers of a call. Stored: never rename.
const (
	TimerNoAnswer Timer = "no-answer"
	TimerMaxCall  Timer = "max-call"
	// TimerExpires ends the ringing when the caller has said so (Expires of its
	// INVITE). A release that does not know it lets it ring until TimerNoAnswer.
	TimerExpires Timer = "expires"
	// TimerAck is for ACKs, which are not saved at once. By then the record says
	// that one has come, so that a crash swallows none but a young one, which its
	// sender repeats for each 2xx. While the call is answered and neither the ACK
	// nor NoAck has come, the edge that was to say so may have gone: the 2xx is
	// told anew, and again, until one does.
	TimerAck Timer = "ack"
	// TimerGiveUp drops what an ended call still has pending for an edge or a
	// media node that never came back, so that its tombstone can be written.
	TimerGiveUp Timer = "give-up"
)

const (
	ackWait = 40 * time.Second // > 64*T1, when the edge says NoAck
	ackSave = 8 * time.Second  // with as much again for a restart, well under 64*T1
	giveUp  = 2 * ackWait      // the longest wait for an ACK, then the longest for the answer to a BYE
)

// State is everything a worker must know to carry on a call. It holds values
// only, so that it can be stored, sent to another worker, and rewritten by a
// migration.
type State struct {
	Phase Phase       `json:"phase"`
	Token string      `json:"token,omitempty"` // prefix of every id of ours on the wire
	Seed  uint64      `json:"seed,omitempty"`  // ids are hashes of it
	Route RouteResult `json:"route,omitzero"`
	A     Leg         `json:"a"`
	B     Leg         `json:"b"`
	More  []Leg       `json:"more,omitempty"` // legs beside the two in conversation (more.go)
	CDR   CDR         `json:"cdr,omitzero"`
	versioned

	Peers    map[string]Peer `json:"peers,omitempty"`
	Pending  []Action        `json:"pending,omitempty"`
	Timers   []Deadline      `json:"timers,omitempty"`
	Media    Media           `json:"media,omitzero"`
	MediaDue bool            `json:"media_due,omitempty"`
	// Labels is how many labels of secrets the call has used, on all legs: none is
	// used twice, or two packets might be encrypted alike.
	Labels uint32 `json:"labels,omitempty"`

	Early    *Early    `json:"early,omitempty"` // while inviting
	Transfer *Transfer `json:"transfer,omitempty"`
	Fork     *Fork     `json:"fork,omitempty"`  // likewise
	Avoid    []string  `json:"avoid,omitempty"` // addresses that failed, for what goes by name in a dialog (failover.go)

	// AnswerAt is when the callee answered, while the 200 to the caller waits for a
	// PRACK (reliable.go); the answer is in Early.
	AnswerAt time.Time `json:"answer_at,omitzero"`

	offers []Header      // extensions offered to the callee, while routing
	invite *Message      // the INVITE while routing, a phase that is never stored
	places []Destination // where to call, until all are located: likewise
	sent   *SendRequest  // the INVITE whose end led to them
	carry  []Header      // of the caller's INVITE, for the callees (identity.go): while it is being composed

	referred *referral // while its target is being located, likewise
}

// Early is an answer that the callee gave while ringing: its 2xx need not repeat
// it.
type Early struct {
	Tag string `json:"tag"`
	SDP []byte `json:"sdp"`
}
