package sessions

import (
	"time"

	"callswitch/codecore"
)

// Subjects. Nothing but the records' stream lives under rec.
const (
	SubjectOrphan = "orphan" // queue group of all workers: "who has this call?"
	QueueWorkers  = "workers"
)

// SubjectCall is the address of a call: whoever owns it subscribes.
func SubjectCall(id codecore.CallID) string { return "call." + string(id) + ".in" }

// SubjectNew takes new calls of one release (queue group QueueWorkers).
func SubjectNew(digest string) string { return "new." + digest }

// SubjectDo takes actions for "edge.<node>" and desired states for "media.<node>".
func SubjectDo(receiver string) string { return receiver + ".do" }

// SubjectAlloc takes allocations for "media.<node>".
func SubjectAlloc(receiver string) string { return receiver + ".alloc" }

// SubjectAnnounce is where a receiver tells each new incarnation of itself.
func SubjectAnnounce(receiver string) string { return "announce." + receiver }

// SubjectControl takes orders for one worker: list, prepare, offer, move, drain (handoff).
func SubjectControl(worker, verb string) string { return "worker." + worker + "." + verb }

// SubjectBeat carries heartbeats: beat.<role>.<id>, a Process.
func SubjectBeat(role, id string) string { return "beat." + role + "." + id }

// Delivery is one event on its way to a call. A sender has one unacknowledged
// Delivery per call, numbers them from 1 and sends it again (10 ms, doubling to
// 1 s) until an Answer comes: what is not acknowledged has not happened.
type Delivery struct {
	Call     codecore.CallID   `json:"call"`
	From     string            `json:"from"`               // "edge.n1", "media.n1"
	Boot     string            `json:"boot"`               // incarnation of the sender, sortable by age
	Num      uint64            `json:"num"`                // 0: not numbered, may be stepped twice (Accepted)
	Accepted uint64            `json:"accepted,omitempty"` // last action number of this call that From has taken
	Event    codecore.AnyEvent `json:"event"`
}

// Answer statuses.
const (
	StatusOK      = "ok"      // saved, or nothing to save: the sender may forget the event
	StatusUnknown = "unknown" // no such call and no tombstone: 481
	StatusFailed  = "failed"  // Step panicked; the call lives on with its old state: 500
	StatusRefused = "refused" // not admitted (new calls): Code and Reason say it
	StatusLater   = "later"   // nobody can say yet (store away, owner alive elsewhere): send again
)

// Answer acknowledges a Delivery after its save and carries the actions for its
// sender: all pending ones for it that this incarnation has not accepted.
type Answer struct {
	Call    codecore.CallID   `json:"call"`
	Num     uint64            `json:"num"`
	Status  string            `json:"status"`
	Code    int               `json:"code,omitempty"`   // SIP status for StatusRefused
	Reason  string            `json:"reason,omitempty"` // stable reason code
	After   int               `json:"after,omitempty"`  // Retry-After in seconds
	Actions []codecore.Action `json:"actions,omitempty"`
}

// Do carries actions to a receiver that did not ask (request; answered by Done).
// The owner sends it again until accepted.
type Do struct {
	Call    codecore.CallID   `json:"call"`
	Epoch   uint64            `json:"epoch"`
	Actions []codecore.Action `json:"actions"`
}

// Done answers Do: what the receiver now holds.
type Done struct {
	Boot     string `json:"boot"`
	Accepted uint64 `json:"accepted"`
	Gap      bool   `json:"gap,omitempty"` // refused: the first action was not last+1 and not First
}

// DoMedia brings the media plane to a desired state (request; answered by MediaDone).
// More are orders of other calls: a node that has restarted is told of many at once.
type DoMedia struct {
	Call  codecore.CallID     `json:"call"`
	Gen   codecore.Generation `json:"gen"`
	Media codecore.Media      `json:"media"`
	More  []DoMedia           `json:"more,omitempty"` // they have no More of their own
}

// MediaDone answers DoMedia with the generation now in force.
type MediaDone struct {
	Boot   string              `json:"boot"`
	Gen    codecore.Generation `json:"gen"`
	Reason string              `json:"reason,omitempty"` // why it could not: "ports-out", "no-leg"
	More   []MediaDone         `json:"more,omitempty"`   // of DoMedia.More, in its order
}

// Alloc asks for media endpoints before the first save; idempotent by call and
// leg. A leg that no DoMedia confirms within 60 s is freed if the call has no record. Answer: codecore.Allocated.
type Alloc struct {
	Call codecore.CallID  `json:"call"`
	Legs []codecore.LegID `json:"legs"`
}

// Announce is published by a receiver when it starts, and again every 5 s.
type Announce struct {
	Name  string    `json:"name"` // "edge.n1", "media.n1"
	Boot  string    `json:"boot"`
	Began time.Time `json:"began,omitzero"` // of this incarnation; zero: not told
}

// Orphan asks all workers (one answers) about a call nobody listened for.
// Answer: an Answer to Delivery, with StatusUnknown, the tombstone's actions,
// or StatusLater while the call is being claimed.
type Orphan struct {
	Delivery Delivery  `json:"delivery"`
	Since    time.Time `json:"since"`
}
