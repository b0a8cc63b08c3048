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
	d := Dialog{Tag: theirs, Target: contactOf(m), Routes: m.All("Record-Route"), CSeq: cseq}
	c.A = Leg{Edge: e.Edge, Flow: e.flow(e.Peer, d.Routes, d.Target), CallID: m.Get("Call-ID"), Tag: c.tag(LegA), Local: to, Remote: from}
	c.A.Dialogs = []Dialog{d}
	c.CDR = CDR{
		ID: callOf(e.Token), From: userOf(uriOf(from)), To: userOf(m.URI), FromPeer: e.Peer, Start: e.At,
	}
	c.A.set(Terms{SRTP: e.Plan.srtp(&e)})
	t := c.serve(LegA, e)
	reject := func(status int, cause string, more ...Header) { c.reject(t, status, cause, e.At, more...) }
	if _, ok := hopsOf(m); !ok {
		reject(483, "max-forwards")
		return
	}
	if m.Get("Replaces") != "" { // a dialog of ours it would have found
		reject(481, "no-dialog")
		return
	}
	if d.Target == "" && theirs != "" { // RFC 3261 8.1.1.8; of RFC 2543 there may be none
		reject(400, "no-contact")
		return
	}
	if unknown := unsupported(m); len(unknown) > 0 {
		reject(420, "extension", Header{"Unsupported", strings.Join(unknown, ", ")})
		return
	}
	offer, no := offered(m, c.A.offers())
	if no != nil {
		reject(no.status, no.cause, no.more...)
		return
	}
	if e.Plan == nil {
		reject(503, "no-dialplan")
		return
	}
	c.hear(&e)
	var err error
	if c.Route, c.places, err = e.Plan.route(e.Peer, c.CDR.To); err != nil {
		reject(404, "no-route")
		return
	}
	if cause := c.spare(&e); cause != "" {
		reject(503, cause)
		return
	}
	if offer != nil {
		c.hears(LegA, offer)
	}
	if offer == nil {
		p := e.Plan.peer(e.Peer)
		webrtc := p != nil && p.Media == MediaWebRTC || isWebSocket(contactOf(m), e.Flow)
		c.A.set(Terms{c.A.policy(), c.asks(LegA, webrtc, c.A.policy())})
	}
	c.CDR.ToPeer = c.Route.Peer
	if no := c.terms(t, &e); no != nil {
		reject(no.status, no.cause, no.more...)
		return
	}
	c.A.learn(m)
	noAnswer, maxCall := e.Plan.limits()
	c.setRouting(e.Plan.Version, noAnswer, maxCall)
	c.note(m)
	c.B = Leg{
		Edge: e.Edge, CallID: c.callID(LegB), Tag: c.tag(LegB), CSeq: 1,
		Remote: c.places[0].remote(),
	}
	c.invite = m
	c.become(PhaseRouting)
	c.settle()
}

// refusal is the answer to a request that cannot be granted.
type refusal struct {
	status int
	cause  string
	more   []Header
}

// offered reads the offer of an INVITE, or says how it is refused. Without a body
// there is none yet: the offer comes the other way (late.go).
func offered(m *Message, w want) (*said, *refusal) {
	if ct := strings.ToLower(m.Get("Content-Type")); len(m.Body) > 0 && !strings.HasPrefix(ct, "application/sdp") {
		return nil, &refusal{415, "content-type", []Header{{"Accept", "application/sdp"}}}
	}
	if !acceptsSDP(m) {
		return nil, &refusal{406, "accept", nil}
	}
	if len(m.Body) == 0 {
		return nil, nil
	}
	s, err := describe(m.Body, w)
	if err != nil {
		status, cause := statusOf(err)
		return nil, &refusal{status, cause, nil}
	}
	return &s, nil
}

// acceptsSDP tells whether the answer to an INVITE may be SDP: without an Accept
// it may, with an empty one nothing may (RFC 3261 20.1).
func acceptsSDP(m *Message) bool {
	all := m.All("Accept")
	for _, list := range all {
		for _, v := range strings.Split(list, ",") {
			kind, _, _ := strings.Cut(v, ";")
			switch strings.ToLower(strings.TrimSpace(kind)) {
			case "application/sdp", "application/*", "*/*":
				return true
			}
		}
	}
	return len(all) == 0
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
	more = append(more, c.reason(status, cause))
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
	if t == nil || m == nil || len(c.places) == 0 {
		return
	}
	c.invite = nil
	defer func() { c.offers, c.carry = nil, nil }()
	if len(m.Body) == 0 && len(c.places) > 1 { // one offer at most can be passed on before the answer
		for i := range c.offers {
			c.offers[i].Value = strings.TrimPrefix(c.offers[i].Value, extReliable+", ")
		}
		c.offers = without(c.offers, func(h Header) bool { return h.Value == extReliable })
	}
	for _, end := range e.Legs {
		if (end.Leg == LegA || end.Leg == LegB) && end.Port != 0 {
			c.leg(end.Leg).Media = end
		}
	}
	if e.Reason != "" || c.A.Media.Port == 0 || c.B.Media.Port == 0 && c.service() == "" {
		cause := e.Reason
		if cause == "" {
			cause = "media-away"
		}
		c.reject(t, 503, cause, c.now)
		return
	}
	c.Media = Media{Node: e.Node}
	if c.service() != "" {
		c.places = nil
		c.served(t, m, c.CDR.Start)
		return
	}
	to := c.places[0].manner()
	c.B.Local = c.from(to)
	hops, _ := hopsOf(m)
	more := slices.Concat([]Header{maxForwards(hops)}, c.offers, told(c.carry, to))
	var body []byte
	if len(m.Body) > 0 {
		s, err := describe(m.Body, c.A.offers())
		if err != nil { // of what could be known a Step ago there was nothing
			status, cause := statusOf(err)
			c.reject(t, status, cause, c.now)
			return
		}
		d := c.places[0]
		c.B.set(Terms{d.SRTP, c.asks(LegB, d.webrtc(), d.SRTP)})
		body, more = c.offer(LegB, s), append(more, sdpType)
	}
	c.callFirst(t, body, more...)
	noAnswer, _ := c.limits()
	if n, err := strconv.ParseUint(m.Get("Expires"), 10, 31); err == nil && Seconds(n) < noAnswer {
		c.setTimer(TimerExpires, Seconds(n).duration())
	}
}

var sdpType = Header{"Content-Type", "application/sdp"}

func maxForwards(hops int) Header { return Header{"Max-Forwards", strconv.Itoa(hops)} }

func hostLiteral(ip string) string {
	if strings.Contains(ip, ":") {
		return "[" + ip + "]"
	}
	return ip
}
