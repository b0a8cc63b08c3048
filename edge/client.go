package edge

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"callswitch/codecore"
)

// States of a client transaction (RFC 3261 17.1, RFC 6026 7.2).
const (
	resolving  = iota // the target's address is being looked up
	calling           // sent, nothing heard: timers A and B, or E and F
	proceeding        // a provisional response came
	completed         // a failure (INVITE) or any final response came: timers D, K
	accepted          // a 2xx to INVITE came: timer M
)

// A clientTx is a client transaction.
type clientTx struct {
	deadline
	key    string // branch and method
	call   *call
	state  int
	invite bool
	branch string
	flow   flow
	udp    flow                  // what to fall back to when the peer has no TCP
	moved  bool                  // its connection broke once, and another was tried
	hop    hop                   // where its target was found; none when the worker named the flow
	others bool                  // and can be found elsewhere
	left   bool                  // the call has been told to look elsewhere (failover.go)
	req    *codecore.SendRequest // until a final response came
	bytes  []byte                // the request, likewise
	ack    []byte                // to a failure
	cancel *codecore.SendRequest // waits for a provisional response
	seen   []string              // responses passed up: status and To-tag
	rseqs  map[string]uint64     // last RSeq passed up, by To-tag
	every  time.Duration
	nextAt time.Time
	quiet  time.Time // nothing may have been heard until then; zero = for ever
	endAt  time.Time
}

func clientKey(branch, method string) string { return branch + " " + method }

// newClient makes a transaction for a request and sends it, at once if the
// address is known. e.mu is held.
func (e *Edge) newClient(c *call, a *codecore.SendRequest, now time.Time) {
	method := a.Msg.Method
	key := clientKey(a.Branch, method)
	if e.client[key] != nil {
		return
	}
	tx := &clientTx{key: key, call: c, invite: method == "INVITE", branch: a.Branch, req: a, endAt: now.Add(e.lim.gone())}
	e.client[key] = tx
	c.open++
	e.stats.Open.Add(1)
	e.arm(tx, tx.endAt)
	if _, ok := e.signed(a); !ok {
		e.stats.count(noPassword)
		tx.fail(e, 407, okay, now)
		return
	}
	if method == "CANCEL" {
		if inv := e.client[clientKey(a.Branch, "INVITE")]; inv != nil && inv.flow.link != nil {
			tx.begin(e, inv.flow, now)
			return
		}
	}
	tx.find(e)
}

// find has the target of a request looked up, and sends it there.
func (tx *clientTx) find(e *Edge) {
	e.route(tx.req, func(r route) {
		if e.client[tx.key] != tx {
			return
		}
		now := time.Now()
		if tx.hop, tx.others = r.hop, r.others; !r.ok {
			e.stats.count(r.why)
			code := 503
			if r.why == noFlow {
				code = 480 // its client is away: nothing is broken here
			}
			tx.fail(e, code, r.why, now)
			return
		}
		tx.quiet = tx.patience(e, now)
		tx.begin(e, r.flow, now)
	})
}

// begin sends the request for the first time.
func (tx *clientTx) begin(e *Edge, f flow, now time.Time) {
	tx.state = calling
	tx.bytes = e.writeRequest(tx.req, f.link)
	if c := e.tcpForSize(tx, f, now); c != nil {
		tx.udp, f = f, flow{c, f.remote}
		tx.bytes = e.writeRequest(tx.req, f.link)
	}
	tx.flow = f
	tx.endAt = now.Add(e.lim.gone())
	if !e.write(f, tx.bytes) && f.link.reliable() {
		if tx.udp.link != nil {
			tx.fallBack(e, false, now)
			return
		}
		tx.fail(e, 503, connBroken, now)
		return
	}
	tx.every = e.lim.T1
	if !f.link.reliable() {
		tx.nextAt = now.Add(tx.every)
	}
	tx.rearm(e)
}

func (tx *clientTx) rearm(e *Edge) {
	at := tx.endAt
	if !tx.nextAt.IsZero() {
		at = earlier(tx.nextAt, at)
	}
	if !tx.quiet.IsZero() {
		at = earlier(tx.quiet, at)
	}
	e.arm(tx, at)
}

func (tx *clientTx) fire(e *Edge, now time.Time) {
	if !tx.endAt.After(now) {
		if tx.state <= proceeding {
			tx.fail(e, 408, noSign, now)
		} else {
			tx.end(e, now)
		}
		return
	}
	if !tx.quiet.IsZero() && !tx.quiet.After(now) {
		e.stats.count(noSign)
		tx.broke(e, noSign, now)
		tx.leave(e, 408, noSign, now)
		return
	}
	if !tx.nextAt.IsZero() && !tx.nextAt.After(now) {
		e.stats.Repeated.Add(1)
		e.write(tx.flow, tx.bytes)
		tx.every *= 2
		if !tx.invite { // timer E; timer A has no cap
			tx.every = min(tx.every, e.lim.T2)
		}
		if tx.state == proceeding {
			tx.every = e.lim.T2
		}
		tx.nextAt = now.Add(tx.every)
	}
	tx.rearm(e)
}

// fail ends the transaction without a final response. Of a CANCEL the call
// hears nothing: it shares its INVITE's branch, and is over with it.
func (tx *clientTx) fail(e *Edge, code int, why reason, now time.Time) {
	if tx.state == calling && !tx.left && code != 407 {
		tx.broke(e, why, now)
	}
	tx.tell(e, code, why, now)
	tx.end(e, now)
}

func (tx *clientTx) end(e *Edge, now time.Time) {
	if e.client[tx.key] != tx {
		return
	}
	delete(e.client, tx.key)
	e.arm(tx, time.Time{})
	tx.call.closed(e, now)
}

// cancelled takes a CANCEL for this INVITE: at once after a provisional
// response, held before (RFC 3261 9.1), pointless after a final one.
func (tx *clientTx) cancelled(e *Edge, a *codecore.SendRequest, now time.Time) {
	switch tx.state {
	case resolving, calling:
		tx.cancel = a
	case proceeding:
		tx.cancel = nil
		e.newClient(tx.call, a, now)
		tx.endAt = now.Add(e.lim.gone()) // no final response by then: as good as cancelled
		tx.rearm(e)
	}
}

// cancelAll cancels every INVITE of a call that began a dialog and has no final
// response: the worker that would know them cannot.
func (e *Edge) cancelAll(c *call, now time.Time) {
	for _, tx := range e.client {
		if tx.call != c || !tx.invite || tx.left || tx.state > proceeding || tagOf(tx.req.Msg.Get("To")) != "" || e.client[clientKey(tx.branch, "CANCEL")] != nil {
			continue
		}
		m := cancelOf(&tx.req.Msg)
		for _, route := range tx.req.Msg.All("Route") {
			m.Add("Route", route)
		}
		tx.cancelled(e, &codecore.SendRequest{Msg: m, Branch: tx.branch, Target: tx.req.Target, Flow: tx.req.Flow}, now)
	}
}

// onResponse finds the transaction of a response by its branch (RFC 3261
// 17.1.3), or the call by the branch's token. A failure of an INVITE that was sent
// before a crash waits for the INVITE, which its worker sends again: there it gets
// its ACK, for which nothing else here knows enough (17.1.1.3). It comes again, too.
func (e *Edge) onResponse(f flow, p *packet, now time.Time) {
	id, token, ok := e.ids.verify(p.via.branch)
	if !ok {
		e.stats.count(badToken)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	tx := e.client[clientKey(p.via.branch, p.cseqName)]
	if tx != nil {
		tx.response(e, p, now)
		return
	}
	failed := ""
	if p.msg.Status == 503 { // who else could take it is known when it is sent there
		failed = hopOf(f).String()
	}
	if p.msg.Status == 100 {
		return
	}
	e.stats.count(strayResponse)
	if p.cseqName == "INVITE" && p.msg.Status >= 300 && now.Before(e.born.Add(afterStart)) {
		return
	}
	c := e.call(id, token)
	if c == nil || (p.cseqName == "INVITE" && p.msg.Status < 300 && c.repeatAck(e, p)) {
		return
	}
	e.passUp(c, p, failed, now)
}

// passUp delivers a response to the call, unless the same waits already.
func (e *Edge) passUp(c *call, p *packet, failed string, now time.Time) {
	for _, it := range c.queue {
		if r, ok := it.event.(codecore.SIPResponse); ok && r.Branch == p.via.branch && r.Msg.Status == p.msg.Status && r.Msg.Get("To") == p.msg.Get("To") && r.Msg.Get("RSeq") == p.msg.Get("RSeq") &&
			(len(r.Msg.Body) > 0) == (len(p.msg.Body) > 0) {
			return
		}
	}
	e.vault.seal(c.id, &p.msg)
	keep := e.lim.gone()
	if p.msg.Status >= 200 {
		keep = e.lim.KeepFor
	}
	idle := p.cseqName == "BYE" && p.msg.Status >= 200 && p.msg.Status < 300 // nobody hears of it
	e.enqueue(c, &item{kind: kindResponse, idle: idle, event: codecore.SIPResponse{Branch: p.via.branch, At: now, Msg: p.msg, Failed: failed}, expires: now.Add(keep)})
}

func (tx *clientTx) response(e *Edge, p *packet, now time.Time) {
	status := p.msg.Status
	switch {
	case tx.state == resolving:
		return
	case tx.state == completed:
		e.stats.Absorbed.Add(1)
		if tx.ack != nil {
			e.write(tx.flow, tx.ack)
		}
		return
	case tx.state == accepted && status >= 300, tx.state == accepted && status < 200:
		return // RFC 6026 7.2: only further 2xx count
	case status < 200:
		tx.provisional(e, now)
		if status > 100 && !tx.left && tx.news(p) {
			e.passUp(tx.call, p, "", now)
		}
		return
	case tx.invite && status < 300:
		fresh := tx.news(p)
		if !fresh && tx.call.repeatAck(e, p) {
			e.stats.Absorbed.Add(1)
			return
		}
		if tx.left && tx.req != nil {
			tx.refuseAnswer(e, p, now)
		}
		tx.worked(e, now)
		tx.done(e, accepted, e.lim.gone(), now)
		if !tx.left && (fresh || tx.state == accepted) {
			e.passUp(tx.call, p, "", now)
		}
		return
	}
	failed := ""
	if status == 503 {
		tx.broke(e, unavailable, now)
		failed = tx.elsewhere(e)
	} else {
		tx.worked(e, now)
	}
	wait := e.lim.T4
	if tx.invite {
		tx.ack = e.writeAck(tx.req, tx.flow.link, p.msg.Get("To"))
		e.write(tx.flow, tx.ack)
		wait = e.lim.gone()
	}
	if tx.flow.link.reliable() {
		wait = 0
	}
	if !tx.left {
		e.passUp(tx.call, p, failed, now)
	}
	tx.done(e, completed, wait, now)
}

func (tx *clientTx) provisional(e *Edge, now time.Time) {
	if tx.quiet = (time.Time{}); tx.state == calling {
		tx.state = proceeding
		tx.worked(e, now)
		if tx.invite { // ringing ends by the call's own no-answer timer
			tx.nextAt, tx.endAt = time.Time{}, now.Add(e.lim.MaxPending)
		}
	}
	if a := tx.cancel; a != nil {
		tx.cancelled(e, a, now)
	}
	tx.rearm(e)
}

// news notes a response by status and To-tag (and RSeq, RFC 3262). A provisional one
// that brings SDP for the first time is news: many callees say 180 once without and,
// when there is something to be heard, once with it.
func (tx *clientTx) news(p *packet) bool {
	key := strconv.Itoa(p.msg.Status) + " " + p.toTag
	if p.msg.Status >= 200 {
		key = "2xx " + p.toTag
	} else if r := p.msg.Get("RSeq"); r != "" {
		if !tx.inOrder(p.toTag, r) {
			return false
		}
		key += " " + r
	} else if len(p.msg.Body) > 0 {
		key += " sdp"
	}
	if slices.Contains(tx.seen, key) || len(tx.seen) >= 32 {
		return false
	}
	tx.seen = append(tx.seen, strings.Clone(key))
	return true
}

// done keeps what retransmitted final responses need, for wait.
func (tx *clientTx) done(e *Edge, state int, wait time.Duration, now time.Time) {
	if tx.state == state {
		return
	}
	tx.state, tx.req, tx.bytes, tx.cancel, tx.nextAt, tx.quiet = state, nil, nil, nil, time.Time{}, time.Time{}
	if state == completed {
		tx.seen = nil
	}
	if tx.endAt = now.Add(wait); wait == 0 {
		tx.end(e, now)
		return
	}
	e.arm(tx, tx.endAt)
}
