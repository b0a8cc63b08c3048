package edge

import (
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"

	"callswitch/codecore"
)

// A packet is one message that came in, with what the edge itself reads of it.
type packet struct {
	msg      codecore.Message
	via      topVia
	callID   string
	fromTag  string
	toTag    string
	cseq     string // number, as written
	cseqName string // method of the CSeq
}

// topVia is the first Via: where a response goes (RFC 3261 18.2, RFC 3581).
type topVia struct {
	transport string // "UDP", "TCP"
	host      string
	port      int // 0 = none
	sentBy    string
	branch    string
	rport     bool
}

// strict is sipgo's parser with the headers that the edge reads; the others
// pass as they are.
var strict = newParser()

func newParser() *sip.Parser {
	all, few := sip.DefaultHeadersParser(), map[string]sip.HeaderParser{}
	for _, name := range []string{"via", "v", "from", "f", "to", "t", "call-id", "i", "cseq", "contact", "m", "max-forwards", "content-length", "l"} {
		few[name] = all[name]
	}
	return sip.NewParser(sip.WithHeadersParsers(few))
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
	m, err := parseHead(data[:s.head])
	if err != nil {
		return p, 400, badHeader
	}
	if why = p.single(); why != okay {
		return p, 400, why
	}
	if why = p.read(m); why != okay {
		return p, 400, why
	}
	if !request {
		p.msg.Method = p.cseqName
		return p, 0, okay
	}
	return p.request(m.(*sip.Request))
}

// parseHead keeps a panic of the parser from ending the edge: the input comes
// from anybody.
func parseHead(head []byte) (m sip.Message, err error) {
	defer func() {
		if recover() != nil {
			err = sip.ErrParseEOF
		}
	}()
	m, _, err = strict.ParseHeaders(head, false)
	return m, err
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

// read takes from sipgo's message what the edge itself needs.
func (p *packet) read(m sip.Message) reason {
	via, from, to, callID, cseq := m.Via(), m.From(), m.To(), m.CallID(), m.CSeq()
	if via == nil || from == nil || to == nil || callID == nil || cseq == nil {
		return badMissing
	}
	branch, _ := via.Params.Get("branch")
	_, rport := via.Params.Get("rport")
	p.via = topVia{
		transport: strings.ToUpper(via.Transport), host: strings.Trim(via.Host, "[]"), port: via.Port,
		sentBy: strings.ToLower(via.Host) + ":" + strconv.Itoa(via.Port), branch: branch, rport: rport,
	}
	if p.via.host == "" || via.Port < 0 || via.Port > 65535 || !strings.EqualFold(via.ProtocolName, "SIP") || via.ProtocolVersion != "2.0" || strings.ContainsAny(via.Host, " \t<>\"@") {
		return badVia
	}
	p.callID = callID.Value()
	p.fromTag, _ = from.Params.Get("tag")
	p.toTag, _ = to.Params.Get("tag")
	p.cseq, p.cseqName = strconv.FormatUint(uint64(cseq.SeqNo), 10), strings.TrimSpace(string(cseq.MethodName))
	if !isToken(p.cseqName) {
		return badCSeq
	}
	if from.Address.Port < 0 || from.Address.Port > 65535 || to.Address.Port < 0 || to.Address.Port > 65535 {
		return badURI
	}
	return okay
}

// request checks what only requests have.
func (p *packet) request(m *sip.Request) (*packet, int, reason) {
	if p.cseqName != p.msg.Method {
		return p, 400, badCSeq
	}
	if p.fromTag == "" {
		return p, 400, badHeader
	}
	switch uri := &m.Recipient; {
	case uri.Scheme != "sip" && uri.Scheme != "sips":
		return p, 416, badScheme
	case uri.Host == "" || uri.Port < 0 || uri.Port > 65535 || strings.ContainsAny(p.msg.URI, "<>\""):
		return p, 400, badURI
	}
	if c := m.Contact(); c != nil && (c.Address.Port < 0 || c.Address.Port > 65535) {
		return p, 400, badURI
	}
	if hops := p.msg.Get("Max-Forwards"); hops != "" {
		n, err := strconv.ParseUint(hops, 10, 8)
		if err != nil {
			return p, 400, badHops
		}
		if n == 0 {
			return p, 483, noHops
		}
	}
	return p, 0, okay
}

// replyable tells whether a response to a refused request can be formed: the
// five headers it copies are there.
func (p *packet) replyable() bool {
	return p.msg.Method != "" && p.msg.Method != "ACK" && isToken(p.msg.Method) && p.single() != badMissing
}
