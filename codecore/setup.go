package codecore

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// Setting a call up: from the INVITE to the caller's ACK.
//
//	a            switch            b
//	| INVITE ---> |                |   Routing: route, allocate media
//	|             | INVITE ------> |   Inviting
//	| <--- 180/183| <----- 180/183 |
//	| <------ 200 | <-------- 200  |   Answered
//	|             | ACK ---------> |
//	| ACK ------> |                |   Talking

// begin takes the INVITE that makes the call. Every refusal is a saved decision
// with its CDR: a short call.
func (c *call) begin(e SIPRequest) {
	m := &e.Msg
	if m.Method != "INVITE" {
		c.refuse(e, 481, "no-dialog")
		return
	}
	c.Token, c.Seed = e.Token, e.Seed
	from, theirs := tagOf(m.Get("From"))
	to, _ := tagOf(m.Get("To"))
	cseq, _ := cseqOf(m)
	c.A = Leg{Edge: e.Edge, Flow: e.Flow, CallID: m.Get("Call-ID"), Tag: c.tag(LegA), Local: to, Remote: from}
	c.A.Dialogs = []Dialog{{Tag: theirs, Target: contactOf(m), Routes: m.All("Record-Route"), CSeq: cseq}}
	c.CDR = CDR{
		ID: callOf(e.Token), From: userOf(uriOf(from)), To: userOf(m.URI), FromPeer: e.Peer, Start: e.At,
	}
	t := c.serve(LegA, e)
	reject := func(status int, cause string, more ...Header) { c.reject(t, status, cause, e.At, more...) }
	if _, ok := hopsOf(m); !ok {
		reject(483, "max-forwards")
		return
	}
	if unknown := m.All("Require"); len(unknown) > 0 {
		reject(420, "extension", Header{"Unsupported", strings.Join(unknown, ", ")})
		return
	}
	offer, no := offered(m)
	if no != nil {
		reject(no.status, no.cause, no.more...)
		return
	}
	if e.Plan == nil {
		reject(503, "no-dialplan")
		return
	}
	var err error
	if c.Route, err = Route(e.Plan, e.Peer, c.CDR.To); err != nil {
		reject(404, "no-route")
		return
	}
	c.A.Offer, c.A.Lines = &offer.sound, offer.lines
	c.CDR.ToPeer = c.Route.Peer
	noAnswer, maxCall := e.Plan.limits()
	c.setRouting(e.Plan.Version, noAnswer, maxCall)
	c.note(m)
	c.B = Leg{
		Edge: e.Edge, CallID: c.callID(LegB), Tag: c.tag(LegB), CSeq: 1,
		Remote: "<" + address(c.Route.Number, hostOf(c.Route.Target)) + ">",
	}
	c.invite = m
	c.become(PhaseRouting)
	c.res.Allocate = []LegID{LegA, LegB}
}

// refusal is the answer to a request that cannot be granted.
type refusal struct {
	status int
	cause  string
	more   []Header
}

// offered reads the offer of an INVITE, or says how it is refused.
func offered(m *Message) (said, *refusal) {
	if len(m.Body) == 0 {
		return said{}, &refusal{488, "no-offer", nil}
	}
	if ct := strings.ToLower(m.Get("Content-Type")); !strings.HasPrefix(ct, "application/sdp") {
		return said{}, &refusal{415, "content-type", []Header{{"Accept", "application/sdp"}}}
	}
	s, err := describe(m.Body)
	if err != nil {
		status, cause := statusOf(err)
		return said{}, &refusal{status, cause, nil}
	}
	return s, nil
}

// address is the SIP URI of a number at a host; without one, of the host.
func address(number, host string) string {
	if number == "" {
		return "sip:" + host
	}
	return "sip:" + escapeUser(number) + "@" + host
}

// callOf is the call id in a token: its first 24 digits.
func callOf(token string) string {
	if len(token) > 24 {
		return token[:24]
	}
	return token
}

// reject ends a call that never was.
func (c *call) reject(t *ServerTx, status int, cause string, at time.Time, more ...Header) {
	more = append(more, reason(status, cause))
	c.respond(LegA, t, status, nil, more...)
	c.CDR.Cause = cause
	c.finish("failed", status, "switch", at)
}

// allocated goes on with the INVITE once there are ports.
func (c *call) allocated(e Allocated) {
	if c.Phase != PhaseRouting {
		return
	}
	t, m := c.A.open("INVITE"), c.invite
	c.invite = nil
	for _, end := range e.Legs {
		if end.Leg == LegA || end.Leg == LegB {
			c.leg(end.Leg).Media = end
		}
	}
	if e.Reason != "" || c.A.Media.Port == 0 || c.B.Media.Port == 0 {
		cause := e.Reason
		if cause == "" {
			cause = "media-away"
		}
		c.reject(t, 503, cause, c.now)
		return
	}
	c.Media = Media{Node: e.Node}
	from, _ := tagOf(m.Get("From"))
	name, _, _ := cutName(from)
	user := c.CDR.From
	if user == "" {
		user = "anonymous"
	}
	c.B.Local = strings.TrimSpace(name + " <" + address(user, hostLiteral(c.B.Media.Addr)) + ">")
	s, err := describe(m.Body)
	if err != nil { // described a Step ago
		c.reject(t, 400, "sdp-malformed", c.now)
		return
	}
	hops, _ := hopsOf(m)
	c.become(PhaseInviting)
	c.ask(LegB, nil, "INVITE", 1, t.Tx, c.offer(LegB, s), maxForwards(hops), sdpType)
}

var sdpType = Header{"Content-Type", "application/sdp"}

func maxForwards(hops int) Header { return Header{"Max-Forwards", strconv.Itoa(hops)} }

func hostLiteral(ip string) string {
	if strings.Contains(ip, ":") {
		return "[" + ip + "]"
	}
	return ip
}

// calleeRinging passes a provisional response on. Without SDP it may be lost by
// anybody, so it is not saved.
func (c *call) calleeRinging(e SIPResponse) {
	t := c.A.open("INVITE")
	if t == nil || c.A.Offer == nil || e.Msg.Status == 199 {
		return
	}
	if len(e.Msg.Body) == 0 {
		c.respond(LegA, t, e.Msg.Status, nil)
		return
	}
	s, err := c.answered(LegB, e.Msg.Body)
	if err != nil { // a bad early answer is no reason to end the call
		c.respond(LegA, t, 180, nil)
		return
	}
	_, tag := tagOf(e.Msg.Get("To"))
	c.Early = &Early{tag, e.Msg.Body}
	c.B.Sound, c.A.Sound = s.sound, *c.A.Offer
	c.bridge()
	c.respond(LegA, t, e.Msg.Status, c.answer(LegA, s, c.A.Offer))
}

// answered reads a party's answer to our offer.
func (c *call) answered(leg LegID, body []byte) (said, error) {
	s, err := describe(body)
	if err != nil {
		return s, err
	}
	return s, s.answers(c.leg(leg).Lines)
}

// calleeAnswered takes the 2xx to the INVITE: the ACK goes out at once, the
// answer to the caller with it.
func (c *call) calleeAnswered(e SIPResponse, t ClientTx) {
	d := c.confirm(e)
	if d == nil {
		return
	}
	c.ask(LegB, d, "ACK", t.CSeq, "", nil)
	srv := c.A.open("INVITE")
	if c.Phase != PhaseInviting || srv == nil || c.A.Offer == nil { // it crossed our CANCEL
		c.bye(LegB, d)
		return
	}
	body := e.Msg.Body
	if len(body) == 0 && c.Early != nil && c.Early.Tag == d.Tag {
		body = c.Early.SDP
	}
	s, err := c.answered(LegB, body)
	if err != nil {
		status, cause := badAnswer(err)
		c.CDR.Cause = cause
		c.bye(LegB, d)
		c.respond(LegA, srv, status, nil, reason(status, cause))
		c.finish("failed", status, "switch", e.At)
		return
	}
	offer := c.A.Offer
	c.B.Sound, c.A.Sound, c.A.Offer, c.Early = s.sound, *offer, nil, nil
	c.A.Answers++
	c.B.Answers++
	c.A.Dialogs[0].Confirmed = true
	c.CDR.Answer, c.CDR.Code = e.At, 200
	c.become(PhaseAnswered)
	c.bridge()
	c.respond(LegA, srv, 200, c.answer(LegA, s, offer))
}

// badAnswer is what the one who offered is told of an answer that cannot be used.
func badAnswer(err error) (status int, cause string) {
	if status, cause = statusOf(err); status == 400 {
		return 500, "sdp-answer" // no fault of his
	}
	return status, cause
}

// confirm makes the dialog that a 2xx to our INVITE sets up (RFC 3261 13.2.2.4).
func (c *call) confirm(e SIPResponse) *Dialog {
	_, tag := tagOf(e.Msg.Get("To"))
	routes := e.Msg.All("Record-Route")
	for i, j := 0, len(routes)-1; i < j; i, j = i+1, j-1 {
		routes[i], routes[j] = routes[j], routes[i]
	}
	target := contactOf(&e.Msg)
	if target == "" {
		target = c.Route.Target
	}
	d := c.B.dialog(tag)
	if d == nil {
		if len(c.B.Dialogs) >= maxDialogs {
			return nil
		}
		c.B.Dialogs = append(c.B.Dialogs, Dialog{Tag: tag})
		d = &c.B.Dialogs[len(c.B.Dialogs)-1]
	}
	d.Target, d.Routes, d.Confirmed = target, routes, true
	return d
}

// acked takes an ACK to a 2xx, or what implies it: a later request of the party.
// INVITEs up to number cseq are done with.
func (c *call) acked(leg LegID, cseq uint32) {
	l := c.leg(leg)
	for _, t := range slices.Clone(l.Srv) {
		if t.accepted() && t.CSeq <= cseq {
			l.endSrv(t.Tx)
			c.forget(func(a Action) bool { return a.Response != nil && a.Response.Tx == t.Tx })
		}
	}
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
		c.res.Save = false // a successor learns it from the dialog's next message, or needs not
	}
}

// noAck ends a call whose caller never acknowledged the answer.
func (c *call) noAck(e NoAck) {
	for _, id := range []LegID{LegA, LegB} {
		l := c.leg(id)
		if l.srv(e.Tx) == nil {
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
