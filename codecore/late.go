package codecore

import "fmt"

// The delayed offer: an INVITE without SDP (RFC 3264 4, RFC 3261 13.2.1). Who is
// asked makes the offer, and who asked gives the answer, in the ACK.
//
//	a              switch              b
//	| INVITE ------> |                  |   (a re-INVITE of either party goes the
//	|                | INVITE --------> |    same way)
//	|                | <----- 200 offer |   no ACK yet: Leg.AckDue
//	| <--- 200 offer |                  |
//	| ACK answer --> |                  |
//	|                | ACK answer ----> |
//
// The 2xx of b comes again until our ACK, which nobody sends before the caller's:
// that is at most the caller's way there and back. A caller that never
// acknowledges, or without an answer, has ended the call: b gets an ACK whose
// answer refuses the offer, and both a BYE.

// calleeOffers takes the 2xx to an INVITE that made no offer.
func (c *call) calleeOffers(leg LegID, e SIPResponse, t ClientTx, d *Dialog, srv *ServerTx) {
	if !c.takeOffer(leg, e, t) {
		c.ask(leg, d, "ACK", t.CSeq, "", nil)
		c.unfit(leg, d, 500, "sdp-offer", e.At)
		return
	}
	if leg != LegB {
		c.take(leg)
	}
	c.leg(LegB).learn(&e.Msg)
	c.sessionAgreed(LegB, &e.Msg)
	c.A.Dialogs[0].Confirmed = true
	c.CDR.Answer, c.CDR.Code = e.At, 200
	c.become(PhaseAnswered)
	c.passOffer(LegB, e, srv)
	c.leaveAll(elsewhere)
}

// offersLate takes the 2xx to a re-INVITE that made no offer; false when it makes
// none that can be passed on.
func (c *call) offersLate(leg LegID, e SIPResponse, t ClientTx, srv *ServerTx) bool {
	if !c.takeOffer(leg, e, t) {
		return false
	}
	c.passOffer(leg, e, srv)
	return true
}

// takeOffer notes the offer of a 2xx.
func (c *call) takeOffer(leg LegID, e SIPResponse, t ClientTx) bool {
	l := c.leg(leg)
	s, err := describe(e.Msg.Body, l.offers())
	if err != nil {
		return false
	}
	c.hears(leg, &s)
	l.AckDue = t.CSeq
	return true
}

// passOffer makes the leg's offer ours, in the 200 to the party that asked.
func (c *call) passOffer(leg LegID, e SIPResponse, srv *ServerTx) {
	s, err := describe(e.Msg.Body, c.leg(leg).offers()) // described by takeOffer
	if err != nil {
		return
	}
	to := c.across(leg)
	c.respond(to, srv, 200, c.offer(to, s))
}

// answerDue reports whether an offer of a 2xx waits for its answer.
func (c *call) answerDue() bool {
	for _, id := range []LegID{LegA, LegB} {
		if c.leg(id).AckDue != 0 {
			return true
		}
	}
	return false
}

// lateAnswer takes the answer that an ACK brings, if one is due.
func (c *call) lateAnswer(leg LegID, cseq uint32, body []byte) {
	if c.service() != "" {
		c.serviceAnswered(cseq, body)
		return
	}
	l, far := c.leg(leg), c.leg(c.across(leg))
	d := far.live()
	if d == nil || far.AckDue == 0 || far.Offer == nil || !l.awaitsAck(cseq) {
		return
	}
	s, err := c.answered(leg, body)
	if err != nil {
		return // acked ends the call
	}
	offer, due := far.Offer, far.AckDue
	far.Offer, far.AckDue = nil, 0
	l.Sound, far.Sound = s.sound, *offer
	l.Answers++
	far.Answers++
	c.bridge()
	c.ask(c.across(leg), d, "ACK", due, "", c.answer(c.across(leg), s, offer), sdpType)
}

// awaitsAck reports whether an INVITE of the party up to this CSeq has its 2xx but
// not its ACK.
func (l *Leg) awaitsAck(cseq uint32) bool {
	for _, t := range l.Srv {
		if t.accepted() && t.CSeq <= cseq {
			return true
		}
	}
	return false
}

// noLateAnswer ends a call whose ACK did not bring the answer that it had to.
func (c *call) noLateAnswer(leg LegID) {
	l := c.leg(leg)
	for _, t := range l.Srv {
		if t.accepted() {
			c.forget(func(a Action) bool { return a.Response != nil && a.Response.Tx == t.Tx })
		}
	}
	l.Srv = without(l.Srv, ServerTx.accepted)
	c.become(PhaseTalking) // nothing is waited for any more
	c.hangUp("switch", "sdp-answer", c.now)
}

// ackLost acknowledges a 2xx whose call, or re-INVITE, is over.
func (c *call) ackLost(leg LegID, d *Dialog, t ClientTx, e SIPResponse) {
	if s, err := describe(e.Msg.Body, c.leg(leg).offers()); t.Bare && err == nil {
		c.leg(leg).Lines = s.lines
		c.ackRefusing(leg, d, t.CSeq, &s.sound)
		return
	}
	c.ask(leg, d, "ACK", t.CSeq, "", nil)
}

// ackRefusing acknowledges a 2xx that made an offer, and refuses each line of it
// (RFC 3264 6): the ACK has to bring an answer, whatever follows.
func (c *call) ackRefusing(leg LegID, d *Dialog, cseq uint32, offer *Sound) {
	l := c.leg(leg)
	l.AckDue = 0
	if offer == nil {
		c.ask(leg, d, "ACK", cseq, "", nil)
		return
	}
	lines := l.Lines
	if len(lines) == 0 {
		lines = []string{""}
	}
	l.SDPs++
	body := fmt.Appendf(nil, "v=0\r\no=- %d %d IN %s\r\ns=-\r\nc=IN %[3]s\r\nt=0 0\r\n", c.sessionID(c.slot(leg)), l.SDPs, network(l.Media.Addr))
	for _, other := range lines {
		if other == "" {
			switch other = "audio 0 RTP/AVP"; {
			case offer.Fax:
				other = "image 0 udptl t38"
			case offer.Line != nil && offer.Line.Proto != "":
				other = "audio 0 " + offer.Line.Proto
			}
			for _, pt := range offer.Payloads {
				other += fmt.Sprintf(" %d", pt)
			}
		}
		body = fmt.Appendf(body, "m=%s\r\n", other)
	}
	l.Told, l.Offer = "", nil
	c.ask(leg, d, "ACK", cseq, "", body, sdpType)
}
