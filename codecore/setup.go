package codecore

import (
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
	c.Token, c.Seed = e.Token, e.Seed
	m := &e.Msg
	from, theirs := tagOf(m.Get("From"))
	to, _ := tagOf(m.Get("To"))
	cseq, _ := cseqOf(m)
	c.A = Leg{Edge: e.Edge, Flow: e.Flow, CallID: m.Get("Call-ID"), Tag: c.tag(LegA), Local: to, Remote: from}
	c.A.Dialogs = []Dialog{{Tag: theirs, Target: uriOf(m.Get("Contact")), Routes: m.All("Record-Route"), CSeq: cseq}}
	c.CDR = CDR{
		ID: callOf(e.Token), From: userOf(uriOf(from)), To: userOf(m.URI), FromPeer: e.Peer, Start: e.At,
	}
	if m.Method != "INVITE" {
		c.become(Over)
		c.refuse(e, 481, "no-dialog")
		c.res.Save = false
		return
	}
	t := c.serve(LegA, e)
	reject := func(status int, cause string, more ...Header) { c.reject(t, status, cause, e.At, more...) }
	if hops, err := strconv.Atoi(m.Get("Max-Forwards")); err == nil && hops <= 0 {
		reject(483, "max-forwards")
		return
	}
	if unknown := m.All("Require"); len(unknown) > 0 {
		reject(420, "extension", Header{"Unsupported", strings.Join(unknown, ", ")})
		return
	}
	if len(m.Body) == 0 {
		reject(488, "no-offer")
		return
	}
	if ct := m.Get("Content-Type"); !strings.HasPrefix(strings.ToLower(ct), "application/sdp") {
		reject(415, "content-type", Header{"Accept", "application/sdp"})
		return
	}
	_, sound, err := describe(m.Body)
	if err != nil {
		status, cause := statusOf(err)
		reject(status, cause)
		return
	}
	c.A.Offer = &sound
	if e.Plan == nil {
		reject(503, "no-dialplan", Header{"Retry-After", "5"})
		return
	}
	if c.Route, err = Route(e.Plan, e.Peer, c.CDR.To); err != nil {
		reject(404, "no-route")
		return
	}
	c.CDR.ToPeer = c.Route.Peer
	noAnswer, maxCall := e.Plan.limits()
	c.setRouting(e.Plan.Version, noAnswer, maxCall)
	c.note(m)
	c.B = Leg{
		Edge: e.Edge, CallID: c.callID(LegB), Tag: c.tag(LegB), CSeq: 1,
		Remote: "<sip:" + c.Route.Number + "@" + hostOf(c.Route.Target) + ">",
	}
	name, _, _ := cutName(from)
	c.B.Local = name // the URI needs our address: Allocated brings it
	c.B.Body = m.Body
	c.become(Routing)
	c.res.Allocate = []LegID{LegA, LegB}
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
	if c.Phase != Routing {
		return
	}
	t := c.A.open("INVITE")
	body := c.B.Body
	c.B.Body = nil
	if e.Reason != "" || len(e.Legs) < 2 {
		cause := e.Reason
		if cause == "" {
			cause = "media-away"
		}
		c.reject(t, 503, cause, c.now, Header{"Retry-After", "5"})
		return
	}
	for _, m := range e.Legs {
		c.leg(m.Leg).Media = m
	}
	c.Media = Media{Node: e.Node}
	c.B.Local += "<sip:" + escapeUser(c.CDR.From) + "@" + hostLiteral(c.B.Media.Addr) + ">"
	d, _, err := describe(body)
	if err != nil { // described a Step ago
		c.reject(t, 400, "sdp-malformed", c.now)
		return
	}
	c.become(Inviting)
	c.ask(LegB, nil, "INVITE", 1, t.Tx, c.tell(LegB, d), Header{"Content-Type", "application/sdp"})
}

func hostLiteral(ip string) string {
	if strings.Contains(ip, ":") {
		return "[" + ip + "]"
	}
	return ip
}

// escapeUser keeps what RFC 3261 allows in a user part; an empty one is anonymous.
func escapeUser(u string) string {
	if u == "" {
		return "anonymous"
	}
	return u
}

// calleeRinging passes a provisional response on. Without SDP it may be lost by
// anybody, so it is not saved.
func (c *call) calleeRinging(e SIPResponse) {
	t := c.A.open("INVITE")
	if t == nil || e.Msg.Status == 199 {
		return
	}
	if len(e.Msg.Body) == 0 {
		c.respond(LegA, t, e.Msg.Status, nil)
		return
	}
	d, sound, err := describe(e.Msg.Body)
	if err != nil { // a bad early answer is no reason to end the call
		c.respond(LegA, t, 180, nil)
		return
	}
	c.B.Sound = sound
	c.A.Sound = *c.A.Offer
	c.bridge()
	c.respond(LegA, t, e.Msg.Status, c.tell(LegA, d))
}

// calleeAnswered takes the 2xx to the INVITE: the ACK goes out at once, the
// answer to the caller with it.
func (c *call) calleeAnswered(e SIPResponse, t ClientTx) {
	d := c.confirm(e)
	c.ackIn(LegB, d, t.CSeq, false)
	srv := c.A.open("INVITE")
	if c.Phase != Inviting || srv == nil { // it crossed our CANCEL
		c.bye(LegB, d)
		return
	}
	desc, sound, err := describe(e.Msg.Body)
	if err != nil {
		c.bye(LegB, d)
		c.respond(LegA, srv, 500, nil, reason(500, "sdp-answer"))
		c.CDR.Cause = "sdp-answer"
		c.finish("failed", 500, "switch", e.At)
		return
	}
	c.B.Sound, c.A.Sound, c.A.Offer = sound, *c.A.Offer, nil
	c.A.Answers++
	c.B.Answers++
	c.A.Dialogs[0].Confirmed = true
	c.CDR.Answer, c.CDR.Code = e.At, 200
	c.become(Answered)
	c.bridge()
	c.respond(LegA, srv, 200, c.tell(LegA, desc))
}

// confirm makes the dialog that a 2xx to our INVITE sets up (RFC 3261 13.2.2.4).
func (c *call) confirm(e SIPResponse) *Dialog {
	_, tag := tagOf(e.Msg.Get("To"))
	routes := e.Msg.All("Record-Route")
	for i, j := 0, len(routes)-1; i < j; i, j = i+1, j-1 {
		routes[i], routes[j] = routes[j], routes[i]
	}
	target := uriOf(e.Msg.Get("Contact"))
	if target == "" {
		target = c.Route.Target
	}
	d := c.B.dialog(tag)
	if d == nil {
		c.B.Dialogs = append(c.B.Dialogs, Dialog{Tag: tag})
		d = &c.B.Dialogs[len(c.B.Dialogs)-1]
	}
	d.Target, d.Routes, d.Confirmed = target, routes, true
	return d
}

// ackIn acknowledges a 2xx (RFC 3261 13.2.2.4); again, when the 2xx came again
// and the edge that had the ACK is gone.
func (c *call) ackIn(leg LegID, d *Dialog, cseq uint32, again bool) {
	peers, pending, save := c.Peers, len(c.Pending), c.res.Save
	c.ask(leg, d, "ACK", cseq, "", nil)
	if again { // the same transaction, once and unsaved
		a := c.Pending[pending]
		c.Pending, c.Peers, c.res.Save = c.Pending[:pending], peers, save
		c.res.Actions[len(c.res.Actions)-1] = Action{To: a.To, Effect: a.Effect}
	}
}

// callerAcked ends the set-up.
func (c *call) callerAcked(leg LegID) {
	c.forget(func(a Action) bool {
		return a.Response != nil && a.Response.Msg.Method == "INVITE" && a.Response.Msg.Status/100 == 2 && c.leg(leg).srv(a.Response.Tx) != nil
	})
	l := c.leg(leg)
	for _, t := range l.Srv {
		if t.Method == "INVITE" && t.Last != nil {
			l.endSrv(t.Tx)
			break
		}
	}
	if d := l.live(); l.ByeDue && d != nil {
		l.ByeDue = false
		c.bye(leg, d)
		return
	}
	if c.Phase == Answered {
		c.become(Talking)
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
		if d := l.live(); d != nil && l.ByeDue {
			l.ByeDue = false
			c.bye(id, d)
		} else if c.Phase != Over {
			c.hangUp("switch", "no-ack", e.At)
		}
		return
	}
}
