package codecore

import (
	"slices"
	"strconv"
	"strings"
)

// inDialog takes a request inside a dialog of the leg (RFC 3261 12.2.2).
func (c *call) inDialog(leg LegID, e SIPRequest) {
	l := c.leg(leg)
	_, tag := tagOf(e.Msg.Get("From"))
	d := l.dialog(tag)
	cseq, _ := cseqOf(&e.Msg)
	if e.Msg.Method == "ACK" {
		c.callerAcked(leg)
		return
	}
	switch {
	case d.Gone || c.Phase == Over && e.Msg.Method != "BYE":
		c.refuse(e, 481, "no-dialog")
		return
	case cseq <= d.CSeq:
		c.refuse(e, 500, "cseq", Header{"Retry-After", "1"})
		return
	}
	d.CSeq = cseq
	switch e.Msg.Method {
	case "BYE":
		c.byeFrom(leg, d, e)
	case "INVITE":
		c.reinvite(leg, e)
	case "INFO":
		c.pass(leg, e)
	case "OPTIONS":
		t := c.serve(leg, e)
		c.respond(leg, t, 200, nil, Header{"Allow", allowed}, Header{"Accept", "application/sdp"})
	default:
		t := c.serve(leg, e)
		c.respond(leg, t, 405, nil, Header{"Allow", allowed}, reason(405, "method"))
	}
}

// pass hands a request over to the other party, body and all.
func (c *call) pass(leg LegID, e SIPRequest) {
	far := c.leg(other(leg))
	d := far.live()
	t := c.serve(leg, e)
	if d == nil {
		c.respond(leg, t, 481, nil, reason(481, "no-peer-dialog"))
		return
	}
	if hops, err := strconv.Atoi(e.Msg.Get("Max-Forwards")); err == nil && hops <= 0 {
		c.respond(leg, t, 483, nil, reason(483, "max-forwards"))
		return
	}
	var more []Header
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
// Two at once are glare: 491 (RFC 3261 14.2).
func (c *call) reinvite(leg LegID, e SIPRequest) {
	far := c.leg(other(leg))
	d := far.live()
	busy := c.A.open("INVITE") != nil || c.B.open("INVITE") != nil || c.asking("INVITE") || c.Phase == Answered
	t := c.serve(leg, e)
	switch {
	case busy:
		c.respond(leg, t, 491, nil, reason(491, "glare"))
		return
	case d == nil:
		c.respond(leg, t, 481, nil, reason(481, "no-peer-dialog"))
		return
	case len(e.Msg.Body) == 0:
		c.respond(leg, t, 488, nil, reason(488, "no-offer"))
		return
	}
	desc, sound, err := describe(e.Msg.Body)
	if err != nil {
		status, cause := statusOf(err)
		c.respond(leg, t, status, nil, reason(status, cause))
		return
	}
	c.leg(leg).Offer = &sound
	if target := uriOf(e.Msg.Get("Contact")); target != "" { // target refresh (RFC 3261 12.2.2)
		if own := c.leg(leg).live(); own != nil {
			own.Target = target
		}
	}
	far.CSeq++
	c.ask(other(leg), d, "INVITE", far.CSeq, t.Tx, c.tell(other(leg), desc), Header{"Content-Type", "application/sdp"})
}

// asking reports whether a request of ours of that method is out.
func (c *call) asking(method string) bool {
	return slices.ContainsFunc(slices.Concat(c.A.Cli, c.B.Cli), func(t ClientTx) bool { return t.Method == method })
}

// response takes a response to a request of ours.
func (c *call) response(e SIPResponse) {
	for _, id := range []LegID{LegA, LegB} {
		l := c.leg(id)
		t := l.cli(e.Branch, e.Msg.Method)
		if t == nil {
			continue
		}
		tx := *t
		if e.Msg.Status < 200 {
			if id == LegB && tx.Method == "INVITE" && tx.Tag == "" && c.Phase == Inviting {
				c.calleeRinging(e)
			}
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
	l.Cli = slices.DeleteFunc(l.Cli, func(o ClientTx) bool { return o.Branch == t.Branch && over(o.Method) })
	c.forget(func(a Action) bool {
		return a.Request != nil && a.Request.Branch == t.Branch && over(a.Request.Msg.Method)
	})
	c.res.Save = true
}

// final takes the final response to a transaction of ours on the leg.
func (c *call) final(leg LegID, t ClientTx, e SIPResponse) {
	switch {
	case leg == LegB && t.Method == "INVITE" && t.Tag == "":
		if e.Msg.Status < 300 {
			c.calleeAnswered(e, t)
		} else {
			c.calleeFailed(mapped(e.Msg.Status), e)
		}
	case t.Method == "INVITE":
		c.reinvited(leg, t, e)
	case t.For != "":
		c.passBack(leg, t, e)
	}
	// A BYE or CANCEL of ours is over, whatever the answer.
}

// reinvited passes the answer to a re-INVITE back, and brings the media to it.
func (c *call) reinvited(leg LegID, t ClientTx, e SIPResponse) {
	from := other(leg)
	asker, asked := c.leg(from), c.leg(leg)
	srv := asker.srv(t.For)
	if e.Msg.Status < 300 {
		d := asked.dialog(t.Tag)
		if target := uriOf(e.Msg.Get("Contact")); target != "" && d != nil {
			d.Target = target
		}
		if d != nil {
			c.ackIn(leg, d, t.CSeq, false)
		}
	}
	if srv == nil || c.Phase == Over {
		return
	}
	offer := asker.Offer
	asker.Offer = nil
	switch {
	case e.Msg.Status >= 300:
		c.respond(from, srv, e.Msg.Status, nil)
		if gone(e.Msg.Status) {
			c.lost(leg, e)
		}
	case offer == nil:
		c.respond(from, srv, 500, nil, reason(500, "no-offer"))
	default:
		desc, sound, err := describe(e.Msg.Body)
		if err != nil {
			c.respond(from, srv, 500, nil, reason(500, "sdp-answer"))
			return
		}
		asker.Sound, asked.Sound = *offer, sound
		asker.Answers++
		asked.Answers++
		c.bridge()
		c.respond(from, srv, 200, c.tell(from, desc))
	}
}

// passBack returns the answer to a request that was passed on.
func (c *call) passBack(leg LegID, t ClientTx, e SIPResponse) {
	srv := c.leg(other(leg)).srv(t.For)
	if srv == nil || c.Phase == Over {
		return
	}
	var more []Header
	if ct := e.Msg.Get("Content-Type"); ct != "" && len(e.Msg.Body) > 0 && len(e.Msg.Body) < maxSDP {
		more = append(more, Header{"Content-Type", ct})
	}
	c.respond(other(leg), srv, e.Msg.Status, nil, more...)
	if gone(e.Msg.Status) {
		c.lost(leg, e)
	}
}

// gone reports whether a status ends the dialog (RFC 3261 12.2.1.2).
func gone(status int) bool { return status == 408 || status == 481 }

// lost ends the call when a leg's dialog is gone at the far end.
func (c *call) lost(leg LegID, e SIPResponse) {
	for i := range c.leg(leg).Dialogs {
		c.leg(leg).Dialogs[i].Gone = true
	}
	c.hangUp(string(leg), "dialog-lost", e.At)
}

// late2xx takes a 2xx to the INVITE beside or after the first: a retransmission
// whose ACK nobody has, another fork's answer, or one that crossed the end.
func (c *call) late2xx(e SIPResponse) {
	_, tag := tagOf(e.Msg.Get("To"))
	cseq, _ := cseqOf(&e.Msg)
	for _, id := range []LegID{LegA, LegB} {
		if d := c.leg(id).dialog(tag); d != nil && c.leg(id).CallID == e.Msg.Get("Call-ID") && d.Confirmed {
			c.ackIn(id, d, cseq, true)
			return
		}
	}
	if e.Branch != c.branch(LegB, "INVITE", 1, "") {
		return
	}
	d := c.confirm(e)
	c.ackIn(LegB, d, cseq, false)
	c.bye(LegB, d)
}
