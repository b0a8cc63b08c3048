package edge

import (
	"strconv"
	"strings"

	"callswitch/codecore"
)

// allow is what is served, here and by the call core.
const allow = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, PRACK, UPDATE, REFER"

// reasonPhrases are those of RFC 3261 section 21 that the edge itself uses.
var reasonPhrases = map[int]string{
	100: "Trying", 200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 405: "Method Not Allowed", 407: "Proxy Authentication Required", 408: "Request Timeout",
	416: "Unsupported URI Scheme", 420: "Bad Extension", 423: "Interval Too Brief", 482: "Loop Detected", 481: "Call/Transaction Does Not Exist", 483: "Too Many Hops", 486: "Busy Here",
	487: "Request Terminated", 500: "Server Internal Error", 503: "Service Unavailable", 505: "Version Not Supported",
	513: "Message Too Large", 429: "Too Many Requests", 404: "Not Found", 488: "Not Acceptable Here",
}

func phrase(code int) string {
	if p, ok := reasonPhrases[code]; ok {
		return p
	}
	return "Refused"
}

// appendHeader writes one header line. What could break out of its line is left
// out: the edge alone decides where a message ends.
func appendHeader(b []byte, name, value string) []byte {
	if strings.ContainsAny(value, "\r\n") || !isToken(name) || hasControl(value) && !quotedOnly(value) {
		return b
	}
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), '\r', '\n')
}

// appendRest writes the headers of m, then the extra ones (name, value, …), the
// length and the body.
func appendRest(b []byte, m *codecore.Message, extra ...string) []byte {
	for i := range m.Headers {
		if h := &m.Headers[i]; h.Name != "Content-Length" {
			b = appendHeader(b, h.Name, h.Value)
		}
	}
	for i := 0; i+1 < len(extra); i += 2 {
		b = appendHeader(b, extra[i], extra[i+1])
	}
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(len(m.Body)), 10)
	return append(append(b, "\r\n\r\n"...), m.Body...)
}

func size(m *codecore.Message) int {
	n := 256 + len(m.URI) + len(m.Reason) + len(m.Body)
	for i := range m.Headers {
		n += len(m.Headers[i].Name) + len(m.Headers[i].Value) + 4
	}
	return n
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, s)
}

// writeRequest serialises a request with our Via on top and our Contact.
func (e *Edge) writeRequest(a *codecore.SendRequest, l link) []byte {
	m := &a.Msg
	b := make([]byte, 0, size(m))
	b = append(append(append(append(b, m.Method...), ' '), oneLine(m.URI)...), " SIP/2.0\r\n"...)
	b = appendHeader(b, "Via", e.via(a.Branch, l))
	answers, _ := e.signed(a)
	return appendRest(b, m, append(e.contact(a.ContactUser, l), answers...)...)
}

func (e *Edge) via(branch string, l link) string {
	return "SIP/2.0/" + l.transport() + " " + e.sentBy(l) + ";branch=" + branch + ";rport"
}

func (e *Edge) contact(user string, l link) []string {
	if user == "" {
		return nil
	}
	c := "<sip:" + user + "@" + e.sentBy(l)
	if t := l.transport(); t != "UDP" {
		c += ";transport=" + strings.ToLower(t)
	}
	return []string{"Contact", c + ">"}
}

// writeResponse serialises a response of a worker.
func (e *Edge) writeResponse(a *codecore.SendResponse, l link) []byte {
	m := &a.Msg
	b := make([]byte, 0, size(m))
	b = strconv.AppendInt(append(b, "SIP/2.0 "...), int64(m.Status), 10)
	b = append(append(append(b, ' '), oneLine(m.Reason)...), "\r\n"...)
	return appendRest(b, m, e.contact(a.ContactUser, l)...)
}

// compact are the short names of what a response copies (RFC 3261 7.3.3).
var compact = map[string]string{"Via": "v", "From": "f", "To": "t", "Call-ID": "i"}

// shortReply is reply with compact names.
func shortReply(req *codecore.Message, code int, toTag string) []byte {
	b := strconv.AppendInt(append(make([]byte, 0, 512), "SIP/2.0 "...), int64(code), 10)
	b = append(append(append(b, ' '), phrase(code)...), "\r\n"...)
	for _, h := range req.Headers {
		if h.Name == "To" && toTag != "" && tagOf(h.Value) == "" {
			h.Value += ";tag=" + toTag
		}
		if name, ok := compact[h.Name]; ok {
			b = appendHeader(b, name, h.Value)
		} else if h.Name == "CSeq" {
			b = appendHeader(b, h.Name, h.Value)
		}
	}
	return append(b, "l: 0\r\n\r\n"...)
}

// reply forms a response of the edge's own to a request (RFC 3261 8.2.6.2).
func reply(req *codecore.Message, code int, toTag string, extra ...string) []byte {
	m := codecore.Message{Status: code, Reason: phrase(code)}
	b := make([]byte, 0, 512)
	b = strconv.AppendInt(append(b, "SIP/2.0 "...), int64(code), 10)
	b = append(append(append(b, ' '), m.Reason...), "\r\n"...)
	for i := range req.Headers {
		h := &req.Headers[i]
		switch h.Name {
		case "To":
			v := h.Value
			if toTag != "" && tagOf(v) == "" {
				v += ";tag=" + toTag
			}
			b = appendHeader(b, h.Name, v)
		case "Via", "From", "Call-ID", "CSeq":
			b = appendHeader(b, h.Name, h.Value)
		}
	}
	return appendRest(b, &m, extra...)
}

// reasonHeader is RFC 3326's, with our stable reason code as text.
func reasonHeader(code int, why string) string {
	return "SIP;cause=" + strconv.Itoa(code) + ";text=\"" + strings.NewReplacer(`"`, "", `\`, "").Replace(oneLine(why)) + "\""
}

// writeAck forms the ACK to a failure (RFC 3261 17.1.1.3).
func (e *Edge) writeAck(req *codecore.SendRequest, l link, to string) []byte {
	b := make([]byte, 0, 512)
	b = append(append(append(b, "ACK "...), oneLine(req.Msg.URI)...), " SIP/2.0\r\n"...)
	b = appendHeader(b, "Via", e.via(req.Branch, l))
	for i := range req.Msg.Headers {
		switch h := &req.Msg.Headers[i]; h.Name {
		case "From", "Call-ID", "Route":
			b = appendHeader(b, h.Name, h.Value)
		case "CSeq":
			n, _, _ := strings.Cut(h.Value, " ")
			b = appendHeader(b, "CSeq", n+" ACK")
		}
	}
	b = appendHeader(b, "To", to)
	b = appendHeader(b, "Max-Forwards", "70")
	return appendRest(b, &codecore.Message{})
}
