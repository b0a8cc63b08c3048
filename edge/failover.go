package edge

import (
	"strconv"
	"strings"
	"time"

	"callswitch/codecore"
)

// Failover from one address of a target to the next (RFC 3263 4.3).
//
// An action is one transaction with one address. When it fails in a way that
// speaks of the address, not of the call, and the target has others, the event
// says so (SIPTimeout.Failed, SIPResponse.Failed), and the call decides: a new
// action, a new branch, Avoid with all that has failed. So the address in force is
// in the record before anything is sent to it; a repeated action goes where it
// went, whichever edge performs it; CANCEL and ACK follow, for they have the same
// Avoid; and a successor of the worker goes on where it stopped.
//
//	503                                        the response, Failed
//	no connection, a port that is closed       503, Failed
//	nothing heard of an INVITE in Silence      408, Failed
//	timers B and F                             408, Failed
//	its circuit goes down while it rings       503 circuit-open, Failed
//
// Silence counts only if there is an elsewhere: another address, or another
// target (SendRequest.Hurry). A transaction that is left while it is open ends
// here, unknown to the call: CANCEL after a provisional response, ACK and BYE
// after an answer. An edge that dies meanwhile leaves that to the call: an answer
// then finds it by its branch, and is ended; who only rings does so until its own
// time is over.

// patience is how long nothing may be heard of a request.
func (tx *clientTx) patience(e *Edge, now time.Time) time.Time {
	if !tx.invite || !tx.others && !tx.req.Hurry {
		return time.Time{}
	}
	return now.Add(e.lim.Silence)
}

// elsewhere is the address that failed, if there are others.
func (tx *clientTx) elsewhere(e *Edge) string {
	if !tx.others || tx.left {
		return ""
	}
	e.stats.Failovers.Add(1)
	return tx.hop.String()
}

// tell reports the end of the transaction to its call.
func (tx *clientTx) tell(e *Edge, code int, why reason, now time.Time) {
	if tx.left || tx.req != nil && tx.req.Msg.Method == "CANCEL" {
		return
	}
	ev := codecore.SIPTimeout{Branch: tx.branch, Code: code, At: now}
	if code == 503 || code == 408 {
		ev.Failed = tx.elsewhere(e)
	}
	if why == circuitOpen {
		ev.Reason = why.String()
	}
	e.enqueue(tx.call, &item{kind: kindNotice, event: ev, expires: now.Add(e.lim.KeepFor)})
}

// leave tells the call to look elsewhere, and ends what is open here.
func (tx *clientTx) leave(e *Edge, code int, why reason, now time.Time) {
	tx.tell(e, code, why, now)
	tx.left, tx.nextAt, tx.quiet = true, time.Time{}, time.Time{}
	tx.endAt = now.Add(e.lim.gone())
	if tx.cancel == nil {
		m := cancelOf(&tx.req.Msg)
		for _, route := range tx.req.Msg.All("Route") {
			m.Add("Route", route)
		}
		tx.cancelled(e, &codecore.SendRequest{Msg: m, Branch: tx.branch, Target: tx.req.Target, Flow: tx.req.Flow}, now)
	}
	tx.rearm(e)
}

// refuseAnswer ends what a callee made of an INVITE that was left (RFC 3261
// 13.2.2.4, 12.1.2).
func (tx *clientTx) refuseAnswer(e *Edge, p *packet, now time.Time) {
	m := codecore.Message{Method: "ACK", URI: contactURI(&p.msg)}
	if m.URI == "" {
		m.URI = tx.req.Msg.URI
	}
	next := m.URI
	routes := p.msg.All("Record-Route")
	for i := len(routes) - 1; i >= 0; i-- {
		m.Add("Route", routes[i])
		if i == len(routes)-1 {
			next = routes[i]
		}
	}
	n, _, _ := strings.Cut(p.msg.Get("CSeq"), " ")
	seq, _ := strconv.ParseUint(n, 10, 31)
	m.Add("Max-Forwards", "70")
	for _, name := range []string{"From", "To", "Call-ID"} {
		m.Add(name, p.msg.Get(name))
	}
	bye := m
	bye.Method = "BYE"
	bye.Headers = append([]codecore.Header{}, m.Headers...)
	m.Add("CSeq", n+" ACK")
	bye.Add("CSeq", strconv.FormatUint(seq+1, 10)+" BYE")
	bye.Add("Reason", reasonHeader(480, noSign.String()))
	e.doAck(tx.call, &codecore.SendRequest{Msg: m, Branch: tx.branch + "a", Target: next})
	e.newClient(tx.call, &codecore.SendRequest{Msg: bye, Branch: tx.branch + "b", Target: next}, now)
}

// broke and worked tell the circuit of the address what became of a request.
func (tx *clientTx) broke(e *Edge, why reason, now time.Time) {
	if tx.hop.addr.IsValid() {
		e.trouble(tx.hop, why, tx.others, now)
	}
}

func (tx *clientTx) worked(e *Edge, now time.Time) {
	if tx.hop.addr.IsValid() {
		e.circuits.worked(tx.hop, now)
	}
}

// trouble notes a failure of an address. When that takes its circuit down for
// want of any sign of life, INVITEs that ring there and could be elsewhere are
// left. e.mu is held.
func (e *Edge) trouble(h hop, why reason, others bool, now time.Time) {
	if !e.circuits.broke(h, why.String(), others, now) {
		return
	}
	e.log.Warn("edge: circuit is down", "address", h.String(), "reason", why.String())
	if why == unavailable {
		return
	}
	for _, tx := range e.client {
		if tx.hop == h && tx.invite && !tx.left && tx.state == proceeding && tx.cancel == nil && (tx.others || tx.req.Hurry) &&
			e.client[clientKey(tx.branch, "CANCEL")] == nil && tagOf(tx.req.Msg.Get("To")) == "" {
			tx.leave(e, 503, circuitOpen, now)
		}
	}
}

// contactURI is where a dialog's requests go; "" when that cannot be read.
func contactURI(m *codecore.Message) string {
	v := m.Get("Contact")
	if _, ok := parseAddress(v); !ok {
		return ""
	}
	if i, found := angle(v); found {
		v, _, _ = strings.Cut(v[i+1:], ">")
		return v
	}
	v, _, _ = strings.Cut(v, ";")
	return strings.TrimSpace(v)
}
