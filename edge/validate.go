package edge

import (
	"strconv"
	"strings"

	"callswitch/codecore"
)

// A packet is one message that came in, with what the edge itself reads of it.
type packet struct {
	msg      codecore.Message
	via      topVia
	uri      uri // of a request
	callID   string
	fromTag  string
	toTag    string
	cseq     string   // number
	cseqName string   // method of the CSeq
	branches []string // of all Vias
	size     int      // bytes that came
	known    bool     // the source is a peer of the dialplan
}

// topVia is the first Via: where a response goes (RFC 3261 18.2, RFC 3581).
type topVia struct {
	transport string // "UDP", "TCP"
	host      string // small letters, an IPv6 address without brackets
	port      int    // 0 = none
	sentBy    string // host:port
	branch    string
	rport     bool
	params    string // from the first ";", as written
}

// parse reads one whole message. With a reason, p holds what could be read, and
// code is the status to refuse a request with.
func parse(data []byte, lim *Limits) (p *packet, code int, why reason) {
	p = &packet{}
	if len(data) > lim.MaxMessage {
		return p, 513, badSize
	}
	raw := string(data)
	s, why := scan(raw, lim)
	p.msg.Headers = s.headers
	request := !strings.HasPrefix(s.start, "SIP/")
	if request {
		p.msg.Method, _, _ = strings.Cut(s.start, " ")
	}
	if why != okay {
		return p, 400, why
	}
	if code, why = p.startLine(s.start, request); why != okay {
		return p, code, why
	}
	if why = p.body(raw[s.head:], s.length); why != okay {
		return p, 400, why
	}
	p.unwrap()
	if why = p.single(); why != okay {
		return p, 400, why
	}
	if why = p.read(); why != okay {
		return p, 400, why
	}
	if !request {
		p.msg.Method = p.cseqName
		return p, 0, okay
	}
	return p.request()
}

func (p *packet) startLine(start string, request bool) (code int, why reason) {
	a, rest, ok := strings.Cut(start, " ")
	b, c, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || a == "" || b == "" {
		return 400, badStart
	}
	if !request {
		n, err := strconv.Atoi(b)
		if !strings.EqualFold(a, "SIP/2.0") || err != nil || len(b) != 3 || n < 100 || n > 699 {
			return 400, badStart
		}
		p.msg.Status, p.msg.Reason = n, c
		return 0, okay
	}
	if !isToken(a) || strings.ContainsAny(c, " \t") || !strings.HasPrefix(strings.ToUpper(c), "SIP/") {
		return 400, badStart
	}
	if !strings.EqualFold(c, "SIP/2.0") {
		return 505, badVersion
	}
	p.msg.URI = b
	return 0, okay
}

// body cuts what Content-Length names (RFC 3261 18.3: the rest of a datagram is
// dropped, a missing part is an error).
func (p *packet) body(body string, length int) reason {
	if length > len(body) {
		return badLength
	}
	if length >= 0 {
		body = body[:length]
	}
	if body != "" {
		p.msg.Body = []byte(body)
	}
	return okay
}

// single checks that what must be there once is there once: a second From, say,
// would let two readers see different calls.
func (p *packet) single() reason {
	var from, to, call, cseq, hops, via int
	for i := range p.msg.Headers {
		switch p.msg.Headers[i].Name {
		case "From":
			from++
		case "To":
			to++
		case "Call-ID":
			call++
		case "CSeq":
			cseq++
		case "Max-Forwards":
			hops++
		case "Via":
			via++
		}
	}
	if from == 0 || to == 0 || call == 0 || cseq == 0 || via == 0 {
		return badMissing
	}
	if from > 1 || to > 1 || call > 1 || cseq > 1 || hops > 1 {
		return badTwice
	}
	return okay
}

// read takes from the headers what the edge itself needs, and looks at each
// address: what is passed on can be read by everybody in one way only.
func (p *packet) read() reason {
	top, addresses := true, 0
	for i := range p.msg.Headers {
		h := &p.msg.Headers[i]
		switch h.Name {
		case "Via":
			via, ok := parseVia(h.Value)
			if !ok {
				return badVia
			}
			if top {
				p.via, top = via, false
			}
			if strings.HasPrefix(via.branch, cookie) {
				p.branches = append(p.branches, via.branch)
			}
		case "From", "To":
			a, ok := parseAddress(h.Value)
			if !ok || !a.plainParams() {
				return badAddress
			}
			if h.Name == "To" {
				p.toTag = a.tag
			} else {
				p.fromTag = a.tag
			}
		case "Contact", "Route", "Record-Route", "Refer-To", "Referred-By", "P-Asserted-Identity", "P-Preferred-Identity", "Reply-To", "Diversion", "Path":
			if addresses++; addresses > maxAddresses {
				return badCount
			}
			if !isAddressValue(h) {
				return badAddress
			}
		case "Call-ID":
			p.callID = h.Value
			if h.Value == "" || strings.ContainsAny(h.Value, " \t\x00") {
				return badHeader
			}
		case "CSeq":
			var ok bool
			if p.cseq, p.cseqName, ok = parseCSeq(h.Value); !ok {
				return badCSeq
			}
		}
	}
	return okay
}

// maxAddresses bounds the values of address headers in one message.
const maxAddresses = 128

// isAddressValue checks a header value that holds an address, or a list of them
// where the edge does not split it. Contact may be "*".
func isAddressValue(h *codecore.Header) bool {
	if h.Name == "Contact" && h.Value == "*" {
		return true
	}
	for rest := h.Value; ; {
		var one string
		one, rest = cutList(rest)
		if _, ok := parseAddress(one); !ok || rest == "" {
			return ok
		}
	}
}

// request checks what only requests have.
func (p *packet) request() (*packet, int, reason) {
	if p.cseqName != p.msg.Method {
		return p, 400, badCSeq
	}
	var ok bool
	p.uri, ok = parseURI(p.msg.URI)
	switch {
	case !ok:
		return p, 400, badURI
	case !p.uri.sip() && p.uri.scheme != "tel":
		return p, 416, badScheme
	case p.uri.headers != "": // RFC 3261 19.1.1: not in a Request-URI
		return p, 400, badURI
	}
	if hops := p.msg.Get("Max-Forwards"); hops != "" {
		n, err := strconv.ParseUint(hops, 10, 8)
		if err != nil {
			return p, 400, badHops
		}
		if n == 0 && p.msg.Method == "INVITE" { // what goes no further has arrived (RFC 4475 3.3.11)
			return p, 483, noHops
		}
	}
	return p, 0, okay
}

// replyable tells whether a response to a refused request can be formed: a
// method and a Via are there.
func (p *packet) replyable() bool {
	return p.msg.Method != "" && p.msg.Method != "ACK" && isToken(p.msg.Method) && p.msg.Get("Via") != ""
}
