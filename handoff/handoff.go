// Package handoff moves the ownership of calls between workers: the pure
// protocol of a move and of a takeover, the plan of a rollout, and a thin driver
// that carries them out over a Bus and a Store. design.md tells how, and has the
// rules that comments of all packages cite as R1 to R7. It does not run calls
// (sessions) and does not know what a call does (codecore).
package handoff

import (
	"context"

	"callswitch/codecore"
	"callswitch/sessions"
)

// Calls is what a move needs of a worker. sessions.Runner implements it.
type Calls interface {
	// List returns the calls owned here, by id.
	List() []codecore.CallID
	// Snapshot returns the call's record as it would be offered now, without
	// stopping it: Body holds the state in memory, encoded at the floor. mark
	// names that state, among all states that this worker has ever held.
	Snapshot(id codecore.CallID) (rec sessions.Record, mark uint64, err error)
	// Freeze finishes the Step in hand (its save too) and keeps later events and
	// timers waiting. Record as in Snapshot; same: the call is as it was when
	// Snapshot returned mark, and Body is empty: nobody needs it twice.
	Freeze(ctx context.Context, id codecore.CallID, mark uint64) (rec sessions.Record, same bool, err error)
	// Thaw goes on with a frozen call, events first that waited.
	Thaw(id codecore.CallID)
	// Drop forgets a frozen call whose owner is another now: no effect, no
	// timer. It returns the messages that waited, to be published again.
	Drop(id codecore.CallID) []sessions.Msg
	// Reserve subscribes to a call that is about to be adopted and keeps its
	// events waiting. sessions.ErrOwned: it is owned or reserved here already.
	Reserve(id codecore.CallID) error
	// Release ends a reservation that came to nothing.
	Release(id codecore.CallID)
	// Adopt makes a reserved call live after the CAS (rec.Rev is its result):
	// timers re-armed, Pending and media repeated, waiting events taken.
	Adopt(rec sessions.Record, state codecore.State)
}
