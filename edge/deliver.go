package edge

import (
	"context"
	"errors"
	"strconv"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// Kinds of events, by what becomes of one that is not served.
const (
	kindRequest  = iota // gets a response
	kindAck             // never does
	kindResponse        // of a client transaction
	kindNotice          // SIPTimeout, NoAck
	kindAccepted        // confirms actions; sent once, not numbered
)

const (
	firstBackOff = 10 * time.Millisecond
	lastBackOff  = time.Second
)

// An item is an event on its way to its call.
type item struct {
	kind    int
	event   codecore.Event
	num     uint64
	tx      *serverTx // of a request
	flow    flow
	method  string
	fresh   bool // the INVITE that begins a call
	idle    bool // nobody waits for what comes of it: it may wait for Limits.Gather
	orphan  bool // to whoever takes stray calls: its owner cannot step it
	expires time.Time
}

// enqueue puts an event behind the others of its call. e.mu is held.
func (e *Edge) enqueue(c *call, it *item) {
	if e.ctx.Err() != nil {
		return
	}
	if len(c.queue) >= e.lim.MaxQueue && it.method != "BYE" && it.method != "CANCEL" {
		e.stats.count(queueFull)
		if r, ok := it.event.(codecore.SIPRequest); ok {
			e.finish(it, &r.Msg, 503, time.Now(), "Retry-After", "1", "Reason", reasonHeader(503, queueFull.String()))
		}
		return
	}
	c.queue = append(c.queue, it)
	if it.idle && !c.busy && len(c.queue) == 1 {
		c.later = e.slot(time.Now())
		c.rearm(e)
		return
	}
	e.dispatch(c)
}

// slot is the end of the interval in which now lies: the same for all calls, so
// that what is delivered then costs one wake-up of each process concerned.
func (e *Edge) slot(now time.Time) time.Time {
	return now.Truncate(e.lim.Gather).Add(e.lim.Gather)
}

// dispatch has the events of a call delivered. e.mu is held.
func (e *Edge) dispatch(c *call) {
	c.later = time.Time{}
	if !c.busy {
		c.busy = true
		if last := len(e.idle) - 1; last >= 0 {
			e.idle[last] <- c
			e.idle = e.idle[:last]
			return
		}
		e.wg.Add(1)
		go e.postman(c)
	}
}

// idlePostmen is how many goroutines wait for the next call with events: one
// that has worked before has the stack that the codecs need.
const idlePostmen = 16

// postman delivers for c, then for the calls that it is given.
func (e *Edge) postman(c *call) {
	defer e.wg.Done()
	next := make(chan *call, 1)
	for {
		e.drain(c)
		e.mu.Lock()
		if len(e.idle) >= idlePostmen {
			e.mu.Unlock()
			return
		}
		e.idle = append(e.idle, next)
		e.mu.Unlock()
		select {
		case c = <-next:
		case <-e.ctx.Done():
			return
		}
	}
}

// drain delivers the events of one call, one after the other, and ends when
// there is none: a quiet call has no goroutine.
func (e *Edge) drain(c *call) {
	for {
		e.mu.Lock()
		if len(c.queue) == 0 || e.ctx.Err() != nil {
			c.busy, c.queue = false, nil
			c.touch(e, time.Now())
			e.mu.Unlock()
			return
		}
		it := c.queue[0]
		e.number(c, it)
		e.mu.Unlock()
		ans, ok := e.deliver(c, it)
		e.mu.Lock()
		c.queue[0] = nil
		c.queue = c.queue[1:]
		if e.ctx.Err() == nil {
			e.settle(c, it, ans, ok, time.Now())
		}
		e.mu.Unlock()
	}
}

// number gives an event its number once.
func (e *Edge) number(c *call, it *item) {
	switch {
	case it.kind == kindAccepted:
		it.event = codecore.Accepted{To: e.name, Boot: e.cfg.Boot, Seq: c.last}
	case it.num == 0:
		c.num++
		it.num = c.num
	}
}

// deliver sends an event until it is answered or expires.
func (e *Edge) deliver(c *call, it *item) (ans sessions.Answer, ok bool) {
	back, wait := firstBackOff, e.lim.AnswerWait
	var alone time.Time // since when nobody listens
	began := time.Now()
	for try := 0; ; try++ {
		left := time.Until(it.expires)
		if left <= 0 || e.ctx.Err() != nil {
			return ans, false
		}
		if try > 0 {
			e.stats.Resends.Add(1)
		}
		ans, err := e.ask(c, it, try, !alone.IsZero() && time.Since(alone) >= e.lim.OrphanAfter, began, min(wait, left))
		switch {
		case err == nil && ans.Status == sessions.StatusFailed && it.method == "BYE" && !it.orphan:
			// The owner cannot step it: the caretaker takes it, under a new number.
			e.stats.count(stepFailed)
			e.mu.Lock()
			it.orphan = true
			c.num++
			it.num = c.num
			e.mu.Unlock()
		case err == nil && ans.Status == sessions.StatusFailed && it.method == "BYE":
		case err == nil && ans.Status == sessions.StatusUnknown && it.fresh: // not saved yet: once more
		case err == nil && ans.Status != sessions.StatusLater:
			return ans, true
		case err == nil:
			alone = time.Time{}
		case errors.Is(err, sessions.ErrTimeout):
			wait, alone = min(2*wait, lastBackOff), time.Time{}
			continue // it has waited already
		case errors.Is(err, sessions.ErrNoResponders):
			if alone.IsZero() {
				alone = time.Now()
			}
		}
		if it.kind == kindAccepted {
			return ans, false
		}
		select {
		case <-e.ctx.Done():
		case <-time.After(back):
		}
		back = min(2*back, lastBackOff)
	}
}

// ask sends an event once. A new call goes to a release, and when that has been
// tried to whoever may own the call by now; the others to the call's owner, and
// when nobody listens for a while to the workers at large.
func (e *Edge) ask(c *call, it *item, try int, alone bool, began time.Time, wait time.Duration) (ans sessions.Answer, err error) {
	e.mu.Lock()
	d := sessions.Delivery{Call: c.id, From: e.name, Boot: e.cfg.Boot, Num: it.num, Accepted: c.last, Event: codecore.Box(it.event)}
	e.mu.Unlock()
	data, err := wire.Seal(d)
	if err != nil {
		e.log.Error("edge: event not sealed", "call", c.id, "err", err)
		return ans, err
	}
	ctx, cancel := context.WithTimeout(e.ctx, wait)
	defer cancel()
	var raw []byte
	switch {
	case it.fresh:
		err = sessions.ErrNoResponders
		if try > 0 {
			raw, err = e.cfg.Bus.Request(ctx, sessions.SubjectCall(c.id), data)
		}
		if errors.Is(err, sessions.ErrNoResponders) {
			turn := 0
			if alone {
				turn = try
			}
			if digest := e.release(c.id, turn); digest != "" {
				raw, err = e.cfg.Bus.Request(ctx, sessions.SubjectNew(digest), data)
			}
		}
	case alone || it.orphan:
		e.stats.Orphans.Add(1)
		if data, err = wire.Seal(sessions.Orphan{Delivery: d, Since: began}); err != nil {
			return ans, err
		}
		raw, err = e.cfg.Bus.Request(ctx, sessions.SubjectOrphan, data)
	default:
		raw, err = e.cfg.Bus.Request(ctx, sessions.SubjectCall(c.id), data)
	}
	if err != nil {
		return ans, err
	}
	if err = wire.Open(raw, &ans); err != nil {
		e.stats.count(badEnvelope)
		return ans, err
	}
	if ans.Status == sessions.StatusOK {
		e.mu.Lock()
		c.told = max(c.told, d.Accepted)
		e.mu.Unlock()
	}
	return ans, nil
}

// release chooses the workers of a new call by its id, so that a re-sent INVITE
// chooses the same; turn moves on to the next release when one has nobody.
func (e *Edge) release(id codecore.CallID, turn int) string {
	ws := e.cfg.Weights()
	sum := 0
	for _, w := range ws {
		sum += max(w.Percent, 0)
	}
	if sum == 0 {
		return ""
	}
	n, _ := strconv.ParseUint(string(id[:min(8, len(id))]), 16, 64)
	point := int(n % uint64(sum))
	for i, w := range ws {
		if point -= max(w.Percent, 0); point < 0 {
			return ws[(i+turn)%len(ws)].Digest
		}
	}
	return ""
}

// settle does what the Answer to an event asks for. e.mu is held.
func (e *Edge) settle(c *call, it *item, ans sessions.Answer, ok bool, now time.Time) {
	req, _ := it.event.(codecore.SIPRequest)
	if !ok {
		e.giveUp(c, it, req, now)
		return
	}
	e.stats.Deliveries.Add(1)
	switch ans.Status {
	case sessions.StatusOK:
		if it.method == "INVITE" && it.tx != nil && it.tx.last == nil && !answers(ans.Actions, it.tx.key) {
			e.finish(it, &req.Msg, 100, now)
		}
		if it.method == "CANCEL" { // saved; before the 487, as callers expect, and with its tag (RFC 3261 9.2)
			if tag := tagOfAnswer(ans.Actions, req.Tx); tag != "" {
				c.tag = tag
			}
			e.finish(it, &req.Msg, 200, now)
		}
		before := c.last
		e.perform(c, ans.Actions, now)
		if c.last > before && len(c.queue) == 0 {
			c.confirm = now.Add(e.lim.Confirm)
			c.rearm(e)
		}
	case sessions.StatusUnknown:
		e.stats.count(unknownCall)
		e.finish(it, &req.Msg, 481, now, "Reason", reasonHeader(481, unknownCall.String()))
	case sessions.StatusFailed:
		e.stats.count(stepFailed)
		e.finish(it, &req.Msg, 500, now, "Reason", reasonHeader(500, stepFailed.String()))
	default:
		e.stats.count(refused)
		code := ans.Code
		if code < 300 || code > 699 {
			code = 503
		}
		extra := []string{"Reason", reasonHeader(code, ans.Reason)}
		if ans.After > 0 {
			extra = append(extra, "Retry-After", strconv.Itoa(ans.After))
		}
		e.finish(it, &req.Msg, code, now, extra...)
	}
}

// tagOfAnswer finds our tag in the response to a transaction that is about to be sent.
func tagOfAnswer(actions []codecore.Action, tx string) string {
	for i := range actions {
		if r := actions[i].Response; r != nil && r.Tx == tx {
			return tagOf(r.Msg.Get("To"))
		}
	}
	return ""
}

// answers tells whether one of the actions is a response in the transaction.
func answers(actions []codecore.Action, tx string) bool {
	for i := range actions {
		if r := actions[i].Response; r != nil && r.Tx == tx {
			return true
		}
	}
	return false
}

// giveUp ends an event that could not be delivered in time. An INVITE gets 503;
// since a worker may have saved it all the same, with its Answer lost, a CANCEL
// follows it: a saved call ends as if the caller had hung up (its 487 finds the
// transaction answered, and is dropped), and where nothing was saved the CANCEL
// is unknown. So nothing is left behind.
func (e *Edge) giveUp(c *call, it *item, req codecore.SIPRequest, now time.Time) {
	if it.kind == kindAccepted {
		return
	}
	why := expired
	if it.kind == kindRequest {
		why = storeAway
		e.finish(it, &req.Msg, 503, now, "Retry-After", "5", "Reason", reasonHeader(503, why.String()))
	}
	e.stats.count(why)
	if it.method != "INVITE" {
		return
	}
	for _, other := range c.queue {
		if other.method == "CANCEL" {
			return
		}
	}
	req.At, req.Msg = now, cancelOf(&req.Msg)
	e.enqueue(c, &item{kind: kindRequest, method: "CANCEL", flow: it.flow, event: req, expires: now.Add(e.lim.KeepFor)})
}

// cancelOf forms the CANCEL of an INVITE (RFC 3261 9.1).
func cancelOf(inv *codecore.Message) codecore.Message {
	m := codecore.Message{Method: "CANCEL", URI: inv.URI}
	via := false
	for _, h := range inv.Headers {
		switch h.Name {
		case "Via":
			if via {
				continue
			}
			via = true
		case "CSeq":
			h.Value = h.Value[:max(0, len(h.Value)-len("INVITE"))] + "CANCEL"
		case "From", "To", "Call-ID", "Max-Forwards":
		default:
			continue
		}
		m.Headers = append(m.Headers, h)
	}
	return m
}
