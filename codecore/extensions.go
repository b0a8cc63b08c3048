package codecore

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Extensions of SIP that a call uses, and who may use them.

const (
	extReliable = "100rel"     // RFC 3262
	extReplaces = "replaces"   // RFC 3891
	extNoNotify = "norefersub" // RFC 4488
	supported   = extReliable + ", " + extTimer + ", " + extReplaces + ", " + extNoNotify
)

// Reliable is whether provisional responses of and to a peer are acknowledged
// (RFC 3262): PlanPeer.Reliable.
const (
	ReliableOff      = "off"      // never: its Require gets 420
	ReliableAllowed  = "allowed"  // when it wants to; the default
	ReliableRequired = "required" // always: a caller without gets 421
)

// reliable is the policy of a party.
func (p *Plan) reliable(peer string) string {
	if q := p.peer(peer); q != nil && q.Reliable != "" {
		return q.Reliable
	}
	return ReliableAllowed
}

// options are the option tags of a header (RFC 3261 19.2), in small letters.
func options(m *Message, header string) []string {
	var tags []string
	for _, v := range m.All(header) {
		for _, t := range strings.Split(v, ",") {
			if t = strings.ToLower(strings.TrimSpace(t)); t != "" {
				tags = append(tags, t)
			}
		}
	}
	return tags
}

// fold makes one header of those of that name: some read the first alone.
func (m *Message) fold(name string) {
	if all := m.All(name); len(all) > 1 {
		first := slices.IndexFunc(m.Headers, func(h Header) bool { return h.Name == name })
		m.Headers = append(slices.Clone(m.Headers[:first+1]), without(slices.Clone(m.Headers[first+1:]), func(h Header) bool { return h.Name == name })...)
		m.Headers[first].Value = strings.Join(all, ", ")
	}
}

func hasOption(m *Message, header, tag string) bool {
	for _, t := range options(m, header) {
		if t == tag {
			return true
		}
	}
	return false
}

// unsupported are the extensions that a request requires and we have not.
func unsupported(m *Message) []string {
	var unknown []string
	for _, t := range options(m, "Require") {
		if !strings.Contains(", "+supported+",", ", "+t+",") {
			unknown = append(unknown, t)
		}
	}
	return unknown
}

// terms settles which extensions a new call uses with its two parties: what the
// caller's INVITE asked for is kept with it (ServerTx.Head), what the callee is
// offered goes into the INVITE to it.
func (c *call) terms(t *ServerTx, e *SIPRequest) *refusal {
	m := &e.Msg
	policy := e.Plan.reliable(e.Peer)
	must, may := hasOption(m, "Require", extReliable), hasOption(m, "Supported", extReliable)
	switch {
	case policy == ReliableOff && must:
		return &refusal{420, "extension", []Header{{"Unsupported", extReliable}}}
	case policy == ReliableRequired && !must && !may:
		return &refusal{421, "extension", []Header{{"Require", extReliable}}}
	case must, policy == ReliableRequired:
		t.Head = append(t.Head, Header{"Require", extReliable})
	case may && policy != ReliableOff:
		t.Head = append(t.Head, Header{"Supported", extReliable})
	}
	reliably := policy != ReliableOff && (must || may)
	// A callee is offered what the caller can do too, unless the plan requires it: a
	// ringing call stays one that every release can carry. And an offer in a reliable
	// response would wait for an answer that a caller without gives in its ACK only.
	theirs := e.Plan.reliable(c.Route.Peer)
	c.offers = append(c.offers, offersTo(theirs, !reliably && (theirs != ReliableRequired || len(m.Body) == 0))...)
	expires, least := e.Plan.session()
	if expires > 0 {
		c.offers = append(c.offers, Header{"Session-Expires", sessionValue(expires, "uas")})
	}
	if least > defaultMinSE {
		c.offers = append(c.offers, Header{"Min-SE", strconv.Itoa(int(least))})
	}
	return c.sessionTerms(LegA, t, m, max(expires, 0), least)
}

// offersTo are the extensions that a callee is offered; never: it must not make an
// offer reliably.
func offersTo(policy string, never bool) []Header {
	switch {
	case never, policy == ReliableOff:
		return []Header{{"Supported", extTimer}}
	case policy == ReliableRequired:
		return []Header{{"Require", extReliable}, {"Supported", extTimer}}
	}
	return []Header{{"Supported", extReliable + ", " + extTimer}}
}

// between is a number from lo to hi, the same each time for the same words.
func (c *call) between(lo, hi int, words ...any) int {
	var n uint64
	for _, d := range c.hash(4, "between", fmt.Sprint(words...)) {
		n = n*31 + uint64(d)
	}
	return lo + int(n%uint64(hi-lo+1))
}
