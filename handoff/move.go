package handoff

import (
	"errors"
	"hash/fnv"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// BatchSize is how many calls travel in one message, and Lanes how many batches
// of a worker are frozen at once, whatever the number of its orders. The freeze
// of a call is the calls frozen at once divided by the calls moved a second:
// 16 of them move as fast as 48 and wait a third as long (design.md has the figures).
// One batch of an order is being prepared meanwhile: what is prepared further
// ahead takes the target's CPU from what is frozen.
const (
	BatchSize = 8
	Lanes     = 2

	prepareLanes = 1
	maxSilent    = 4 // batches in a row without a word, before an order is given up
)

// An Item is one call in a Prepare or an Offer.
type Item struct {
	Call     codecore.CallID `json:"call"`
	Owner    string          `json:"owner"` // who offers it
	Epoch    uint64          `json:"epoch"`
	N        uint64          `json:"n"`
	Rev      uint64          `json:"rev"` // of the stored record that the commit will replace
	Sum      uint64          `json:"sum"` // of the body, see Sum
	Schema   int             `json:"schema"`
	Release  string          `json:"release"`
	Attempts int             `json:"attempts,omitempty"`
	Claimed  time.Time       `json:"claimed,omitzero"`
	Aside    bool            `json:"aside,omitempty"`
	Frozen   int64           `json:"frozen,omitempty"` // Unix ns at the source; only in an Offer
	Body     []byte          `json:"body,omitempty"`   // in an Offer only if Rev or Sum changed since the Prepare
}

// Prepare asks a target, while the source still works, whether it could carry
// on these calls. The target decodes, migrates, checks and encodes; it commits
// nothing. Dry: it also keeps nothing.
type Prepare struct {
	From  string `json:"from"` // worker
	Dry   bool   `json:"dry,omitempty"`
	Items []Item `json:"items"`
}

// Offer offers frozen calls: the target may commit.
type Offer struct {
	From  string `json:"from"`
	Items []Item `json:"items"`
}

// A Verdict is the target's word on one Item. Code OK: could be carried on
// (Prepare), or is adopted (Offer).
type Verdict struct {
	Call   codecore.CallID `json:"call"`
	Code   Code            `json:"code,omitempty"`
	Detail string          `json:"detail,omitempty"`
	Freeze float64         `json:"freeze_ms,omitempty"` // freeze to ready, by the host's clock
}

// Verdicts answers a Prepare or an Offer.
type Verdicts struct {
	Worker   string    `json:"worker"`
	Release  string    `json:"release"`
	Code     Code      `json:"code,omitempty"` // set: the whole message was refused
	Verdicts []Verdict `json:"verdicts,omitempty"`
}

// Sum fingerprints a body: two Items with equal Rev and Sum carry one state.
// (Rev alone does not say it: a Step may change memory without a save.)
func Sum(body []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(body)
	return h.Sum64()
}

// item makes the Item that offers a record.
func item(rec sessions.Record) Item {
	return Item{
		Call: rec.ID, Owner: rec.Owner, Epoch: rec.Epoch, N: rec.N, Rev: rec.Rev,
		Sum: Sum(rec.Body), Schema: rec.Schema, Release: rec.Release,
		Attempts: rec.Attempts, Claimed: rec.Claimed, Aside: rec.Aside, Body: rec.Body,
	}
}

// record is the Item as the record it speaks of.
func (i Item) record() sessions.Record {
	return sessions.Record{
		ID: i.Call, Owner: i.Owner, Epoch: i.Epoch, N: i.N, Rev: i.Rev,
		Schema: i.Schema, Release: i.Release, Attempts: i.Attempts,
		Claimed: i.Claimed, Aside: i.Aside, Body: i.Body,
	}
}

// Stamp names one state of a call: where it stands in the store, and its bytes.
type Stamp struct{ Rev, Sum uint64 }

// Here is what a target knows of a call when an offer for it comes.
type Here struct {
	Held     bool  // it owns the call, or is adopting it
	Prepared Stamp // of the newest state it has prepared; zero: none
	Min, Max int   // schemas it reads
	Draining bool
}

// Guard is step 3 of a move: what a target does with an offer before it touches
// anything. A woken owner makes late offers, so a call that is held here is
// refused whatever the offer says: adopting over it would lose the live state.
// again tells that what is prepared is not what is offered.
func Guard(i Item, h Here) (code Code, again bool) {
	switch {
	case h.Held:
		return CodeOwned, false
	case h.Draining:
		return CodeDraining, false
	case i.Aside:
		return CodeAside, false
	case i.Schema > h.Max:
		return CodePinned, false
	case i.Schema < h.Min:
		return CodeDecode, false
	case h.Prepared == Stamp{i.Rev, i.Sum} && i.Rev != 0:
		return OK, false
	case len(i.Body) == 0:
		return CodeUnknown, false
	}
	return OK, true
}

// Commit is the record whose CAS makes worker the owner (R2): the one commit
// point of a move. schema and body are what Prepare encoded by R6.
func Commit(rec sessions.Record, worker, release string, schema int, body []byte) sessions.Record {
	rec.Owner = worker
	rec.Epoch++
	rec.N++
	rec.Release, rec.Schema, rec.Body = release, schema, body
	return rec
}

// Truth is what the store says about an ownership.
type Truth int

// What a reading of the record can say.
const (
	Unknown Truth = iota // the store is away: ask again
	Mine                 // owner and epoch are mine
	Before               // the record is still what the commit would have replaced
	Theirs               // another owns it, or it is gone
)

// ReadOwn judges a reading of the record by a worker that owned it at epoch.
func ReadOwn(rec sessions.Record, err error, worker string, epoch uint64) Truth {
	switch {
	case errors.Is(err, sessions.ErrNotFound):
		return Theirs
	case err != nil:
		return Unknown
	case rec.Owner == worker && rec.Epoch == epoch && !rec.Tomb:
		return Mine
	}
	return Theirs
}

// ReadCommit judges a reading of the record after the CAS of commit, which was
// to replace the revision commit.Rev. Owner and epoch alone would not do: the
// worker may have adopted the call from an earlier copy of the same offer,
// carried it to its end and forgotten it. Its mutation number tells.
func ReadCommit(rec sessions.Record, err error, commit sessions.Record) Truth {
	switch {
	case errors.Is(err, sessions.ErrNotFound):
		return Theirs
	case err != nil:
		return Unknown
	case rec.Owner == commit.Owner && rec.Epoch == commit.Epoch && rec.N == commit.N:
		return Mine
	case rec.Rev == commit.Rev:
		return Before
	}
	return Theirs
}

// Decision is what the source or the target of a move does next with its call.
type Decision int

// Decisions.
const (
	ReadRecord Decision = iota // nothing is known: the record says it
	PutAgain                   // the commit was not made: try it once more
	DropCall                   // another owns it: forget it silently (R4)
	ThawCall                   // still ours: go on
	AdoptCall                  // ours now
	GiveUp                     // not ours: end the reservation
)

// AfterVerdict is step 6 at the source: only "adopted" is believed. A refusal
// may come from a target whose commit was in doubt, and silence says nothing.
func AfterVerdict(code Code) Decision {
	if code == OK {
		return DropCall
	}
	return ReadRecord
}

// SourceRead is what the source does once it has read the record.
func SourceRead(t Truth) Decision {
	switch t {
	case Mine:
		return ThawCall
	case Unknown:
		return ReadRecord
	}
	return DropCall
}

// AfterCAS is step 4 at the target. No error code is trusted: a refused write
// may be our own that was made already (see ReadCommit).
func AfterCAS(err error) Decision {
	if err == nil {
		return AdoptCall
	}
	return ReadRecord
}

// TargetRead is what the target does once it has read the record after a CAS
// that did not say yes.
func TargetRead(t Truth) Decision {
	switch t {
	case Mine:
		return AdoptCall
	case Before:
		return PutAgain
	case Unknown:
		return ReadRecord
	}
	return GiveUp
}
