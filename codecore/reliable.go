package codecore

import (
	"strconv"
	"strings"
	"time"
)

// Reliable provisional responses (RFC 3262). Each side has its own: what the
// callee numbers is acknowledged by us, what we number by the caller.
//
//	a                 switch                b
//	|                 | <----- 183 RSeq 7 a |   Dialog.RSeq
//	|                 | PRACK RAck 7 -----> |
//	| <- 183 RSeq 1 a |                     |   ServerTx.RSeq, Unacked; the edge
//	|                 |                     |   repeats it until the PRACK comes
//	| PRACK RAck 1 -> |                     |
//	| <------ 200 PRACK                     |
//
// To the caller one is under way at a time, and the 200 waits for its PRACK
// (section 3). With an INVITE that made no offer, the offer of b's 183 is a's,
// and the answer in a's PRACK goes on in ours (section 5). A caller that has the
// answer by a reliable response gets its 200 without SDP.

// NoPrack tells that the repetitions of a reliable provisional response ended
// without a PRACK (RFC 3262 3: the INVITE is to be refused with a 5xx).
type NoPrack struct {
	Tx   string    `json:"tx"`
	RSeq uint32    `json:"rseq"`
	At   time.Time `json:"at"`
}

func (NoPrack) event() {}

// reliably tells whether a provisional response to t may, or must, be reliable.
func (t *ServerTx) reliably() (may, must bool) {
	for _, h := range t.Head {
		if h.Value == extReliable {
			may, must = true, must || h.Name == "Require"
		}
	}
	return may, must
}

// ring sends the caller a provisional response; settled says that its SDP is an
// answer that stays.
func (c *call) ring(t *ServerTx, status int, body []byte, settled bool) {
	may, must := t.reliably()
	if c.A.Agreed {
		body = nil // it has the answer
	}
	if c.forked() {
		if settled = false; must {
			body = nil
		}
	}
	bare := c.A.Offer == nil && !c.A.Agreed // then only an offer may be reliable
	switch {
	case t.Unacked && (must || len(body) > 0): // its SDP is in Early: sent with the PRACK
	case t.Unacked:
		c.respond(LegA, t, status, nil)
	case must && bare && len(body) == 0:
	case must, may && settled && len(body) > 0:
		c.respondReliably(t, status, body)
	default:
		c.respond(LegA, t, status, body)
	}
}

// respondReliably numbers a provisional response and sends it.
func (c *call) respondReliably(t *ServerTx, status int, body []byte) {
	if t.RSeq++; t.RSeq == 1 {
		t.RSeq = uint32(c.between(1, 1<<20, "rseq", t.Tx))
	}
	t.Unacked = true
	if len(body) > 0 && c.A.Offer != nil {
		c.A.Sound, c.A.Offer, c.A.Agreed = *c.A.Offer, nil, true
		c.A.Answers++
	}
	c.respond(LegA, t, status, body, Header{"Require", extReliable}, Header{"RSeq", strconv.FormatUint(uint64(t.RSeq), 10)})
}

// prack acknowledges a reliable provisional response of a callee. due is the SDP
// whose answer the PRACK has to bring; then it waits. fresh is false for one that
// came before.
func (c *call) prack(leg LegID, t ClientTx, e SIPResponse) (d *Dialog, fresh, due bool) {
	l := c.leg(leg)
	n, err := strconv.ParseUint(strings.TrimSpace(e.Msg.Get("RSeq")), 10, 32)
	_, tag := tagOf(e.Msg.Get("To"))
	if err != nil || n == 0 || tag == "" || !hasOption(&e.Msg, "Require", extReliable) {
		return nil, true, false
	}
	if d = l.dialog(tag); d == nil {
		if len(l.Dialogs) >= maxDialogs {
			return nil, true, false
		}
		d = c.early(leg, e, tag)
	}
	if d.Confirmed || uint32(n) <= d.RSeq {
		return d, false, false
	}
	d.RSeq = uint32(n)
	c.res.Save = true
	if t.Bare && len(e.Msg.Body) > 0 && !l.Agreed && !c.forked() {
		if s, err := describe(e.Msg.Body, l.offers()); err == nil && l.Offer == nil {
			c.hears(leg, &s)
			c.Early = &Early{tag, e.Msg.Body}
			return d, true, true
		}
	}
	c.sendPrack(leg, d, t.CSeq, nil)
	return d, true, false
}

func (c *call) sendPrack(leg LegID, d *Dialog, invite uint32, body []byte) {
	l := c.leg(leg)
	l.CSeq++
	more := []Header{{"RAck", strconv.FormatUint(uint64(d.RSeq), 10) + " " + formatCSeq(invite, "INVITE")}}
	if len(body) > 0 {
		more = append(more, sdpType)
	}
	c.ask(leg, d, "PRACK", l.CSeq, "", body, more...)
}

// early makes the early dialog that a reliable provisional response sets up
// (RFC 3261 12.1.2).
func (c *call) early(leg LegID, e SIPResponse, tag string) *Dialog {
	l := c.leg(leg)
	target := contactOf(&e.Msg)
	if target == "" {
		target = c.target(leg)
	}
	l.Dialogs = append(l.Dialogs, Dialog{Tag: tag, Target: target, Routes: backwards(e.Msg.All("Record-Route"))})
	return &l.Dialogs[len(l.Dialogs)-1]
}

// acknowledged takes a PRACK.
func (c *call) acknowledged(leg LegID, e SIPRequest) {
	l := c.leg(leg)
	inv := l.open("INVITE")
	tx := ""
	if inv != nil {
		tx = inv.Tx
	}
	t := c.serve(leg, e)
	if inv = l.srv(tx); leg != LegA || inv == nil || !inv.Unacked || !inv.acknowledgedBy(e.Msg.Get("RAck")) {
		c.respond(leg, t, 481, nil, c.reason(481, "no-reliable-response"))
		return
	}
	var answer []byte
	switch far := c.talking(LegB); {
	case c.B.Offer != nil && !c.A.Agreed: // the PRACK answers b's offer
		s, err := c.answered(LegA, e.Msg.Body)
		if err != nil || far == nil {
			status, cause := badAnswer(err)
			c.respond(leg, t, status, nil, c.reason(status, cause))
			return
		}
		offer := c.B.Offer
		c.A.Sound, c.B.Sound, c.B.Offer = s.sound, *offer, nil
		c.A.Agreed, c.B.Agreed = true, true
		c.A.Answers++
		c.B.Answers++
		c.bridge()
		c.sendPrack(LegB, far, c.inviteOf(LegB), c.answer(LegB, s, offer))
	case len(e.Msg.Body) > 0: // a new offer (section 5)
		offer, no := offered(&e.Msg, l.offers())
		if no == nil && c.A.Agreed {
			answer = c.answerHere(LegA, offer)
		}
		if answer == nil {
			c.respond(leg, t, 488, nil, c.reason(488, "sdp-mismatch"))
			return
		}
	}
	inv.Unacked = false
	c.forget(func(a Action) bool { return a.Response != nil && a.Response.Tx == tx && a.Response.Msg.Status < 200 })
	c.respond(leg, t, 200, answer)
	inv = l.srv(tx)
	switch {
	case !c.AnswerAt.IsZero():
		c.answerCaller(inv, c.AnswerAt)
	case c.Early != nil && !c.A.Agreed && c.A.Offer != nil && !c.forked():
		if s, err := c.answered(LegB, c.Early.SDP); err == nil {
			c.ring(inv, 183, c.answer(LegA, s, c.A.Offer), true)
		}
	}
}

// acknowledgedBy reports whether an RAck names t's last reliable response
// (RFC 3262 7.2): "rseq cseq INVITE".
func (t *ServerTx) acknowledgedBy(rack string) bool {
	w := strings.Fields(rack)
	if len(w) != 3 || w[2] != "INVITE" {
		return false
	}
	r, err := strconv.ParseUint(w[0], 10, 32)
	n, err2 := strconv.ParseUint(w[1], 10, 32)
	return err == nil && err2 == nil && uint32(r) == t.RSeq && uint32(n) == t.CSeq
}

// talking is the dialog, confirmed or early, in which the leg's party is talked to
// while the caller has no final answer.
func (c *call) talking(leg LegID) *Dialog {
	l := c.leg(leg)
	if d := l.live(); d != nil || leg == LegA && len(l.Dialogs) == 0 {
		return d
	}
	if leg == LegA {
		return &l.Dialogs[0]
	}
	if c.Early == nil {
		return nil
	}
	return l.dialog(c.Early.Tag)
}

// inviteOf is the CSeq of the INVITE that calls the leg's party.
func (c *call) inviteOf(leg LegID) uint32 {
	for _, t := range c.leg(leg).Cli {
		if t.Method == "INVITE" && t.Tag == "" {
			return t.CSeq
		}
	}
	return 1
}

// noPrack ends a call whose caller never acknowledged a reliable response.
func (c *call) noPrack(e NoPrack) {
	t := c.A.srv(e.Tx)
	if t == nil || t.Status != 0 || !t.Unacked || t.RSeq != e.RSeq || c.Phase != PhaseInviting {
		return
	}
	c.respond(LegA, t, 504, nil, c.reason(504, "no-prack"))
	c.CDR.Cause = "no-prack"
	c.cancelCallees()
	c.finish("failed", 504, "switch", e.At)
}

func backwards(routes []string) []string {
	for i, j := 0, len(routes)-1; i < j; i, j = i+1, j-1 {
		routes[i], routes[j] = routes[j], routes[i]
	}
	return routes
}
