package codecore

import (
	"fmt"
	"slices"
	"strings"
)

// Requests of a party and their responses, requests of ours: what every part of
// the call logic says through.

// serve takes down a request that is going to be answered.
func (c *call) serve(leg LegID, e SIPRequest) *ServerTx {
	t := ServerTx{Tx: e.Tx, Flow: e.Flow, Edge: e.Edge, Method: e.Msg.Method}
	t.CSeq, _ = cseqOf(&e.Msg)
	for _, h := range e.Msg.Headers {
		switch strings.ToLower(h.Name) {
		case "via", "from", "to", "call-id", "cseq", "record-route":
			t.Head = append(t.Head, h)
		}
	}
	l := c.leg(leg)
	l.keep(t)
	return l.srv(e.Tx)
}

// respond answers a request of the leg: numbered, and kept for a repeat when it
// is final. A provisional response without SDP is lossy.
func (c *call) respond(leg LegID, t *ServerTx, status int, body []byte, more ...Header) {
	r := SendResponse{Tx: t.Tx, Flow: t.Flow, Msg: response(t.Method, t.Head, status, c.leg(leg).Tag, t.Method == "INVITE" && status < 300)}
	r.Msg.Headers = append(r.Msg.Headers, more...)
	if status == 503 && r.Msg.Get("Retry-After") == "" {
		r.Msg.Add("Retry-After", "5")
	}
	if (t.Method == "INVITE" || t.Method == "UPDATE" && status >= 200) && status < 300 {
		r.ContactUser = c.Token
		r.Msg.Add("Allow", allowed)
		if status >= 200 {
			r.Msg.Add("Supported", supported)
			r.Msg.Headers = append(r.Msg.Headers, c.sessionAnswer(leg, t)...)
		}
	}
	if t.Method == "REFER" && status/100 == 2 { // it makes a subscription (RFC 3515 2.2)
		r.ContactUser = c.Token
	}
	if len(body) > 0 {
		r.Msg.Add("Content-Type", "application/sdp")
		r.Msg.Body = body
	}
	if status < 200 && len(body) == 0 && !t.Unacked {
		c.lossy(edgeOf(t.Edge), Effect{Response: &r})
		return
	}
	if status >= 200 {
		if t.RSeq != 0 {
			c.forget(func(a Action) bool { return a.Response != nil && a.Response.Tx == t.Tx })
		}
		t.Status, t.Head, t.RSeq, t.Unacked = status, nil, 0, false
		if !t.accepted() {
			t.Last = &r
		}
	}
	c.do(edgeOf(t.Edge), Effect{Response: &r})
}

// refuse answers a request that changes nothing, without keeping it.
func (c *call) refuse(e SIPRequest, status int, cause string, more ...Header) {
	if e.Msg.Method == "ACK" {
		return // never answered
	}
	m := response(e.Msg.Method, e.Msg.Headers, status, c.A.Tag, false)
	m.Headers = append(m.Headers, c.reason(status, cause))
	m.Headers = append(m.Headers, more...)
	c.lossy(edgeOf(e.Edge), Effect{Response: &SendResponse{Tx: e.Tx, Flow: e.Flow, Msg: m}})
}

// reason says why a request is refused (RFC 3326), in the answer and to the caller
// of Step.
func (c *call) reason(status int, cause string) Header {
	c.because(cause)
	return Header{"Reason", fmt.Sprintf("SIP;cause=%d;text=%q", status, cause)}
}

// because notes a reason code of what this Step refuses or ends.
func (c *call) because(cause string) {
	if !slices.Contains(c.res.Reasons, cause) {
		c.res.Reasons = append(c.res.Reasons, cause)
	}
}

// response begins a response by the rules of RFC 3261 8.2.6.2. The To tag is
// ours unless the request had one.
func response(method string, head []Header, status int, tag string, routes bool) Message {
	m := Message{Method: method, Status: status, Reason: phrase(status)}
	for _, h := range head {
		switch strings.ToLower(h.Name) {
		case "via", "from", "call-id", "cseq":
			m.Headers = append(m.Headers, h)
		case "to":
			if _, had := tagOf(h.Value); had == "" && tag != "" {
				h.Value += ";tag=" + tag
			}
			m.Headers = append(m.Headers, h)
		case "record-route":
			if routes {
				m.Headers = append(m.Headers, h)
			}
		}
	}
	return m
}

// ask sends a request in the leg's dialog d (nil: before there is one).
func (c *call) ask(leg LegID, d *Dialog, method string, cseq uint32, forTx string, body []byte, more ...Header) {
	c.send(leg, d, c.compose(leg, d, method, cseq, body, more...), cseq, forTx)
}

// send sends a request of ours as it is.
func (c *call) send(leg LegID, d *Dialog, r *SendRequest, cseq uint32, forTx string) {
	l := c.leg(leg)
	if method := r.Msg.Method; method != "ACK" {
		t := ClientTx{Branch: r.Branch, Method: method, CSeq: cseq, For: forTx, Bare: method == "INVITE" && len(r.Msg.Body) == 0}
		if d != nil {
			t.Tag = d.Tag
		}
		l.Cli = append(l.Cli, t)
	}
	c.do(edgeOf(l.Edge), Effect{Request: r})
}

// compose writes a request of ours (RFC 3261 8.1.1, 12.2.1.1).
func (c *call) compose(leg LegID, d *Dialog, method string, cseq uint32, body []byte, more ...Header) *SendRequest {
	l := c.leg(leg)
	r := SendRequest{Msg: Message{Method: method, URI: c.target(leg), Body: body}, Target: c.target(leg), Flow: l.Flow}
	to, tag := l.Remote, ""
	var routes []string
	if d == nil {
		routes = c.routesBefore(leg, method, cseq)
	} else {
		if tag = d.Tag; tag != "" { // who speaks RFC 2543 may have none (RFC 3261 12.2.1.1)
			to += ";tag=" + tag
		}
		r.Target, routes = d.Target, d.Routes
	}
	if len(routes) > 0 {
		r.Target = uriOf(routes[0])
	}
	if d != nil {
		r.Msg.URI, routes = strictly(d.Target, routes)
	}
	for _, route := range routes {
		r.Msg.Add("Route", route)
	}
	transaction := method
	if method == "CANCEL" { // it has the branch of its INVITE (RFC 3261 9.1)
		transaction = "INVITE"
	}
	r.Branch = c.inForce(leg, transaction, cseq, tag)
	if d != nil {
		r.Avoid = c.Avoid
	} else if inv := c.asked(ClientTx{Branch: r.Branch, Method: "INVITE"}); inv != nil {
		r.Avoid = inv.Avoid
	}
	if !slices.ContainsFunc(more, func(h Header) bool { return h.Name == "Max-Forwards" }) {
		r.Msg.Add("Max-Forwards", "70")
	}
	r.Msg.Headers = append(r.Msg.Headers,
		Header{"From", l.Local + ";tag=" + l.Tag},
		Header{"To", to},
		Header{"Call-ID", l.CallID},
		Header{"CSeq", formatCSeq(cseq, method)})
	switch method {
	case "INVITE", "UPDATE":
		r.ContactUser = c.Token
		r.Msg.Add("Allow", allowed)
		if d != nil {
			r.Msg.Headers = append(r.Msg.Headers, l.sessionOffer()...)
		} else {
			r.Msg.Add("Supported", extReplaces)
		}
	case "NOTIFY":
		r.ContactUser = c.Token
	}
	r.Msg.Headers = append(r.Msg.Headers, more...)
	r.Msg.fold("Supported")
	r.Auth = c.authorize(leg, method, cseq)
	return &r
}
