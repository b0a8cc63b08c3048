package codecore

import "strings"

// An INVITE that takes the place of a party (RFC 3891).
//
//	party   remaining party   switch          replacing one
//	|             |              | <---- INVITE Replaces |
//	|             | <- re-INVITE |                       |   with its offer
//	|             | 200 -------> | 200 ----------------> |   joined: it has the slot
//	| <------------------- BYE   |                       |
//
// So an attended transfer needs nothing of its own: the call that is transferred
// sends such an INVITE to the dialog that the transferor named, as to any other
// target. When that dialog is one of ours, the INVITE goes through the edge and
// back in by it, to the other call. Both calls keep their owner, their record and
// their CDR, and are bridged by a plain SIP leg; nothing of either is known to the
// other.

// LoopFlow is the edge's flow to itself. No address of a message makes it: who
// comes by it is a call of ours.
const LoopFlow = "loop"

// ours reports whether a dialog may be one of this cluster's, and its call: our
// tags are a token and a hash. The edge verifies it.
func (c *call) ours(d *Replaces) (id string, ok bool) {
	if d == nil {
		return "", false
	}
	token, hash, ok := strings.Cut(d.To, ".")
	return callOf(token), ok && len(token) == len(c.Token) && len(hash) == len(c.A.Tag)-len(c.Token)-1
}

// replace takes an INVITE with Replaces, by the rules of RFC 3891 3.
func (c *call) replace(e SIPRequest) {
	r, err := replacesIn(&e.Msg)
	if err != nil {
		c.refuse(e, 400, "replaces")
		return
	}
	var id LegID
	var d *Dialog
	for _, x := range c.legs() {
		if l := c.leg(x); l.Tag == r.To && l.CallID == r.CallID && l.dialog(r.From) != nil {
			id, d = x, l.dialog(r.From)
		}
	}
	unknown := unsupported(&e.Msg)
	_, ok := hopsOf(&e.Msg)
	offer, no := offered(&e.Msg, want{policy: e.SRTP, local: c.A.Media.Addr})
	switch {
	case d == nil:
		c.refuse(e, 481, "no-dialog")
		return
	case e.Flow != LoopFlow && e.Peer != c.peerOf(id):
		c.refuse(e, 403, "not-its-call")
		return
	case d.Gone || c.Phase == PhaseEnded || c.leg(id).Name != "":
		c.refuse(e, 603, "dialog-over")
		return
	case !d.Confirmed: // nobody is picked up while it rings: not yet
		c.refuse(e, 481, "early-dialog")
		return
	case r.Early:
		c.refuse(e, 486, "early-only")
		return
	case contactOf(&e.Msg) == "":
		c.refuse(e, 400, "no-contact")
		return
	case len(unknown) > 0:
		c.refuse(e, 420, "extension", Header{"Unsupported", strings.Join(unknown, ", ")})
		return
	case !ok:
		c.refuse(e, 483, "max-forwards")
		return
	case no != nil:
		c.refuse(e, no.status, no.cause, no.more...)
		return
	case offer == nil:
		c.refuse(e, 488, "no-offer")
		return
	}
	rest := other(id)
	far := c.leg(rest)
	to := far.live()
	if to == nil || c.Transfer != nil || far.open("INVITE") != nil || far.open("UPDATE") != nil || c.offering() || c.Phase != PhaseTalking || c.answerDue() {
		c.refuse(e, 500, "glare", Header{"Retry-After", "1"})
		return
	}
	name := c.more(id)
	if name == "" {
		c.refuse(e, 503, "legs-out")
		return
	}
	l := c.leg(name)
	from, theirs := tagOf(e.Msg.Get("From"))
	cseq, _ := cseqOf(&e.Msg)
	d = &Dialog{Tag: theirs, Target: contactOf(&e.Msg), Routes: e.Msg.All("Record-Route"), CSeq: cseq, Confirmed: true}
	l.Edge, l.Flow, l.CallID, l.Peer, l.CSeq = e.Edge, e.flow(e.Peer, d.Routes, d.Target), e.Msg.Get("Call-ID"), e.Peer, 0
	l.set(Terms{SRTP: e.SRTP})
	l.Local, _ = tagOf(e.Msg.Get("To"))
	l.Remote = from
	l.Dialogs = []Dialog{*d}
	c.hears(name, offer)
	l = c.leg(name)
	if e.Flow == LoopFlow {
		_, tag := tagOf(e.Msg.Get("From"))
		token, _, _ := strings.Cut(tag, ".")
		l.Peer = "call:" + callOf(token)
	}
	l.learn(&e.Msg)
	t := c.serve(name, e)
	c.Transfer = &Transfer{Slot: id, Leg: name, Replaces: true, To: userOf(uriOf(from))}
	far = c.leg(rest) // more may have moved the legs
	far.CSeq++
	c.ask(rest, far.live(), "INVITE", far.CSeq, t.Tx, c.offer(rest, *offer), sdpType)
}

// replacer is the leg that is to replace another; "-" when there is none.
func (c *call) replacer() LegID {
	if x := c.Transfer; x != nil && x.Replaces && !x.Joined && x.Leg != "" {
		return x.Leg
	}
	return "-" // no leg's name
}

// replaced takes what became of a replacing leg's INVITE.
func (c *call) replaced(tx string, e SIPResponse) {
	x := c.Transfer
	if x == nil || !x.Replaces || x.Joined || x.Leg == "" {
		return
	}
	l := c.leg(x.Leg)
	t := l.srv(tx)
	if t != nil && t.Status == 0 && c.Phase != PhaseEnded {
		return // asked once more (422)
	}
	if t == nil || !t.accepted() {
		l.Leaving = true
		for i := range l.Dialogs {
			l.Dialogs[i].Gone = true
		}
		c.targetLost(e.Msg.Status, e.At)
		return
	}
	c.join(x.Leg, e)
	x.Status = 200
	c.bridge()
}
