package edge

import (
	"strings"
	"time"

	"callswitch/codecore"
)

// A call is what the edge holds of one call: events to deliver, the number of
// the last action taken, and ACKs to repeat. It is forgotten when it has been
// idle for Limits.Forget and no transaction is open, however long people talk:
// a call that comes back takes the owner's First action (or refuses a gap, and
// the owner then sends all with First), and its event numbers begin at the
// microseconds since the edge started, which is above all it has used before
// (a call would need a million events a second to catch up).
type call struct {
	deadline
	id      codecore.CallID
	token   string
	tag     string // of the worker's answers to the caller; "" before the first
	open    int    // transactions
	queue   []*item
	busy    bool // a goroutine delivers
	num     uint64
	last    uint64 // last action taken
	told    uint64 // and confirmed
	invites []*serverTx
	acks    []sentAck
	idleAt  time.Time // forget then
	confirm time.Time // send Accepted then; zero = nothing to confirm
	later   time.Time // deliver the idle event then; zero = none waits
}

// sentAck is an ACK to a 2xx, repeated for each repetition of the 2xx.
type sentAck struct {
	callID, toTag, cseq string
	bytes               []byte
	flow                flow
	until               time.Time
}

// maxAcks bounds the ACKs kept of a call (forks and re-INVITEs within 32 s).
const maxAcks = 8

// call returns the call, made if need be; nil when there are too many. e.mu is
// held.
func (e *Edge) call(id codecore.CallID, token string) *call {
	if c := e.calls[id]; c != nil {
		return c
	}
	if len(e.calls) >= e.lim.MaxCalls {
		return nil
	}
	c := &call{id: codecore.CallID(strings.Clone(string(id))), token: strings.Clone(token), num: uint64(time.Since(e.born).Microseconds())}
	e.calls[c.id] = c
	e.stats.Calls.Add(1)
	c.touch(e, time.Now())
	return c
}

// touch puts off forgetting.
func (c *call) touch(e *Edge, now time.Time) {
	c.idleAt = now.Add(e.lim.Forget)
	c.rearm(e)
}

func (c *call) rearm(e *Edge) {
	at := c.idleAt
	if !c.confirm.IsZero() {
		at = earlier(c.confirm, at)
	}
	if !c.later.IsZero() {
		at = earlier(c.later, at)
	}
	e.arm(c, at)
}

func (c *call) fire(e *Edge, now time.Time) {
	if !c.later.IsZero() && !c.later.After(now) {
		e.dispatch(c)
	}
	if !c.confirm.IsZero() && !c.confirm.After(now) {
		c.confirm = time.Time{}
		if c.told < c.last && !c.busy && len(c.queue) == 0 { // what waits tells it too
			e.enqueue(c, &item{kind: kindAccepted, expires: now.Add(e.lim.AnswerWait)})
		}
	}
	for len(c.acks) > 0 && !c.acks[0].until.After(now) {
		c.acks = c.acks[1:]
	}
	if c.open == 0 && !c.busy && len(c.queue) == 0 && !c.idleAt.After(now) {
		delete(e.calls, c.id)
		e.stats.Calls.Add(-1)
		return
	}
	if !c.idleAt.After(now) {
		c.idleAt = now.Add(e.lim.Forget)
	}
	c.rearm(e)
}

// closed takes note of the end of a transaction. When none is left the call keeps
// only what a later request or action is judged by: a 2xx that is still repeated
// then is acknowledged by the worker.
func (c *call) closed(e *Edge, now time.Time) {
	e.stats.Open.Add(-1)
	if c.open--; c.open == 0 {
		c.acks, c.invites = nil, nil
	}
	c.touch(e, now)
}

// full tells that a call has more transactions than a phone makes, those included
// that are over and remembered (INFO ten times a second: 320): what comes then is
// answered without one. What ends a call has room of its own.
func (c *call) full(method string) bool {
	switch method {
	case "ACK": // makes none
		return false
	case "BYE", "CANCEL":
		return c.open >= 2*maxOpen
	}
	return c.open >= maxOpen
}

// maxOpen bounds the transactions of a call that its parties begin.
const maxOpen = 1024

// keepAck remembers an ACK that was sent.
func (c *call) keepAck(a sentAck) {
	if len(c.acks) >= maxAcks {
		c.acks = c.acks[1:]
	}
	c.acks = append(c.acks, a)
}

// repeatAck sends the ACK of a repeated 2xx again, if it is still known.
func (c *call) repeatAck(e *Edge, p *packet) bool {
	for i := range c.acks {
		if a := &c.acks[i]; a.callID == p.callID && a.toTag == p.toTag && a.cseq == p.cseq && a.flow.link.alive() {
			e.stats.Repeated.Add(1)
			e.write(a.flow, a.bytes)
			return true
		}
	}
	return false
}
