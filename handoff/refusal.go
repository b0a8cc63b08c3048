package handoff

import (
	"errors"

	"callswitch/codecore"
)

// Code says why a call was not moved. Codes are stable: they stand in logs,
// metric labels, the CLI and the SIP Reason header. Never rename one.
type Code string

// The codes. OK is no refusal.
const (
	OK Code = ""

	// About the call: asking again gives the same answer until it changes.
	CodePinned         Code = "pinned"          // the target's schema cannot say this call; it stays until it ends
	CodeDecode         Code = "decode"          // the record cannot be read
	CodeMigrate        Code = "migrate-refused" // the migration said no
	CodeMigratePanic   Code = "migrate-panic"   // decode, migration or encode panicked
	CodeMigrateTimeout Code = "migrate-timeout" // they took longer than the limit
	CodeInvariant      Code = "invariant"       // codecore.Check refused the migrated state
	CodeAside          Code = "set-aside"       // only the caretaker reads this call

	// About the moment: the call may be offered again.
	CodeOwned    Code = "already-owned"    // the target owns or is adopting it: a late offer
	CodeUnknown  Code = "unknown-sequence" // an offer without a body for which nothing is prepared
	CodeConflict Code = "conflict"         // the record changed before the commit
	CodeStore    Code = "store-away"       // nobody knows yet whether the commit was made
	CodeBus      Code = "bus-away"         // the target could not subscribe to the call
	CodeBusy     Code = "busy"             // the step in hand did not end in time
	CodeSilent   Code = "silent"           // no verdict came

	// About the target.
	CodeDraining Code = "draining" // it takes no more calls
	CodeProto    Code = "proto"    // the two do not speak one protocol
	CodeAbsent   Code = "absent"   // no such worker
)

// Passing reports whether the same offer may succeed a moment later.
func (c Code) Passing() bool {
	switch c {
	case CodeOwned, CodeUnknown, CodeConflict, CodeStore, CodeBus, CodeBusy, CodeSilent:
		return true
	}
	return false
}

// OfTarget reports whether the code is about the target, not about the call:
// offering it other calls is of no use.
func (c Code) OfTarget() bool {
	return c == CodeDraining || c == CodeProto || c == CodeAbsent
}

// A Refusal is a call that was not moved. It lost nothing by it.
type Refusal struct {
	Call   codecore.CallID `json:"call"`
	Code   Code            `json:"code"`
	Detail string          `json:"detail,omitempty"` // for people
}

// Errors of the driver.
var (
	ErrNoTarget = errors.New("handoff: no living worker to move calls to")
	ErrSelf     = errors.New("handoff: a worker cannot move calls to itself")
	ErrClosed   = errors.New("handoff: driver is not running")
)
