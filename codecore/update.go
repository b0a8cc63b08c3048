package codecore

import (
	"slices"
	"strconv"
	"strings"
)

// UPDATE (RFC 3311): an offer, or a new address or session interval, inside an
// early or a confirmed dialog. Without SDP it is answered here. An offer is passed
// on as UPDATE to a party whose Allow has it, else as a re-INVITE; a party that is
// still ringing and has no UPDATE is not asked: the offer is answered here if it
// keeps the codecs in use (a move, a hold), else with 488.

// learn notes what a party's message says of it.
func (l *Leg) learn(m *Message) {
	if len(m.All("Allow")) > 0 {
		l.Update = slices.ContainsFunc(options(m, "Allow"), func(s string) bool { return s == "update" })
	}
}

func (c *call) update(leg LegID, own *Dialog, e SIPRequest) {
	l, to := c.leg(leg), c.across(leg)
	far := c.leg(to)
	no := c.mayOffer(leg, own)
	t := c.serve(leg, e)
	hops, ok := hopsOf(&e.Msg)
	unknown := unsupported(&e.Msg)
	refuse := func(r *refusal) { c.respond(leg, t, r.status, nil, append(r.more, c.reason(r.status, r.cause))...) }
	switch {
	case !ok:
		refuse(&refusal{483, "max-forwards", nil})
		return
	case len(unknown) > 0:
		refuse(&refusal{420, "extension", []Header{{"Unsupported", strings.Join(unknown, ", ")}}})
		return
	case len(e.Msg.Body) > 0 && no != nil:
		refuse(no)
		return
	}
	offer, no := offered(&e.Msg, l.offers())
	if no != nil {
		refuse(no)
		return
	}
	if no = c.sessionTerms(leg, t, &e.Msg, 0, defaultMinSE); no != nil {
		refuse(no)
		return
	}
	if target := contactOf(&e.Msg); target != "" { // target refresh (RFC 3311 5.2)
		own.Target = target
	}
	l.learn(&e.Msg)
	if offer == nil {
		c.respond(leg, t, 200, nil)
		return
	}
	d := c.talking(to)
	method := "UPDATE"
	switch {
	case d == nil || !d.Confirmed && !far.Update:
		if body := c.answerHere(leg, offer); body != nil {
			c.respond(leg, t, 200, body)
			return
		}
		refuse(&refusal{488, "sdp-mismatch", nil})
		return
	case !far.Update:
		method = "INVITE"
	}
	c.hears(leg, offer)
	far.CSeq++
	c.ask(to, d, method, far.CSeq, t.Tx, c.offer(to, *offer), maxForwards(hops), sdpType)
}

// mayOffer reports why a party's UPDATE may not make an offer now (RFC 3311 5.2).
func (c *call) mayOffer(leg LegID, own *Dialog) *refusal {
	l, far := c.leg(leg), c.leg(c.across(leg))
	again := &refusal{500, "offer-in-progress", []Header{c.retryAfter(leg)}}
	inviting := c.Phase == PhaseInviting
	switch {
	case inviting && leg == LegA && !l.Agreed: // its first offer has no answer
		return again
	case inviting && leg == LegA && l.open("INVITE") != nil && l.open("INVITE").Unacked:
		return again
	case l.open("UPDATE") != nil, !inviting && l.open("INVITE") != nil:
		return again
	case inviting && leg != LegA && (!l.Agreed || c.Early == nil || c.Early.Tag != own.Tag || !c.A.Agreed):
		return &refusal{491, "glare", nil}
	case c.Phase == PhaseAnswered, !c.AnswerAt.IsZero(), c.answerDue(), c.offering():
		return &refusal{491, "glare", nil}
	case far.open("UPDATE") != nil, !inviting && far.open("INVITE") != nil:
		return &refusal{491, "glare", nil}
	}
	return nil
}

// retryAfter is 0 to 10 seconds (RFC 3261 14.2).
func (c *call) retryAfter(leg LegID) Header {
	l := c.leg(leg)
	return Header{"Retry-After", strconv.Itoa(c.between(0, 10, "retry-after", l.CSeq, len(l.Dialogs), c.Peers[edgeOf(l.Edge)].Event))}
}

// offering reports whether an offer of ours inside a dialog has no answer yet.
func (c *call) offering() bool {
	return slices.ContainsFunc(slices.Concat(c.A.Cli, c.B.Cli), func(t ClientTx) bool {
		return t.Tag != "" && t.Method == "INVITE" || t.Method == "UPDATE" && t.For != ""
	})
}

// answerHere answers an offer without asking the other party, which stays as it
// is: possible when it can be heard as it speaks now. nil when not.
func (c *call) answerHere(leg LegID, offer *said) []byte {
	far, ok := c.saidBy(c.across(leg))
	if !ok {
		return nil
	}
	for _, pt := range far.sound.Payloads {
		if !slices.Contains(offer.sound.Payloads, pt) {
			return nil
		}
	}
	l := c.leg(leg)
	c.protect(leg, offer)
	l.Sound, l.Lines = offer.sound, offer.lines
	l.Answers++
	c.bridge()
	return c.answer(leg, far, &offer.sound)
}
