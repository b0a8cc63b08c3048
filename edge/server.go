package edge

import (
	"slices"
	"time"

	"callswitch/codecore"
)

// A serverTx is a server transaction (RFC 3261 17.2, with the accepted state of
// RFC 6026). It has no figure of states: `final` says that a final response has
// been sent, `acked` that its ACK came.
//
//	INVITE: pending --2xx--> accepted (2xx repeated until the ACK, else NoAck) --64 T1--> gone
//	        pending --3xx-6xx--> completed (repeated until the ACK, timer H) --ACK, T4--> gone
//	others: pending --final--> completed (repeated on request) --64 T1, TCP 0--> gone
//
// It keeps bytes, not messages: what retransmissions need.
type serverTx struct {
	deadline
	key    string
	call   *call
	invite bool
	final  bool
	status int
	acked  bool
	cseq   string
	callID uint64 // of an INVITE, hashed
	merge  uint64 // key in Edge.merge; 0 = none
	flow   flow
	moved  bool          // its connection broke once, and another was tried
	last   []byte        // the last response, for retransmissions
	prov   *reliable     // a reliable provisional response that waits for its PRACK
	every  time.Duration // of the running retransmission
	nextAt time.Time     // next retransmission; zero = none
	endAt  time.Time
}

// newServer makes a transaction for a request. e.mu is held.
func (e *Edge) newServer(c *call, key, method string, f flow, cseq string, now time.Time) *serverTx {
	tx := &serverTx{key: key, call: c, invite: method == "INVITE", cseq: cseq, flow: f, endAt: now.Add(e.lim.MaxPending)}
	e.server[key] = tx
	c.open++
	e.stats.Open.Add(1)
	if tx.invite {
		c.invites = append(c.invites, tx)
	}
	e.arm(tx, tx.endAt)
	return tx
}

// accepted finds the INVITE with this CSeq number whose 2xx waits for an ACK or
// has got it.
func (c *call) accepted(callID uint64, cseq string) *serverTx {
	for _, tx := range c.invites {
		if tx.final && tx.status < 300 && tx.cseq == cseq && tx.callID == callID {
			return tx
		}
	}
	return nil
}

// again answers a retransmission of the request. After a 2xx to INVITE nothing
// is sent: that is repeated by the clock (RFC 6026 7.1).
func (tx *serverTx) again(e *Edge) {
	e.stats.Absorbed.Add(1)
	if tx.last != nil && !(tx.invite && tx.final && tx.status < 300) {
		e.write(tx.flow, tx.last)
	}
}

// ackFailure takes the ACK to a failure: nothing is repeated any more.
func (tx *serverTx) ackFailure(e *Edge, now time.Time) {
	e.stats.Absorbed.Add(1)
	if !tx.final || tx.status < 300 || tx.acked {
		return
	}
	tx.acked, tx.last, tx.nextAt = true, nil, time.Time{}
	tx.endAt = now
	if !tx.flow.link.reliable() {
		tx.endAt = now.Add(e.lim.T4)
	}
	e.arm(tx, tx.endAt)
}

// respond sends a response in the transaction. A second final one is dropped:
// the first has been promised to the peer.
func (tx *serverTx) respond(e *Edge, status int, b []byte, now time.Time) {
	if tx.final {
		return
	}
	sent := e.write(tx.flow, b)
	tx.last = b
	if status < 200 {
		if !sent && tx.invite && tx.flow.link.reliable() {
			e.callerLost(tx, now)
		}
		return
	}
	tx.final, tx.status, tx.prov = true, status, nil
	tx.nextAt = time.Time{}
	tx.endAt = now.Add(e.lim.gone())
	switch {
	case tx.invite && (status < 300 || !tx.flow.link.reliable()):
		tx.every = e.lim.T1
		tx.nextAt = now.Add(tx.every)
		e.arm(tx, tx.nextAt)
	case !tx.invite && tx.flow.link.reliable():
		e.arm(tx, now)
	default:
		e.arm(tx, tx.endAt)
	}
}

func (tx *serverTx) fire(e *Edge, now time.Time) {
	if !tx.endAt.After(now) || (tx.final && !tx.invite && tx.flow.link.reliable()) {
		tx.end(e, now)
		return
	}
	if tx.prov != nil {
		tx.prov.fire(e, tx, now)
		return
	}
	if tx.nextAt.IsZero() || tx.acked || tx.last == nil {
		e.arm(tx, tx.endAt)
		return
	}
	e.stats.Repeated.Add(1)
	e.write(tx.flow, tx.last)
	tx.every = min(2*tx.every, e.lim.T2)
	tx.nextAt = now.Add(tx.every)
	e.arm(tx, earlier(tx.nextAt, tx.endAt))
}

// end forgets the transaction.
func (tx *serverTx) end(e *Edge, now time.Time) {
	delete(e.server, tx.key)
	if e.merge[tx.merge] == tx {
		delete(e.merge, tx.merge)
	}
	c := tx.call
	if i := slices.Index(c.invites, tx); i >= 0 {
		c.invites = slices.Delete(c.invites, i, i+1)
	}
	if tx.invite && tx.final && tx.status < 300 && !tx.acked {
		e.enqueue(c, &item{kind: kindNotice, event: codecore.NoAck{Tx: tx.key, At: now}, expires: now.Add(e.lim.KeepFor)})
	}
	c.closed(e, now)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// finish answers a request by the edge itself, in its transaction if it has one.
func (e *Edge) finish(it *item, req *codecore.Message, code int, now time.Time, extra ...string) {
	if it.tx == nil {
		return
	}
	tag := ""
	if code > 100 {
		if tag = it.tx.call.tag; tag == "" {
			tag = it.tx.call.token + ".e"
		}
	}
	it.tx.respond(e, code, reply(req, code, tag, extra...), now)
}
