package edge

import (
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"callswitch/codecore"
)

// handle deals with one message that came in on a flow. data is not kept.
func (e *Edge) handle(f flow, data []byte) {
	if keepAlive(data) {
		e.stats.KeepAlives.Add(1)
		return
	}
	now := time.Now()
	e.stats.received(f.link)
	peer, known := e.identify(f.remote)
	response := len(data) > 4 && string(data[:4]) == "SIP/"
	if response && e.answersPing(data, now) {
		e.stats.KeepAlives.Add(1)
		return
	}
	isPeer := known && !isWeb(f.link)
	known = known || e.friends.has(f.remote.Addr(), now)
	if !e.admit(f, data, known, response, now) {
		return
	}
	p, code, why := parse(data, &e.lim)
	p.size, p.known = len(data), known
	if why != okay {
		e.complain(f.remote, why, now)
		if !response {
			if !known {
				code = 403
			}
			e.refuse(f, p, code, why)
		}
		return
	}
	if known {
		e.prove(f.link)
	}
	if response {
		e.onResponse(f, p, now)
		return
	}
	p.stamp(f.remote)
	if auth := e.auth(); auth != nil && p.msg.Method == "REGISTER" && p.toTag == "" {
		e.onRegister(f, p, auth, now)
		return
	}
	if trunk, ok := e.enlistedAt(p); ok { // of several with one address, the one that is meant
		if !isPeer {
			e.friends.add(f.remote.Addr(), now.Add(friendFor), now)
		}
		peer, isPeer = trunk, true
	}
	if !isPeer {
		if peer, known = e.admitCaller(f, p, now); !known {
			return
		}
	}
	p.strip()
	e.onRequest(f, peer, p, now)
}

// keepAlive tells the keep-alives of RFC 5626 and of older phones: line ends,
// or four zero bytes.
func keepAlive(data []byte) bool {
	if len(data) > 4 {
		return false
	}
	for _, c := range data {
		if c != '\r' && c != '\n' && c != 0 {
			return false
		}
	}
	return true
}

// admit spends a token of the source. A response of an unknown source is ours
// when it carries a branch of ours, so that is looked at before any parsing.
func (e *Edge) admit(f flow, data []byte, known, response bool, now time.Time) bool {
	if !known && response {
		_, ok := e.findBranch(data)
		if !ok {
			e.complain(f.remote, badToken, now)
			return false
		}
		known = true
	}
	b := e.peers
	if !known {
		b = e.strangers
	}
	if !b.take(f.remote.Addr(), now) {
		e.complain(f.remote, flood, now)
		return false
	}
	return true
}

func (e *Edge) findBranch(data []byte) (codecore.CallID, bool) {
	head := string(data[:min(len(data), 1024)])
	i := strings.Index(head, cookie)
	if i < 0 {
		return "", false
	}
	id, _, ok := e.ids.verify(head[i:])
	return id, ok
}

func (e *Edge) write(f flow, b []byte) bool {
	e.stats.sent(f.link)
	if err := f.link.send(f.remote, b); err != nil {
		e.stats.count(sendFailed)
		e.log.Debug("edge: not sent", "to", f.remote, "err", err)
		return false
	}
	return true
}

// stamp notes in the top Via where the request came from (RFC 3261 18.2.1, RFC
// 3581 4): the worker's responses carry it back.
func (p *packet) stamp(from netip.AddrPort) {
	for i := range p.msg.Headers {
		h := &p.msg.Headers[i]
		if h.Name != "Via" {
			continue
		}
		out := strings.Builder{}
		out.WriteString("SIP/2.0/" + p.via.transport + " " + writeHost(p.via.host))
		if p.via.port > 0 {
			out.WriteString(":" + strconv.Itoa(p.via.port))
		}
		eachParam(p.via.params, func(name, value string) {
			switch strings.ToLower(name) {
			case "received":
				return
			case "rport":
				value = strconv.Itoa(int(from.Port()))
			}
			out.WriteString(";" + name)
			if value != "" {
				out.WriteString("=" + value)
			}
		})
		source := from.Addr().Unmap().WithZone("")
		if host, ok := isAddress(p.via.host); p.via.rport || !ok || host != source {
			out.WriteString(";received=" + source.String())
		}
		h.Value = out.String()
		return
	}
}

// writeHost puts the brackets of RFC 3261 19.1.1 around an IPv6 address.
func writeHost(host string) string {
	if strings.IndexByte(host, ':') >= 0 {
		return "[" + host + "]"
	}
	return host
}

// back is where responses go: over the connection, or to the source address
// with rport or else the port of the Via (RFC 3261 18.2.2, RFC 3581 4).
func (p *packet) back(f flow) flow {
	if !f.link.reliable() && !p.via.rport {
		port := uint16(5060)
		if p.via.port > 0 {
			port = uint16(p.via.port)
		}
		f.remote = netip.AddrPortFrom(f.remote.Addr(), port)
	}
	return f
}

// onRequest sorts requests: what a transaction absorbs, what the edge answers
// itself, what goes to a call.
func (e *Edge) onRequest(f flow, peer string, p *packet, now time.Time) {
	source := f.remote
	f = p.back(f)
	method := p.msg.Method
	e.mu.Lock()
	defer e.mu.Unlock()
	key := e.ids.tx(p, method)
	if method == "ACK" {
		key = e.ids.tx(p, "INVITE")
	}
	if tx := e.server[key]; tx != nil {
		switch {
		case method != "ACK":
			tx.again(e)
			return
		case !tx.final || tx.status >= 300:
			tx.ackFailure(e, now)
			return
		}
		// To a 2xx it is a transaction of its own (RFC 3261 13.2.2.4), but RFC 2543
		// had no branch to tell it by, and some phones give it its INVITE's.
	}
	if why := e.looping(p); why != okay && f.link != link(e.loop) {
		e.complain(f.remote, why, now)
		e.refuse(f, p, 482, why)
		return
	}
	id, token, ok := e.callOf(f, p)
	if !ok {
		return
	}
	c := e.call(id, token)
	if c == nil {
		e.stats.count(edgeFull)
		e.refuse(f, p, 503, edgeFull, "Retry-After", "5")
		return
	}
	if c.full(method) {
		e.stats.count(queueFull)
		e.refuse(f, p, 503, queueFull, "Retry-After", "1")
		return
	}
	e.vault.seal(id, &p.msg)
	ev := codecore.SIPRequest{
		Edge: e.cfg.Node, Flow: f.id(), Source: source.String(), Peer: peer, Token: token, Tx: key, At: now, Msg: p.msg,
	}
	if account, ok := codecore.AccountOf(peer); ok && e.cfg.Accounts != nil {
		a, _ := e.cfg.Accounts.Get(account)
		ev.SRTP = a.SRTP
	}
	it := &item{kind: kindRequest, method: method, flow: f, expires: now.Add(e.lim.gone())}
	switch method {
	case "ACK":
		if tx := c.accepted(e.ids.callHash(p.callID), p.cseq); tx != nil {
			if tx.acked {
				e.stats.Absorbed.Add(1)
				return
			}
			tx.acked, tx.last, ev.Tx = true, nil, tx.key
			// The 2xx is repeated no more, and what else the ACK brings (an SDP
			// apart) is wanted by the call's next event, which goes after it.
			it.idle = len(p.msg.Body) == 0
			e.arm(tx, tx.endAt)
		}
		it.kind, it.expires = kindAck, now.Add(e.lim.KeepFor)
	case "PRACK":
		c.pracked(e, p.msg.Get("RAck"))
		it.tx = e.newServer(c, key, method, f, p.cseq, now)
	case "CANCEL":
		ev.Tx = e.ids.tx(p, "INVITE")
		it.tx = e.newServer(c, key, method, f, p.cseq, now)
		it.expires = now.Add(e.lim.KeepFor)
		if inv := e.server[ev.Tx]; inv != nil && inv.final {
			e.finish(it, &ev.Msg, 200, now) // RFC 3261 9.2: no effect
			return
		}
	case "INVITE":
		it.fresh = p.toTag == "" && id == e.ids.call(p)
		if it.fresh {
			ev.Seed = rand.Uint64()
		}
		it.expires = now.Add(e.lim.SaveWithin)
		it.tx = e.newServer(c, key, method, f, p.cseq, now)
		it.tx.callID = e.ids.callHash(p.callID)
		if it.tx.merge = e.ids.mergeKey(p); it.tx.merge != 0 {
			e.merge[it.tx.merge] = it.tx
		}
	case "BYE":
		it.expires = now.Add(e.lim.KeepFor)
		fallthrough
	default:
		it.tx = e.newServer(c, key, method, f, p.cseq, now)
	}
	it.event = ev
	e.enqueue(c, it)
}

// callOf finds the call of a request that no transaction knows, or answers it.
func (e *Edge) callOf(f flow, p *packet) (id codecore.CallID, token string, ok bool) {
	if p.toTag != "" {
		if id, token, ok = e.ids.verify(p.toTag); !ok {
			if p.msg.Method == "ACK" {
				e.stats.count(strayAck) // of a stateless refusal, or invented
			} else {
				e.stats.count(badToken)
				e.refuse(f, p, 481, badToken)
			}
		}
		return id, token, ok
	}
	if id, token, ok, replaces := e.replaced(p); replaces {
		if !ok {
			e.stats.count(badToken)
			e.refuse(f, p, 481, badToken)
		}
		return id, token, ok
	}
	if p.msg.Method == "CANCEL" { // of an INVITE with Replaces too
		if tx := e.server[e.ids.tx(p, "INVITE")]; tx != nil {
			return tx.call.id, tx.call.token, true
		}
	}
	switch p.msg.Method {
	case "INVITE", "CANCEL":
		id = e.ids.call(p)
		return id, e.ids.token(id), true
	case "ACK":
		e.stats.count(strayAck)
	case "OPTIONS":
		if unknown := p.msg.All("Require"); len(unknown) > 0 {
			e.stats.count(badExtension)
			e.refuse(f, p, 420, badExtension, "Unsupported", strings.Join(unknown, ", "))
			return "", "", false
		}
		e.refuse(f, p, 200, okay, "Allow", allow, "Accept", "application/sdp")
	case "BYE":
		e.stats.count(badToken)
		e.refuse(f, p, 481, badToken)
	case "REFER": // only a party of a call may send somebody elsewhere
		e.stats.count(badMethod)
		e.refuse(f, p, 403, badMethod, "Allow", allow)
	default:
		e.stats.count(badMethod)
		e.refuse(f, p, 405, badMethod, "Allow", allow)
	}
	return "", "", false
}
