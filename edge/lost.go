package edge

import (
	"strings"
	"time"

	"callswitch/codecore"
)

// What becomes of transactions when the connection under them breaks.
//
//	our request, nothing heard yet          503 (RFC 3261 8.1.3.1), or UDP if TCP was tried for its size
//	our INVITE, ringing, we had connected   connect once more and repeat it: a callee that still has it
//	                                        absorbs the repetition; nobody there: 503
//	our INVITE, ringing, they had connected 503: nobody listens at the far port
//	their INVITE, not answered              connect to the port of its Via, where the answer has to go
//	                                        (18.2.2); nobody there: the caller is gone, CANCEL
//
// A second break of the same transaction is not mended.

// maxUDP is the longest request that goes over UDP when the path's MTU is not
// known (RFC 3261 18.1.1).
const maxUDP = 1300

const (
	tcpTryWithin = time.Second     // of a connection that is tried for size alone
	tcpTryAgain  = 5 * time.Minute // where there was none
	maxNoTCP     = 1024
)

// tcpForSize gives the connection for a request that is too long for UDP (RFC
// 3261 18.1.1), nil when it shall go by UDP all the same: the URI says so, the
// worker named the flow, we have no TCP ourselves, or the peer had none lately.
func (e *Edge) tcpForSize(tx *clientTx, f flow, now time.Time) *streamLink {
	if len(tx.bytes) <= maxUDP || f.link.reliable() || tx.moved || tx.req.Flow != "" || e.listening(overTCP) == nil ||
		strings.Contains(strings.ToLower(tx.req.Target), "transport=udp") || now.Before(e.noTCP[f.remote]) {
		return nil
	}
	return e.dialTCP(f.remote, tcpTryWithin)
}

// fallBack sends by UDP what TCP was tried for. e.mu is held.
func (tx *clientTx) fallBack(e *Edge, never bool, now time.Time) {
	e.stats.count(noStream)
	if never {
		if len(e.noTCP) >= maxNoTCP {
			clear(e.noTCP)
		}
		e.noTCP[tx.udp.remote] = now.Add(tcpTryAgain)
	}
	f := tx.udp
	tx.udp, tx.moved = flow{}, true
	tx.begin(e, f, now)
}

// linkLost deals with the transactions of a broken connection.
func (e *Edge) linkLost(c *streamLink) {
	if e.ctx.Err() != nil {
		return
	}
	now := time.Now()
	c.mu.Lock()
	never := c.stage < connOpen
	c.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.loseFootholds(c, now)
	for _, tx := range e.client {
		if tx.flow.link == link(c) && tx.state <= proceeding {
			tx.lost(e, c, never, now)
		}
	}
	for _, tx := range e.server {
		if tx.flow.link == link(c) && tx.invite && !tx.final && tx.last != nil {
			e.callerLost(tx, now)
		}
	}
}

func (tx *clientTx) lost(e *Edge, c *streamLink, never bool, now time.Time) {
	switch {
	case tx.state == calling && tx.udp.link != nil:
		tx.fallBack(e, never, now)
		return
	case tx.state == proceeding && tx.invite && c.dialed && !tx.moved:
		if again := e.dial(c.proto, c.remote, c.name, dialWithin); again != nil {
			tx.moved, tx.flow = true, flow{again, c.remote}
			e.write(tx.flow, tx.bytes)
			return
		}
	}
	e.stats.count(connBroken)
	tx.fail(e, 503, connBroken, now)
}

// callerLost deals with an INVITE of the far end whose connection is gone.
func (e *Edge) callerLost(tx *serverTx, now time.Time) {
	p, _, why := parse(tx.last, &e.lim)
	if why != okay {
		return
	}
	if !tx.moved {
		tx.moved = true
		if f, ok := e.flowByVia(p.msg.Get("Via")); ok && f.link != tx.flow.link && f.link.reliable() {
			tx.flow = f
			return // a connection that cannot be made brings us here again
		}
	}
	e.stats.count(connBroken)
	msg := cancelOf(&p.msg)
	msg.Add("Reason", reasonHeader(503, connBroken.String()))
	peer, _ := e.identify(tx.flow.remote)
	e.enqueue(tx.call, &item{kind: kindRequest, method: "CANCEL", flow: tx.flow, expires: now.Add(e.lim.KeepFor), event: codecore.SIPRequest{
		Edge: e.cfg.Node, Flow: tx.flow.id(), Source: tx.flow.remote.String(), Peer: peer, Token: tx.call.token, Tx: tx.key, At: now, Msg: msg,
	}})
}

// refuseStream ends a connection that cannot be read on, with a 400 when the
// message that is to blame can be answered, or a WebSocket's close code.
func (e *Edge) refuseStream(c *streamLink, why reason) {
	now := time.Now()
	e.complain(c.remote, why, now)
	raw := c.half.Raw
	switch {
	case c.proto.web:
		_ = c.put(goodbye(closeCode(why)))
	case why != flood && len(raw) <= e.lim.MaxMessage:
		p, _, _ := parse(raw, &e.lim)
		if p.msg.Method == "" {
			break
		}
		_, p.known = e.identify(c.remote)
		code := 400
		if !p.known {
			code = 403
		}
		e.refuse(flow{c, c.remote}, p, code, why)
	}
	c.end()
}
