package sessions

import (
	"slices"
	"strings"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
)

// CallInfo is one call as operators see it in a list.
type CallInfo struct {
	ID      codecore.CallID `json:"id"`
	Owner   string          `json:"owner"`
	Release string          `json:"release"` // of the owner
	Epoch   uint64          `json:"epoch"`
	N       uint64          `json:"n"`
	Schema  int             `json:"schema"` // of the record as stored
	Aside   bool            `json:"aside,omitempty"`
	Since   time.Time       `json:"since"` // owned by Owner since
	codecore.Info
}

// Calls lists the calls owned here by id, from the first after the given one on,
// at most so many (0: all): the bus bounds what one answer can say.
func (r *Runner) Calls(after codecore.CallID, most int) []CallInfo {
	held := slices.DeleteFunc(r.snapshotCalls(), func(c *call) bool { return c.id <= after })
	slices.SortFunc(held, func(x, y *call) int { return strings.Compare(string(x.id), string(y.id)) })
	var out []CallInfo
	for _, c := range held {
		if most > 0 && len(out) == most {
			break
		}
		if info, live := c.info(); live {
			out = append(out, info)
		}
	}
	return out
}

// Call tells of one call, if it is owned here.
func (r *Runner) Call(id codecore.CallID) (CallInfo, bool) {
	if c := r.lookup(id); c != nil {
		return c.info()
	}
	return CallInfo{}, false
}

func (c *call) info() (info CallInfo, live bool) {
	c.mu.Lock()
	info = CallInfo{
		ID: c.id, Owner: c.r.cfg.ID, Release: c.r.cfg.Release,
		Epoch: c.rec.Epoch, N: c.rec.N, Schema: c.rec.Schema, Aside: c.rec.Aside, Since: c.since,
	}
	live, state := c.life == lifeLive, c.state
	c.mu.Unlock()
	if live {
		info.Info = codecore.Summary(state)
	}
	return info, live
}

// Phases counts the calls owned here by phase.
func (r *Runner) Phases() map[string]int {
	out := map[string]int{}
	for _, c := range r.snapshotCalls() {
		c.mu.Lock()
		if c.life == lifeLive {
			out[string(c.state.Phase)]++
		}
		c.mu.Unlock()
	}
	return out
}

// Len counts the calls owned here.
func (r *Runner) Len() int {
	n := 0
	for _, c := range r.snapshotCalls() {
		c.mu.Lock()
		if c.life == lifeLive {
			n++
		}
		c.mu.Unlock()
	}
	return n
}

// HangUp ends a call for a reason code; ErrNotFound if it is not held here. The
// wish is a message like any other: it follows a call that is being moved.
func (r *Runner) HangUp(id codecore.CallID, cause string) error {
	return r.wish(id, codecore.HangUp{Cause: cause})
}

// Transfer sends the party across from a leg to a number or SIP URI, as if the
// leg's party had asked for it; the leg's party leaves. ErrNotFound as in HangUp.
// Whether it could be done shows in the call.
func (r *Runner) Transfer(id codecore.CallID, leg codecore.LegID, target string) error {
	return r.wish(id, codecore.TransferTo{Leg: leg, Target: target})
}

// wish puts an operator's wish into a call's mailbox.
func (r *Runner) wish(id codecore.CallID, ev codecore.Event) error {
	c := r.lookup(id)
	if c == nil {
		return ErrNotFound
	}
	data, err := wire.Seal(Delivery{Call: id, From: r.cfg.ID, Event: codecore.Box(ev)})
	if err != nil {
		return err
	}
	c.mu.Lock()
	reserved := c.life == lifeReserved
	c.mu.Unlock()
	if reserved {
		return ErrNotFound
	}
	c.put(item{msg: Msg{Subject: SubjectCall(id), Data: data}})
	return nil
}

// HangUpAll ends every call held here, and returns how many it told.
func (r *Runner) HangUpAll(cause string) int {
	told := 0
	for _, c := range r.snapshotCalls() {
		if r.HangUp(c.id, cause) == nil {
			told++
		}
	}
	return told
}
