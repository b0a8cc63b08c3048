package codecore

import (
	"slices"
	"strings"
)

// Who calls (RFC 3325, RFC 3323). A peer that the dialplan trusts is believed
// what it asserts, and told what others asserted; nobody else is. An account has
// shown who it is: that is asserted of it.
//
//	from \ to      trusted                      not trusted
//	trusted        P-Asserted-Identity, Privacy neither
//	account        the account, Privacy         neither
//	neither        Privacy                      neither
//
// Privacy "user" or "header" makes the From anonymous where it is not trusted.
// Diversion (RFC 5806) and History-Info (RFC 7044) say whence a call came; they
// are passed, to those not trusted unless privacy was asked for.

const maxCarried = 16 // values of each header

// carried are the headers of an INVITE that a callee may be told, all of them.
func carried(m *Message, from string, trusted bool, in []NumberRule) []Header {
	var out []Header
	add := func(name string) {
		for i, v := range m.All(name) {
			if i >= maxCarried {
				return
			}
			if name == "P-Asserted-Identity" {
				v = withNumber(v, func(n string) string { return renumber(in, n) })
			}
			out = append(out, Header{name, v})
		}
	}
	if trusted {
		add("P-Asserted-Identity")
	}
	if account, ok := AccountOf(from); ok {
		out = append(out, Header{"P-Asserted-Identity", preferred(m, account)})
	}
	add("Privacy")
	add("Diversion")
	add("History-Info")
	return out
}

// preferred is the identity of an account: the one it prefers if it is its own
// (RFC 3325 9.2), else that of its From.
func preferred(m *Message, account string) string {
	for _, v := range m.All("P-Preferred-Identity") {
		if userOf(uriOf(v)) != account {
			continue
		}
		name, _, _ := cutName(v)
		if strings.Contains(name, ",") && !strings.HasPrefix(name, `"`) {
			name = "" // a list: only its first is looked at, and passed
		}
		return strings.TrimSpace(name + " <" + uriOf(v) + ">")
	}
	from, _ := tagOf(m.Get("From"))
	return "<" + address(account, hostOf(uriOf(from))) + ">"
}

// privacy reads what the Privacy headers ask for (RFC 3323 4.2, RFC 3325 9.3).
func privacy(hs []Header) (any, from bool) {
	for _, h := range hs {
		if !strings.EqualFold(h.Name, "Privacy") {
			continue
		}
		for _, p := range strings.FieldsFunc(strings.ToLower(h.Value), func(r rune) bool { return r == ';' || r == ',' || r == ' ' }) {
			switch p {
			case "none", "critical":
			case "user", "header":
				any, from = true, true
			default:
				any = true
			}
		}
	}
	return any, from
}

// manner is how a callee is spoken to.
type manner struct {
	trusted bool
	from    []NumberRule
}

func (d Destination) manner() manner { return manner{d.Trusted, d.From} }

// isCarried reports whether a header is one of those that [carried] takes.
func isCarried(h Header) bool {
	switch strings.ToLower(h.Name) {
	case "p-asserted-identity", "privacy", "diversion", "history-info":
		return true
	}
	return false
}

// carriedOn is what a further callee may be told. When nobody had been expected,
// after a redirection, it is what the one before was told; one before who heard
// no name has the caller's wish for privacy in its From alone.
func (c *call) carriedOn(like *SendRequest) []Header {
	if c.Fork != nil && len(c.Fork.Carry) > 0 {
		return c.Fork.Carry
	}
	var out []Header
	for _, h := range like.Msg.Headers {
		if isCarried(h) {
			out = append(out, h)
		}
	}
	if from, _ := tagOf(like.Msg.Get("From")); from == nobody {
		out = append(out, Header{"Privacy", "user"})
	}
	return out
}

// nobody is the From of who wants to be anonymous (RFC 3323 4.1.1.3).
const nobody = `"Anonymous" <sip:anonymous@anonymous.invalid>`

// hear reads who calls whom in the INVITE that begins the call, by the rules of
// the peer that it comes from.
func (c *call) hear(e *SIPRequest) {
	p := e.Plan.peer(e.Peer)
	if p == nil {
		p = new(PlanPeer)
	}
	c.CDR.From, c.CDR.To = renumber(p.In.From, c.CDR.From), renumber(p.In.To, e.Plan.called(e.Peer, &e.Msg))
	c.carry = carried(&e.Msg, e.Peer, p.Trusted, p.In.From)
}

// told are the carried headers that a callee is told.
func told(hs []Header, to manner) []Header {
	hidden, _ := privacy(hs)
	var said []Header
	for _, h := range hs {
		switch {
		case to.trusted && h.Name == "P-Asserted-Identity":
			h.Value = withNumber(h.Value, func(n string) string { return renumber(to.from, n) })
		case to.trusted:
		case h.Name == "P-Asserted-Identity", h.Name == "Privacy", hidden:
			continue
		}
		said = append(said, h)
	}
	return said
}

// from is the From that a callee is told, without tag: the caller's name and
// number, and the address at which we are heard.
func (c *call) from(to manner) string {
	if _, hide := privacy(c.carry); hide && !to.trusted || hostOf(uriOf(c.A.Remote)) == "anonymous.invalid" {
		return nobody // by our wish, or by the caller's own word
	}
	name, _, _ := cutName(c.A.Remote)
	number := renumber(to.from, c.CDR.From)
	if number == "" {
		number = "anonymous"
	}
	return strings.TrimSpace(name + " <" + address(number, hostLiteral(c.B.Media.Addr)) + ">")
}

// reasons are the Reason headers of a message (RFC 3326): why a party ends the
// call, of use to the other and its network.
func reasons(m *Message) []Header {
	var out []Header
	for _, v := range m.All("Reason") {
		if len(out) < maxCarried/4 && len(v) <= 256 && !slices.Contains(out, Header{"Reason", v}) {
			out = append(out, Header{"Reason", v})
		}
	}
	return out
}
