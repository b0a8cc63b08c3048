package loadtest

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
)

var errNotSIP = errors.New("loadtest: not a SIP message")

// message is a SIP message as the rig reads it: RFC 3261 section 7, without
// header folding and without checks, for the switch's output is on trial here
// and its oddities must reach the ledger.
type message struct {
	method, uri string // of a request
	code        int    // of a response
	reason      string
	headers     []header
	body        []byte
	raw         []byte
}

type header struct{ name, value string }

var compact = map[string]string{
	"v": "via", "f": "from", "t": "to", "i": "call-id", "m": "contact",
	"l": "content-length", "c": "content-type", "k": "supported",
}

// parseMessage reads one whole message; it keeps no reference to b.
func parseMessage(b []byte) (*message, error) {
	m := &message{raw: bytes.Clone(b)}
	head, body, ok := strings.Cut(string(m.raw), "\r\n\r\n")
	if !ok {
		return nil, errNotSIP
	}
	m.body = []byte(body)
	lines := strings.Split(head, "\r\n")
	first := strings.SplitN(lines[0], " ", 3)
	if len(first) != 3 {
		return nil, errNotSIP
	}
	if first[0] == "SIP/2.0" {
		code, err := strconv.Atoi(first[1])
		if err != nil || code < 100 || code > 699 {
			return nil, errNotSIP
		}
		m.code, m.reason = code, first[2]
	} else {
		m.method, m.uri = first[0], first[1]
	}
	m.headers = make([]header, 0, len(lines)-1)
	for _, l := range lines[1:] {
		name, value, ok := strings.Cut(l, ":")
		if !ok {
			return nil, errNotSIP
		}
		name = strings.ToLower(strings.TrimSpace(name))
		if full, ok := compact[name]; ok {
			name = full
		}
		m.headers = append(m.headers, header{name, strings.TrimSpace(value)})
	}
	return m, nil
}

// get returns the first header of that lower-case full name, or "".
func (m *message) get(name string) string {
	for _, h := range m.headers {
		if h.name == name {
			return h.value
		}
	}
	return ""
}

func (m *message) all(name string) (out []string) {
	for _, h := range m.headers {
		if h.name == name {
			out = append(out, h.value)
		}
	}
	return out
}

// cseq returns the number and the method of CSeq.
func (m *message) cseq() (uint32, string) {
	num, method, _ := strings.Cut(m.get("cseq"), " ")
	n, _ := strconv.ParseUint(num, 10, 32)
	return uint32(n), strings.TrimSpace(method)
}

func (m *message) branch() string { return param(m.get("via"), "branch") }
func (m *message) callID() string { return m.get("call-id") }

// param returns the value of ;name= in a header value, outside of <>.
func param(value, name string) string {
	if i := strings.LastIndexByte(value, '>'); i >= 0 {
		value = value[i+1:]
	}
	for _, p := range strings.Split(value, ";")[1:] {
		k, v, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(k), name) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// uriOf returns the URI of a name-addr or addr-spec.
func uriOf(value string) string {
	if i := strings.IndexByte(value, '<'); i >= 0 {
		if j := strings.IndexByte(value[i:], '>'); j > 0 {
			return value[i+1 : i+j]
		}
	}
	uri, _, _ := strings.Cut(value, ";")
	return strings.TrimSpace(uri)
}

// userOf returns the user part of a URI.
func userOf(uri string) string {
	_, rest, _ := strings.Cut(uri, ":")
	user, _, ok := strings.Cut(rest, "@")
	if !ok {
		return ""
	}
	return user
}

// builder writes a message.
type builder struct{ b bytes.Buffer }

func (w *builder) line(parts ...string) {
	for _, p := range parts {
		w.b.WriteString(p)
	}
	w.b.WriteString("\r\n")
}

func (w *builder) finish(contentType string, body []byte) []byte {
	if len(body) > 0 {
		w.line("Content-Type: ", contentType)
	}
	w.line("Content-Length: ", strconv.Itoa(len(body)))
	w.line()
	w.b.Write(body)
	return w.b.Bytes()
}

// respond builds a response to request m with our To-tag and further header lines.
func respond(m *message, code int, reason, tag, contact string, body []byte, more ...string) []byte {
	var w builder
	w.line("SIP/2.0 ", strconv.Itoa(code), " ", reason)
	for _, v := range m.all("via") {
		w.line("Via: ", v)
	}
	for _, v := range m.all("record-route") {
		w.line("Record-Route: ", v)
	}
	w.line("From: ", m.get("from"))
	to := m.get("to")
	if code > 100 && param(to, "tag") == "" {
		to += ";tag=" + tag
	}
	w.line("To: ", to)
	w.line("Call-ID: ", m.callID())
	w.line("CSeq: ", m.get("cseq"))
	if contact != "" {
		w.line("Contact: <", contact, ">")
	}
	for _, h := range more {
		w.line(h)
	}
	return w.finish("application/sdp", body)
}
