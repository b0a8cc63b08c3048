package codecore

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// cancel takes the caller's CANCEL of its INVITE (RFC 3261 9.2). The edge has
// answered the CANCEL itself, once this is saved. A final response that is out
// already wins.
func (c *call) cancel(leg LegID, t *ServerTx, e SIPRequest) {
	if t.Method != "INVITE" || t.Status != 0 {
		return
	}
	if leg == LegA && (c.Phase == PhaseInviting || c.Phase == PhaseRouting) {
		c.respond(LegA, t, 487, nil)
		c.why = reasons(&e.Msg)
		defer func() { c.why = nil }()
		c.cancelCallees()
		c.finish("cancelled", 487, "a", e.At)
		return
	}
	// A re-INVITE: the other party's answer decides, 487 or what crossed.
	far := c.leg(c.across(leg))
	for _, out := range far.Cli {
		if d := far.dialog(out.Tag); out.Method == "INVITE" && out.For == t.Tx && d != nil && far.cli(out.Branch, "CANCEL") == nil {
			c.ask(c.across(leg), d, "CANCEL", out.CSeq, "", nil)
			return
		}
	}
}

// cancelOf cancels the INVITE that calls the leg's party if it has no final
// response.
func (c *call) cancelOf(leg LegID, why ...Header) {
	l := c.leg(leg)
	for _, t := range l.Cli {
		if t.Method == "INVITE" && t.Tag == "" && l.cli(t.Branch, "CANCEL") == nil {
			c.ask(leg, nil, "CANCEL", t.CSeq, "", nil, slices.Concat(why, c.why)...)
			return
		}
	}
}

// cancelCallees cancels every INVITE that calls somebody.
func (c *call) cancelCallees() {
	if d := c.B.live(); d != nil && !c.AnswerAt.IsZero() { // answered, while the caller's PRACK is awaited
		c.bye(LegB, d)
	}
	c.cancelOf(LegB)
	c.leaveAll()
}

// leaveAll ends every further leg.
func (c *call) leaveAll(why ...Header) {
	for i := range c.More {
		if !c.More[i].Leaving {
			c.leave(c.More[i].Name, why...)
		}
	}
}

// calleeFailed takes a callee's refusal.
func (c *call) calleeFailed(leg LegID, e SIPResponse) {
	if c.Phase != PhaseInviting || c.A.open("INVITE") == nil || c.leg(leg).Leaving {
		c.leg(leg).Leaving = leg != LegB || c.Phase == PhaseInviting
		return // it was cancelled: 487 is the end of it
	}
	if e.Msg.Status >= 400 || !c.redirected(leg, e) {
		c.branchFailed(leg, c.failure(e), e.At)
	}
}

// timeout takes the end of a transaction of ours that nobody answered.
func (c *call) timeout(e SIPTimeout) {
	for _, id := range c.legs() {
		l := c.leg(id)
		for t := l.cli(e.Branch, ""); t != nil; t = l.cli(e.Branch, "") {
			tx := *t
			if c.elsewhere(id, tx, e.Failed) {
				continue
			}
			c.close(l, tx)
			c.cause = e.cause()
			c.final(id, tx, SIPResponse{Branch: e.Branch, At: e.At, Msg: Message{Method: tx.Method, Status: e.Code}})
			c.cause = ""
		}
	}
}

// cause is the reason code of a request that came to nothing.
func (e SIPTimeout) cause() string {
	switch {
	case e.Reason != "":
		return e.Reason
	case e.Code == 408:
		return "no-response"
	case e.Code == 480:
		return "no-flow"
	case e.Code == 503:
		return "unreachable"
	}
	return "" // 407: as if the trunk had said it
}

// failure is why a party refuses, or was not heard.
func (c *call) failure(e SIPResponse) Failure {
	return Failure{Status: e.Msg.Status, Cause: cmp.Or(c.cause, "callee"), Said: reasons(&e.Msg)}
}

// passedOn is the Reason of a failure for the party that asked, which gets the
// status as: a refusal in the other's own words, and its status if that is not as.
func (c *call) passedOn(as int, f Failure) []Header {
	if f.Cause == "callee" && f.Status == as {
		return f.Said
	}
	return append([]Header{c.reason(f.Status, f.Cause)}, f.Said...)
}

// fired takes a deadline that has come.
func (c *call) fired(e Fired) {
	for i, d := range c.Timers {
		if d.Timer == e.Timer {
			c.Timers = append(c.Timers[:i:i], c.Timers[i+1:]...)
			break
		}
	}
	kind, leg, _ := strings.Cut(string(e.Timer), "-")
	talking := c.Phase == PhaseAnswered || c.Phase == PhaseTalking
	switch kind += "-"; {
	case kind == refreshTimer && talking:
		c.refreshDue(LegID(leg))
	case kind == renewTimer && talking && c.leg(LegID(leg)) != nil:
		c.renew(LegID(leg))
	case kind == expireTimer && talking:
		c.hangUp("switch", "session-expired", c.now)
	case e.Timer == TimerNoAnswer && c.Phase == PhaseInviting:
		c.unanswered(480, "no-answer")
	case e.Timer == TimerExpires && c.Phase == PhaseInviting: // RFC 3261 13.3.1
		c.unanswered(487, "expired")
	case e.Timer == TimerTarget && c.Phase == PhaseInviting && c.A.open("INVITE") != nil:
		c.groupOver()
	case e.Timer == TimerMaxCall && (c.Phase == PhaseAnswered || c.Phase == PhaseTalking):
		c.hangUp("switch", "max-call", c.now)
	case e.Timer == TimerAck:
		c.ackFired()
	case e.Timer == TimerTransfer:
		c.transferFired()
	case e.Timer == TimerGiveUp && c.Phase == PhaseEnded:
		c.forget(func(a Action) bool { return a.To != receiverCDR })
		c.A.ByeDue, c.B.ByeDue, c.MediaDue = false, false, false
		c.A.Cli, c.B.Cli, c.More = nil, nil, nil
		c.res.Save = true
	}
}

// unanswered ends a call that has rung for too long.
func (c *call) unanswered(status int, cause string) {
	t := c.A.open("INVITE")
	if t == nil {
		return
	}
	c.cancelCallees()
	c.respond(LegA, t, status, nil, c.reason(status, cause))
	c.CDR.Cause = cause
	c.finish("no-answer", status, "switch", c.now)
}

// byeFrom takes a party's BYE.
func (c *call) byeFrom(leg LegID, d *Dialog, e SIPRequest) {
	l := c.leg(leg)
	first := l.live() == d
	d.Gone = true
	l.ByeDue = false
	c.respond(leg, c.serve(leg, e), 200, nil)
	if c.Phase == PhaseEnded || !first && leg == LegB || l.Name != "" || c.transferorLeft(leg) {
		return // it crossed ours, or is a fork's that lost
	}
	c.why = reasons(&e.Msg)
	defer func() { c.why = nil }()
	if c.Phase == PhaseInviting { // of the early dialog (RFC 3261 15)
		c.endLegs()
		c.cancelCallees()
		c.finish("cancelled", 487, string(leg), e.At)
		return
	}
	c.endLegs()
	c.finish("answered", 200, string(leg), e.At)
}

// hangUp ends the call on both sides, in whatever phase it is.
func (c *call) hangUp(by, cause string, at time.Time) {
	c.CDR.Cause = cause
	c.because(cause)
	switch c.Phase {
	case PhaseRouting, PhaseInviting:
		if t := c.A.open("INVITE"); t != nil {
			c.respond(LegA, t, 503, nil, c.reason(503, cause))
		}
		c.cancelCallees()
		c.finish("failed", 503, by, at)
	case PhaseAnswered, PhaseTalking:
		c.endLegs()
		c.finish("answered", 200, by, at)
	}
}

// endLegs sends the BYEs that are due. A caller whose ACK has not come gets its
// BYE after it (RFC 3261 15).
func (c *call) endLegs() {
	for _, id := range []LegID{LegA, LegB} {
		l := c.leg(id)
		c.refuseWaiting(id)
		if d := l.live(); d != nil {
			if id == LegA && c.Phase == PhaseAnswered {
				l.ByeDue = true
				continue
			}
			c.bye(id, d)
		}
	}
	c.leaveAll()
}

// refuseWaiting answers what a party still asks for when there is nobody to ask.
func (c *call) refuseWaiting(leg LegID) {
	l := c.leg(leg)
	for _, t := range slices.Clone(l.Srv) {
		if t.Status == 0 && t.Method != "BYE" {
			c.respond(leg, l.srv(t.Tx), 487, nil, c.reason(487, "dialog-over"))
		}
	}
}

func (c *call) bye(leg LegID, d *Dialog) {
	l := c.leg(leg)
	if l.AckDue != 0 && d == l.live() { // the 2xx has to have its ACK first
		c.ackRefusing(leg, d, l.AckDue, l.Offer)
	}
	d.Gone = true
	l.CSeq++
	var more []Header
	if c.CDR.Cause != "" {
		more = append(more, Header{"Reason", `switch;text="` + c.CDR.Cause + `"`})
	}
	more = append(more, c.why...)
	c.ask(leg, d, "BYE", l.CSeq, "", nil, more...)
}

// finish decides everything that is left: the CDR, the media, the phase.
func (c *call) finish(result string, code int, by string, at time.Time) {
	c.leaveAll()
	c.B.Leaving = false // it is in a slot, whatever became of it
	c.become(PhaseEnded)
	c.CDR.Result, c.CDR.Code, c.CDR.HungUpBy, c.CDR.End = result, code, by, at
	if !c.CDR.Answer.IsZero() {
		c.CDR.Seconds = max(0, at.Sub(c.CDR.Answer).Seconds())
	}
	if c.A.ByeDue { // its BYE waits for the ACK, but not for ever
		c.Timers = append(c.Timers, Deadline{TimerAck, c.now.Add(ackWait)})
	}
	c.forget(c.over) // nobody waits for the ACK to a 2xx any more
	cdr := c.CDR
	c.do(receiverCDR, Effect{CDR: &cdr})
}
