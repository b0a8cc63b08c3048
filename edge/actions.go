package edge

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// onDo takes actions that come unasked, and says what the edge now holds.
func (e *Edge) onDo(m sessions.Msg) {
	var d sessions.Do
	if err := wire.Open(m.Data, &d); err != nil {
		e.stats.count(badEnvelope)
		e.log.Warn("edge: actions not read", "err", err)
		return
	}
	id, token := d.Call, e.ids.token(d.Call)
	e.mu.Lock()
	if e.ctx.Err() != nil { // Run waits for what it has begun, and for nothing new
		e.mu.Unlock()
		return
	}
	c := e.call(id, token)
	if c == nil {
		e.mu.Unlock()
		e.stats.count(edgeFull)
		return // the owner sends again
	}
	gap := e.perform(c, d.Actions, time.Now())
	done := sessions.Done{Boot: e.cfg.Boot, Accepted: c.last, Gap: gap}
	c.told = c.last
	e.mu.Unlock()
	if m.Reply == "" {
		return
	}
	data, err := wire.Seal(done)
	if err == nil {
		err = e.cfg.Bus.Publish(m.Reply, data)
	}
	if err != nil {
		e.log.Debug("edge: Done not sent", "err", err)
	}
}

// perform takes actions by their numbers (R3): what was taken is passed
// over, the next one and the oldest pending one are performed, a gap is refused. e.mu is held.
func (e *Edge) perform(c *call, actions []codecore.Action, now time.Time) (gap bool) {
	for i := range actions {
		a := &actions[i]
		switch {
		case a.To != e.name:
			continue
		case a.Seq == 0:
		case a.Seq <= c.last:
			e.ackAgain(c, a.Response, now)
			continue
		case a.Seq == c.last+1, a.First: // what lies between is over
			c.last = a.Seq
		default:
			e.stats.Gaps.Add(1)
			return true
		}
		e.stats.Actions.Add(1)
		e.fill(c, a)
		switch {
		case a.Request != nil:
			e.doRequest(c, a.Request, now)
		case a.Response != nil:
			e.doResponse(c, a.Response, now)
		default:
			e.stats.count(badAction)
		}
	}
	c.touch(e, now)
	return false
}

func (e *Edge) doRequest(c *call, a *codecore.SendRequest, now time.Time) {
	switch a.Msg.Method {
	case "ACK":
		e.doAck(c, a)
	case "CANCEL":
		if a.Branch == "" {
			e.cancelAll(c, now)
			return
		}
		if inv := e.client[clientKey(a.Branch, "INVITE")]; inv != nil {
			inv.cancelled(e, a, now)
			return
		}
		e.newClient(c, a, now)
	case "":
		e.stats.count(badAction)
	default:
		e.newClient(c, a, now)
	}
}

// doAck sends the ACK to a 2xx, which has no transaction, and keeps it for as
// long as the 2xx can be repeated.
func (e *Edge) doAck(c *call, a *codecore.SendRequest) {
	e.route(a, func(r route) {
		if !r.ok {
			e.stats.count(r.why)
			return
		}
		f := r.flow
		b := e.writeRequest(a, f.link)
		e.write(f, b)
		cseq, _, _ := strings.Cut(a.Msg.Get("CSeq"), " ")
		c.keepAck(sentAck{a.Msg.Get("Call-ID"), tagOf(a.Msg.Get("To")), cseq, b, f, time.Now().Add(e.lim.gone())})
	})
}

// tagOf reads the tag parameter of a From or To value.
func tagOf(v string) string {
	a, _ := parseAddress(v)
	return a.tag
}

// doResponse answers a request. An edge that does not know the transaction (it
// restarted) makes it anew from the action, so that repetitions and ACKs work.
func (e *Edge) doResponse(c *call, a *codecore.SendResponse, now time.Time) {
	tx := e.server[a.Tx]
	if tx == nil {
		cseq, method, _ := strings.Cut(a.Msg.Get("CSeq"), " ")
		f, ok := e.flowByID(a.Flow)
		if !ok {
			f, ok = e.flowByVia(a.Msg.Get("Via"))
		}
		if !ok || a.Tx == "" {
			e.stats.count(noAddress)
			return
		}
		tx = e.newServer(c, a.Tx, strings.TrimSpace(method), f, cseq, now)
		tx.callID = e.ids.callHash(a.Msg.Get("Call-ID"))
	}
	if !tx.final && !tx.flow.link.alive() {
		if f, ok := e.flowByVia(a.Msg.Get("Via")); ok {
			tx.flow = f
		}
	}
	if tx.invite { // our own answers to its CANCEL carry the same (RFC 3261 9.2)
		c.tag = tagOf(a.Msg.Get("To"))
	}
	b := e.writeResponse(a, tx.flow.link)
	tx.respond(e, a.Msg.Status, b, now)
	if a.Msg.Method == "PRACK" && a.Msg.Status/100 == 2 {
		c.prackTaken(e)
	}
	if rseq := a.Msg.Get("RSeq"); rseq != "" && tx.invite && a.Msg.Status < 200 {
		tx.repeatReliably(e, rseq, b, now)
	}
}

// ackAgain tells a new owner, who repeats a 2xx to INVITE because it knows of no
// ACK (that is not saved), that the ACK has come: else a hang-up of the other
// party would wait for one (RFC 3261 15). What an ACK brings besides is saved.
func (e *Edge) ackAgain(c *call, a *codecore.SendResponse, now time.Time) {
	if a == nil {
		return
	}
	tx := e.server[a.Tx]
	if tx == nil || tx.call != c || !tx.invite || !tx.acked || tx.status >= 300 {
		return
	}
	waits := func(it *item) bool { return it.kind == kindAck }
	if slices.ContainsFunc(c.queue, waits) {
		return
	}
	m := codecore.Message{Method: "ACK"}
	for _, name := range []string{"From", "To", "Call-ID"} {
		m.Add(name, a.Msg.Get(name))
	}
	m.Add("CSeq", tx.cseq+" ACK")
	e.enqueue(c, &item{kind: kindAck, method: "ACK", expires: now.Add(e.lim.KeepFor), event: codecore.SIPRequest{
		Edge: e.cfg.Node, Flow: tx.flow.id(), Source: tx.flow.remote.String(), Token: c.token, Tx: tx.key, At: now, Msg: m,
	}})
}

// flowByVia finds the way back from the top Via (RFC 3261 18.2.2): received and
// rport as stamped, else the sent-by.
func (e *Edge) flowByVia(via string) (flow, bool) {
	head, params, _ := strings.Cut(via, ";")
	protocol, sentBy, _ := strings.Cut(strings.TrimSpace(head), " ")
	protocol = strings.ToUpper(strings.TrimSpace(protocol[strings.LastIndexByte(protocol, '/')+1:]))
	if protocol != "UDP" && protocol != "TCP" {
		return flow{}, false // a client's TLS or WebSocket connection only the client can make again
	}
	tcp := protocol == "TCP"
	host, port := splitHostPort(strings.TrimSpace(sentBy))
	if port == 0 {
		port = 5060
	}
	for _, part := range strings.Split(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch strings.ToLower(name) {
		case "received":
			host = value
		case "rport":
			if tcp {
				continue // a new connection goes to the port of the Via (RFC 3261 18.2.2)
			}
			if n, err := strconv.ParseUint(value, 10, 16); err == nil && n > 0 {
				port = uint16(n)
			}
		}
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err != nil {
		return flow{}, false
	}
	return e.reach(hop{strings.ToLower(protocol), netip.AddrPortFrom(addr.Unmap(), port)}, "")
}
