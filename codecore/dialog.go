package codecore

import (
	"slices"
	"strings"
)

// inDialog takes a request inside a dialog of the leg (RFC 3261 12.2.2).
func (c *call) inDialog(leg LegID, e SIPRequest) {
	l := c.leg(leg)
	_, tag := tagOf(e.Msg.Get("From"))
	d := l.dialog(tag)
	cseq, _ := cseqOf(&e.Msg)
	if e.Msg.Method == "ACK" {
		c.lateAnswer(leg, cseq, e.Msg.Body)
		c.acked(leg, cseq)
		return
	}
	switch {
	case cseq == d.CSeq && cseq != 0 && e.Msg.Method == "INVITE":
		return // again, late: it has had its answer, and the ACK or the BYE that follows
	case d.Gone && e.Msg.Method == "BYE" && l.byeOut(d):
		// It crosses ours: both are right (RFC 3261 15.1.2).
		c.respond(leg, c.serve(leg, e), 200, nil)
		return
	case leg != LegA && !d.Confirmed && e.Msg.Method == "BYE": // a callee must not (RFC 3261 15)
		c.refuse(e, 481, "early-dialog")
		return
	case d.Gone || c.Phase == PhaseEnded && e.Msg.Method != "BYE":
		c.refuse(e, 481, "no-dialog")
		return
	case l.Name != "" && e.Msg.Method != "BYE" && e.Msg.Method != "OPTIONS": // nobody is across
		c.refuse(e, 500, "aside", Header{"Retry-After", "1"})
		return
	case cseq <= d.CSeq && d.CSeq != 0: // its first may be 0 (RFC 3261 8.1.1.5)
		c.refuse(e, 500, "cseq", Header{"Retry-After", "1"})
		return
	case l.busy() && e.Msg.Method != "BYE":
		c.refuse(e, 500, "too-many", Header{"Retry-After", "1"})
		return
	}
	d.CSeq = cseq
	switch {
	case leg == LegA:
		target := d.Target
		if at := contactOf(&e.Msg); at != "" && (e.Msg.Method == "INVITE" || e.Msg.Method == "UPDATE") {
			target = at
		}
		l.Edge, l.Flow = e.Edge, e.flow(c.peerOf(leg), d.Routes, target)
	case l.Flow != "": // a phone behind NAT may come by another flow
		l.Edge, l.Flow = e.Edge, e.Flow
	}
	switch e.Msg.Method {
	case "BYE":
		c.byeFrom(leg, d, e)
	case "INVITE":
		c.reinvite(leg, d, e)
	case "UPDATE":
		c.update(leg, d, e)
	case "PRACK":
		c.acknowledged(leg, e)
	case "INFO":
		c.pass(leg, e)
	case "REFER":
		c.refer(leg, d, e)
	case "OPTIONS":
		t := c.serve(leg, e)
		c.respond(leg, t, 200, nil, Header{"Allow", allowed}, Header{"Accept", "application/sdp"}, Header{"Supported", supported})
	default:
		t := c.serve(leg, e)
		c.respond(leg, t, 405, nil, Header{"Allow", allowed}, c.reason(405, "method"))
	}
}

// byeOut reports whether our BYE in d has no answer yet.
func (l *Leg) byeOut(d *Dialog) bool {
	return slices.ContainsFunc(l.Cli, func(t ClientTx) bool { return t.Method == "BYE" && t.Tag == d.Tag })
}

// pass hands a request over to the other party, body and all.
func (c *call) pass(leg LegID, e SIPRequest) {
	far := c.leg(other(leg))
	d := far.live()
	t := c.serve(leg, e)
	hops, ok := hopsOf(&e.Msg)
	unknown := unsupported(&e.Msg)
	switch {
	case !ok:
		c.respond(leg, t, 483, nil, c.reason(483, "max-forwards"))
		return
	case len(unknown) > 0:
		c.respond(leg, t, 420, nil, Header{"Unsupported", strings.Join(unknown, ", ")}, c.reason(420, "extension"))
		return
	case c.service() != "":
		c.respond(leg, t, 200, nil) // heard
		return
	case d == nil: // not confirmed yet: 481 would end the caller's dialog
		c.respond(leg, t, 500, nil, Header{"Retry-After", "1"}, c.reason(500, "no-peer-dialog"))
		return
	}
	more := []Header{maxForwards(hops)}
	for _, h := range e.Msg.Headers {
		switch strings.ToLower(h.Name) {
		case "content-type", "info-package", "content-disposition":
			more = append(more, h)
		}
	}
	far.CSeq++
	c.ask(other(leg), d, e.Msg.Method, far.CSeq, t.Tx, e.Msg.Body, more...)
}

// reinvite passes an offer on to the other party (hold, resume, new address).
// Two at once are glare: 491; a second one of the same party comes too early
// (RFC 3261 14.2).
func (c *call) reinvite(leg LegID, own *Dialog, e SIPRequest) {
	l, far := c.leg(leg), c.leg(other(leg))
	d := far.live()
	before := l.open("INVITE") != nil
	if !before {
		cseq, _ := cseqOf(&e.Msg)
		c.acked(leg, cseq-1) // it would not ask again without having acknowledged
	}
	glare := far.open("INVITE") != nil || l.open("UPDATE") != nil || far.open("UPDATE") != nil || c.offering() || c.Phase == PhaseAnswered || c.answerDue()
	t := c.serve(leg, e)
	hops, ok := hopsOf(&e.Msg)
	unknown := unsupported(&e.Msg)
	switch {
	case c.Phase == PhaseEnded: // by the ACK that did not come, and owed an answer
		c.respond(leg, t, 481, nil, c.reason(481, "no-dialog"))
		return
	case before:
		c.respond(leg, t, 500, nil, c.retryAfter(leg), c.reason(500, "invite-in-progress"))
		return
	case glare:
		c.respond(leg, t, 491, nil, c.reason(491, "glare"))
		return
	case !ok:
		c.respond(leg, t, 483, nil, c.reason(483, "max-forwards"))
		return
	case len(unknown) > 0:
		c.respond(leg, t, 420, nil, Header{"Unsupported", strings.Join(unknown, ", ")}, c.reason(420, "extension"))
		return
	case d == nil && c.Transfer != nil: // the one who transferred it has gone already
		c.respond(leg, t, 491, nil, c.reason(491, "transfer-under-way"))
		return
	case d == nil && c.service() == "":
		c.respond(leg, t, 481, nil, c.reason(481, "no-peer-dialog"))
		return
	}
	offer, no := offered(&e.Msg, l.offers())
	if no == nil && offer != nil && offer.sound.Fax && (l.Sound.secure() != nil || far.Sound.secure() != nil) {
		no = &refusal{488, "srtp-no-fax", nil} // UDPTL has no protection that would go through us
	}
	if no == nil {
		no = c.sessionTerms(leg, t, &e.Msg, 0, defaultMinSE)
	}
	if no != nil {
		c.respond(leg, t, no.status, nil, append(no.more, c.reason(no.status, no.cause))...)
		return
	}
	if c.service() != "" {
		c.servedAgain(own, t, &e.Msg, offer)
		return
	}
	more := []Header{maxForwards(hops)}
	var body []byte
	if l.Offer = nil; offer != nil {
		c.hears(leg, offer)
		body, more = c.offer(other(leg), *offer), append(more, sdpType)
	}
	l.learn(&e.Msg)
	if target := contactOf(&e.Msg); target != "" { // target refresh (RFC 3261 12.2.2)
		own.Target = target
	}
	far.CSeq++
	c.ask(other(leg), d, "INVITE", far.CSeq, t.Tx, body, more...)
}

// response takes a response to a request of ours.
func (c *call) response(e SIPResponse) {
	for _, id := range c.legs() {
		l := c.leg(id)
		t := l.cli(e.Branch, e.Msg.Method)
		if t == nil {
			continue
		}
		tx := *t
		if e.Msg.Status < 200 {
			if c.isTarget(id) && tx.Method == "INVITE" {
				c.targetRings(e.Msg.Status)
			} else if id != LegA && tx.Method == "INVITE" && tx.Tag == "" && c.Phase == PhaseInviting {
				c.calleeRinging(id, tx, e)
			}
			return
		}
		if c.challenged(id, tx, e) || c.elsewhere(id, tx, e.Failed) {
			return
		}
		c.close(l, tx)
		c.final(id, tx, e)
		return
	}
	if e.Msg.Method == "INVITE" && e.Msg.Status/100 == 2 {
		c.late2xx(e)
	}
	// Any other late response: the transaction is over already.
}

// close ends a transaction of ours. A CANCEL shares its INVITE's branch and is
// over with it, answered or not.
func (c *call) close(l *Leg, t ClientTx) {
	over := func(method string) bool {
		return method == t.Method || t.Method == "INVITE" && method == "CANCEL"
	}
	for _, a := range c.Pending {
		if a.Request != nil && a.Request.Branch == t.Branch && a.Request.Msg.Method == t.Method {
			c.closed = a.Request
		}
	}
	l.Cli = without(l.Cli, func(o ClientTx) bool { return o.Branch == t.Branch && over(o.Method) })
	c.forget(func(a Action) bool {
		if a.Request == nil || a.Request.Branch != t.Branch || !over(a.Request.Msg.Method) {
			return false
		}
		if a.Request.Msg.Method == "INVITE" && t.Tag == "" {
			c.sent = a.Request // another target may get its like
		}
		return true
	})
	c.res.Save = true
}

// final takes the final response to a transaction of ours on the leg.
func (c *call) final(leg LegID, t ClientTx, e SIPResponse) {
	switch {
	case t.Method == "INVITE" && t.Tag == "" && c.plainly(leg, t, e):
	case t.Method == "INVITE" && t.Tag == "" && c.isTarget(leg):
		c.targetSaid(leg, t, e)
	case t.Method == "NOTIFY":
		c.notified(e.Msg.Status)
	case t.For == "" && t.Tag != "" && (t.Method == "INVITE" || t.Method == "UPDATE"):
		c.renewed(leg, t, e)
	case t.Method == "INVITE" && t.Tag == "":
		switch {
		case e.Msg.Status < 300:
			c.calleeAnswered(leg, e, t)
		case c.Phase == PhaseInviting && c.longer(leg, t, e):
		default:
			c.calleeFailed(leg, e)
		}
	case t.Method == "INVITE", t.Method == "UPDATE" && t.For != "":
		c.reinvited(leg, t, e)
	case t.For != "":
		c.passBack(leg, t, e)
	}
	// A BYE or CANCEL of ours is over, whatever the answer.
}

// reinvited passes the answer to a re-INVITE back, and brings the media to it.
func (c *call) reinvited(leg LegID, t ClientTx, e SIPResponse) {
	from := c.across(leg)
	if x := c.Transfer; x != nil && x.Replaces && x.Leg != "" && c.leg(x.Leg).srv(t.For) != nil {
		from = x.Leg
	}
	asker, asked := c.leg(from), c.leg(leg)
	srv := asker.srv(t.For)
	if from == c.replacer() {
		defer c.replaced(t.For, e)
	}
	if e.Msg.Status < 300 {
		if d := asked.dialog(t.Tag); d != nil {
			if target := contactOf(&e.Msg); target != "" {
				d.Target = target
			}
			asked.learn(&e.Msg)
			if c.Phase != PhaseEnded {
				c.sessionAgreed(leg, &e.Msg)
			}
			switch {
			case t.Method == "UPDATE":
			case !t.Bare:
				c.ask(leg, d, "ACK", t.CSeq, "", nil)
			case srv != nil && srv.Status == 0 && c.Phase != PhaseEnded && c.offersLate(leg, e, t, srv):
				return
			default:
				c.ackLost(leg, d, t, e)
			}
		}
	}
	if c.remainingTold(leg, t, e) || srv == nil || srv.Status != 0 || c.Phase == PhaseEnded {
		return
	}
	if c.longer(leg, t, e) {
		return
	}
	offer := asker.Offer
	asker.Offer = nil
	switch {
	case e.Msg.Status >= 300:
		status := mappedInside(e.Msg.Status)
		c.respond(from, srv, status, nil, c.passedOn(status, c.failure(e))...)
		if gone(e.Msg.Status) {
			c.lost(leg, e)
		}
	case offer == nil:
		c.respond(from, srv, 500, nil, c.reason(500, "sdp-offer"))
	default:
		s, err := c.answered(leg, e.Msg.Body)
		if err == nil && s.sound.Fax != offer.Fax {
			err = ErrMismatch
		}
		if err != nil {
			status, cause := badAnswer(err)
			c.respond(from, srv, status, nil, c.reason(status, cause))
			c.renew(leg) // it has taken the offer: back to what was
			return
		}
		asker.Sound, asked.Sound = *offer, s.sound
		asker.Answers++
		asked.Answers++
		c.bridge()
		c.respond(from, srv, 200, c.answer(from, s, offer))
	}
}

// passBack returns the answer to a request that was passed on.
func (c *call) passBack(leg LegID, t ClientTx, e SIPResponse) {
	srv := c.leg(c.across(leg)).srv(t.For)
	if srv == nil || srv.Status != 0 || c.Phase == PhaseEnded {
		return
	}
	status := mappedInside(e.Msg.Status)
	var why []Header
	if status >= 300 {
		why = c.passedOn(status, c.failure(e))
	}
	c.respond(c.across(leg), srv, status, nil, why...)
	if gone(e.Msg.Status) {
		c.lost(leg, e)
	}
}

// gone reports whether a status ends the dialog (RFC 3261 12.2.1.2).
func gone(status int) bool { return status == 408 || status == 481 }

// lost ends the call when a leg's dialog is gone at the far end. One that is
// only silent may still talk: it gets a BYE (RFC 3261 12.2.1.2).
func (c *call) lost(leg LegID, e SIPResponse) {
	if e.Msg.Status == 481 {
		for i := range c.leg(leg).Dialogs {
			c.leg(leg).Dialogs[i].Gone = true
		}
	}
	c.hangUp(string(leg), "dialog-lost", e.At)
}

// late2xx takes a 2xx to the INVITE beside or after the first: a retransmission
// whose ACK nobody has, another fork's answer, or one that crossed the end.
func (c *call) late2xx(e SIPResponse) {
	_, tag := tagOf(e.Msg.Get("To"))
	cseq, _ := cseqOf(&e.Msg)
	for _, id := range c.legs() {
		l := c.leg(id)
		if d := l.dialog(tag); d != nil && l.CallID == e.Msg.Get("Call-ID") && d.Confirmed {
			if l.AckDue == cseq && d == l.live() {
				return // its ACK waits for the answer
			}
			// The same transaction again: not numbered, not saved.
			c.lossy(edgeOf(l.Edge), Effect{Request: c.compose(id, d, "ACK", cseq, nil)})
			return
		}
	}
	for _, id := range c.legs() {
		if !c.tried(id, cseq, e.Branch) {
			continue
		}
		l := c.leg(id)
		before, avoid := slices.Clone(l.Dialogs), c.Avoid
		if d := c.confirm(id, e); d != nil {
			c.ask(id, d, "ACK", cseq, "", nil)
			c.bye(id, d)
		}
		if c.trying(id) { // of an attempt that was given up: the one in force is not touched
			c.Avoid = avoid
			for _, d := range before {
				if l.dialog(d.Tag) == nil {
					l.Dialogs = append(l.Dialogs, d)
				}
			}
		}
		return
	}
}
