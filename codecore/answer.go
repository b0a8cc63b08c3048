package codecore

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// From the callee's first sign to the caller's ACK.

// calleeRinging passes a provisional response on. Without SDP it may be lost by
// anybody, so it is not saved.
func (c *call) calleeRinging(leg LegID, tx ClientTx, e SIPResponse) {
	t := c.A.open("INVITE")
	if t == nil || e.Msg.Status == 199 {
		return
	}
	if c.leg(leg).Leaving {
		return
	}
	d, fresh, due := c.prack(leg, tx, e)
	if !fresh {
		return
	}
	if d != nil {
		c.leg(leg).learn(&e.Msg)
	}
	reliable := d != nil
	switch {
	case due: // its offer, for the caller to answer in its PRACK
		if s, err := describe(e.Msg.Body, c.leg(leg).offers()); err == nil {
			c.respondReliably(t, e.Msg.Status, c.offer(LegA, s))
		}
		return
	case len(e.Msg.Body) == 0, tx.Bare, c.A.Agreed: // an offer that may be lost is none
		c.ring(t, e.Msg.Status, nil, false)
		return
	}
	s, err := c.answered(leg, e.Msg.Body)
	if err != nil { // a bad early answer is no reason to end the call
		c.ring(t, 180, nil, false)
		return
	}
	l := c.leg(leg)
	if l.Sound = s.sound; reliable && !l.Agreed {
		l.Agreed = true
		l.Answers++
	}
	_, tag := tagOf(e.Msg.Get("To"))
	if leg != LegB && c.Early != nil { // somebody else is heard
		l.Early = &Early{tag, e.Msg.Body}
		c.ring(t, e.Msg.Status, nil, false)
		return
	}
	if leg != LegB { // who is heard has the slot
		c.take(leg)
	}
	c.Early = &Early{tag, e.Msg.Body}
	c.A.Sound = *c.A.Offer
	c.bridge()
	c.ring(t, e.Msg.Status, c.answer(LegA, s, c.A.Offer), reliable)
}

// answered reads a party's answer to our offer.
func (c *call) answered(leg LegID, body []byte) (said, error) {
	l := c.leg(leg)
	s, err := describe(body, want{answer: true, ask: l.ask(), local: c.A.Media.Addr})
	if err != nil {
		return s, err
	}
	offer := c.leg(c.across(leg)).Offer
	if offer != nil && offer.Fax != s.sound.Fax {
		return s, fmt.Errorf("%w: fax for audio", ErrMismatch)
	}
	if err = s.answers(l.Lines); err == nil && !shareCodec(offer, s) {
		err = ErrCodec
	}
	c.protectedBy(leg, &s)
	return s, err
}

// offers is what an offer of the party is read for.
func (l *Leg) offers() want { return want{policy: l.policy(), local: l.Media.Addr} }

// calleeAnswered takes the 2xx to the INVITE: the ACK goes out at once, the
// answer to the caller with it.
func (c *call) calleeAnswered(leg LegID, e SIPResponse, t ClientTx) {
	d := c.confirm(leg, e)
	if d == nil {
		return
	}
	srv := c.A.open("INVITE")
	if c.Phase != PhaseInviting || srv == nil || c.leg(leg).Leaving { // it crossed our CANCEL
		c.ackLost(leg, d, t, e)
		c.bye(leg, d)
		return
	}
	early := c.Early
	if leg != LegB {
		early = c.leg(leg).Early
	}
	told := leg == LegB && c.A.Agreed && early != nil && early.Tag == d.Tag
	if t.Bare && !told {
		c.calleeOffers(leg, e, t, d, srv)
		return
	}
	c.ask(leg, d, "ACK", t.CSeq, "", nil)
	body := e.Msg.Body
	if len(body) == 0 && early != nil && early.Tag == d.Tag {
		body = early.SDP
	}
	if s, err := c.answered(leg, body); err != nil && !t.Bare {
		status, cause := badAnswer(err)
		c.unfit(leg, d, status, cause, e.At)
		return
	} else if err == nil && !told {
		c.leg(leg).Sound = s.sound
	}
	if leg != LegB {
		c.take(leg)
	}
	c.Early = &Early{d.Tag, body}
	c.B.learn(&e.Msg)
	c.sessionAgreed(LegB, &e.Msg)
	if !told && c.A.Agreed { // it has another branch's answer
		c.later(renewTimer, LegA, time.Second)
	}
	if srv.Unacked { // RFC 3262 3: no 2xx before the PRACK
		c.won(e.At)
		return
	}
	c.answerCaller(srv, e.At)
}

// answerCaller accepts the caller's INVITE with the callee's answer, in Early; a
// caller that has it by a reliable response is not told it again.
func (c *call) answerCaller(srv *ServerTx, at time.Time) {
	var body []byte
	if offer := c.A.Offer; offer != nil {
		s, err := c.answered(LegB, c.Early.SDP)
		if err != nil {
			return // read when it came
		}
		c.A.Sound, c.A.Offer = *offer, nil
		c.A.Answers++
		body = c.answer(LegA, s, offer)
	}
	if !c.B.Agreed {
		c.B.Answers++
	}
	c.Early = nil
	c.A.Dialogs[0].Confirmed = true
	c.CDR.Answer, c.CDR.Code = at, 200
	c.become(PhaseAnswered)
	c.bridge()
	c.respond(LegA, srv, 200, body)
	c.leaveAll(elsewhere)
}

// unfit ends a branch that has answered, but nothing that can be used.
func (c *call) unfit(leg LegID, d *Dialog, status int, cause string, at time.Time) {
	c.CDR.Cause = cause // of the BYE
	c.because(cause)
	c.bye(leg, d)
	c.CDR.Cause = ""
	c.branchFailed(leg, Failure{Status: status, Cause: cause}, at)
}

// badAnswer is what the one who offered is told of an answer that cannot be used.
func badAnswer(err error) (status int, cause string) {
	if status, cause = statusOf(err); status == 400 {
		return 500, "sdp-answer" // no fault of his
	}
	return status, cause
}

// confirm makes the dialog that a 2xx to our INVITE sets up (RFC 3261 13.2.2.4).
func (c *call) confirm(leg LegID, e SIPResponse) *Dialog {
	_, tag := tagOf(e.Msg.Get("To"))
	routes := backwards(e.Msg.All("Record-Route"))
	target := contactOf(&e.Msg)
	if target == "" {
		target = c.target(leg)
	}
	l := c.leg(leg)
	d := l.dialog(tag)
	if d == nil {
		if len(l.Dialogs) >= maxDialogs {
			return nil
		}
		l.Dialogs = append(l.Dialogs, Dialog{Tag: tag})
		d = &l.Dialogs[len(l.Dialogs)-1]
	}
	d.Target, d.Routes, d.Confirmed, d.RSeq = target, routes, true, 0
	l.Dialogs = without(l.Dialogs, func(o Dialog) bool { return !o.Confirmed && o.Tag != tag })
	d = l.dialog(tag)
	c.arrived(d)
	return d
}

// acked takes an ACK to a 2xx, or what implies it: a later request of the party.
// INVITEs up to number cseq are done with.
func (c *call) acked(leg LegID, cseq uint32) {
	l := c.leg(leg)
	if c.leg(c.across(leg)).AckDue != 0 && l.awaitsAck(cseq) && c.Phase != PhaseEnded {
		c.noLateAnswer(leg)
		return
	}
	save := c.res.Save // the answer that it brought
	for _, t := range slices.Clone(l.Srv) {
		if t.accepted() && t.CSeq <= cseq {
			l.endSrv(t.Tx)
			c.forget(func(a Action) bool { return a.Response != nil && a.Response.Tx == t.Tx })
			if c.Phase != PhaseEnded {
				c.setTimer(TimerAck, ackSave)
			}
		}
	}
	c.res.Save = save
	if slices.ContainsFunc(l.Srv, ServerTx.accepted) {
		return // a later one still waits
	}
	if d := l.live(); l.ByeDue && d != nil {
		l.ByeDue = false
		c.bye(leg, d)
		return
	}
	if leg == LegA && c.Phase == PhaseAnswered {
		c.become(PhaseTalking)
		c.res.Save = save
	}
}

// ackFired takes TimerAck.
func (c *call) ackFired() {
	switch c.Phase {
	case PhaseTalking:
		c.res.Save = true
	case PhaseAnswered:
		for _, a := range slices.Clone(c.Pending) {
			if a.Response == nil {
				continue
			}
			if t := c.A.srv(a.Response.Tx); t != nil && t.accepted() {
				c.forget(func(o Action) bool { return o.To == a.To && o.Seq == a.Seq })
				c.do(a.To, a.Effect)
			}
		}
		c.setTimer(TimerAck, ackWait)
	default: // the BYE waits no longer
		c.acked(LegA, math.MaxUint32)
	}
}

// noAck ends a call whose caller never acknowledged the answer.
func (c *call) noAck(e NoAck) {
	for _, id := range c.legs() {
		l := c.leg(id)
		if t := l.srv(e.Tx); t == nil || !t.accepted() {
			continue
		}
		c.forget(func(a Action) bool { return a.Response != nil && a.Response.Tx == e.Tx })
		l.endSrv(e.Tx)
		c.res.Save = true
		if d := l.live(); d != nil && l.ByeDue {
			l.ByeDue = false
			c.bye(id, d)
		} else if c.Phase != PhaseEnded {
			c.become(PhaseTalking) // nothing is waited for any more
			c.hangUp("switch", "no-ack", e.At)
		}
		return
	}
}
