package codecore

import (
	"cmp"
	"slices"
	"strings"
)

// Digest, as a client (RFC 3261 22, RFC 7616, RFC 8760): a trunk may ask who we
// are, in any request but ACK and CANCEL.
//
//	switch                 trunk
//	  | INVITE 1 ----------> |
//	  | <--- 407, challenge  |   kept in the leg
//	  | INVITE 2, answer --> |   same Call-ID and tags, CSeq+1 (8.1.3.5)
//	  | ...                  |
//	  | BYE 3, answer -----> |   at once: the same nonce, nc 2
//
// The password is nowhere in a call. What it is answered with is decided here,
// Authorize; the edge, which has the trunks' passwords, computes the response. Of
// one realm's challenges it answers the topmost that it can (RFC 8760 2.4): for a
// trunk it may have the hash of one algorithm alone.

// Challenge is one that a leg's party has put to us, and goes by until it puts
// another one of that realm.
type Challenge struct {
	Realm     string `json:"realm"`
	Nonce     string `json:"nonce"`
	Opaque    string `json:"opaque,omitempty"`
	Algorithm string `json:"algorithm,omitempty"` // "" = none was said: MD5
	Proxy     bool   `json:"proxy,omitempty"`     // by 407
	Plain     bool   `json:"plain,omitempty"`     // without qop (RFC 2069)
	Count     uint32 `json:"count,omitempty"`     // requests answered with it: the last nc
	Invite    uint32 `json:"invite,omitempty"`    // nc of the last INVITE, whose credentials its ACK repeats (RFC 3261 13.2.2.4)
}

// Authorize asks the edge for an Authorization (Proxy: Proxy-Authorization)
// header, computed with the password of a trunk; of several of one realm, for the
// first that it has the password or hash for.
type Authorize struct {
	Trunk     string `json:"trunk"` // name in the dialplan
	Realm     string `json:"realm"`
	Nonce     string `json:"nonce"`
	Opaque    string `json:"opaque,omitempty"`
	Algorithm string `json:"algorithm,omitempty"`
	Proxy     bool   `json:"proxy,omitempty"`
	Cnonce    string `json:"cnonce,omitempty"` // "" = without qop
	NC        uint32 `json:"nc,omitempty"`
	Method    string `json:"method,omitempty"` // "" = the request's
	URI       string `json:"uri,omitempty"`    // "" = the request's
}

const (
	maxTries      = 4 // challenges that one request may meet: of two realms, each stale once
	maxChallenges = 8 // of a leg: four realms, by two algorithms
	maxChallenge  = 1024
)

// challenged sends a request that met a challenge once more. It reports false
// when the challenge is the end of it: nobody to answer as, nothing that can be
// answered, or the answer was refused.
func (c *call) challenged(leg LegID, t ClientTx, e SIPResponse) bool {
	if e.Msg.Status != 401 && e.Msg.Status != 407 || !c.wanted(leg, t) {
		return false
	}
	l, before, trunk := c.leg(leg), c.asked(t), c.peerOf(leg)
	asked := ChallengesOf(&e.Msg)
	if _, account := AccountOf(trunk); before == nil || trunk == "" || account || len(asked) == 0 || t.Tries >= maxTries {
		return false
	}
	if t.Tries > 0 && Refused(before.Auth, asked) {
		return false
	}
	l.Challenges = Pose(l.Challenges, asked)
	c.close(l, t)
	l.CSeq++
	r := *before
	r.Branch = c.branch(leg, t.Method, l.CSeq, t.Tag)
	r.Msg.Headers = slices.Clone(r.Msg.Headers)
	for i := range r.Msg.Headers {
		if h := &r.Msg.Headers[i]; h.Name == "CSeq" {
			h.Value = formatCSeq(l.CSeq, t.Method)
		}
	}
	r.Auth = c.authorize(leg, t.Method, l.CSeq)
	t.Branch, t.CSeq, t.Tries = r.Branch, l.CSeq, t.Tries+1
	l.Cli = append(l.Cli, t)
	c.do(edgeOf(l.Edge), Effect{Request: &r})
	return true
}

// wanted reports whether a request of ours is still worth repeating: a BYE is as
// long as there is a call, the others while nobody has taken them back.
func (c *call) wanted(leg LegID, t ClientTx) bool {
	l := c.leg(leg)
	switch t.Method {
	case "BYE":
		return true
	case "ACK", "CANCEL":
		return false
	}
	return c.Phase != PhaseEnded && !l.Leaving && l.cli(t.Branch, "CANCEL") == nil
}

// asked is the request of a transaction without a final response.
func (c *call) asked(t ClientTx) *SendRequest {
	for _, a := range c.Pending {
		if a.Request != nil && a.Request.Branch == t.Branch && a.Request.Msg.Method == t.Method {
			return a.Request
		}
	}
	return nil
}

// peerOf is the leg's party as the dialplan calls it, or "account:" and a name.
func (s *State) peerOf(leg LegID) string {
	if p := s.leg(leg).Peer; p != "" {
		return p
	}
	if leg == LegA {
		return s.CDR.FromPeer
	}
	return s.Route.Peer
}

// authorize answers the leg's challenges in a request of that method and number.
// A CANCEL is never challenged, an ACK says what its INVITE said (RFC 3261 22.1).
func (c *call) authorize(leg LegID, method string, cseq uint32) []Authorize {
	l := c.leg(leg)
	if method == "CANCEL" || len(l.Challenges) == 0 {
		return nil
	}
	l.Challenges = slices.Clone(l.Challenges)
	var out []Authorize
	for i := range l.Challenges {
		q := &l.Challenges[i]
		a := Authorize{Trunk: c.peerOf(leg), Realm: q.Realm, Nonce: q.Nonce, Opaque: q.Opaque, Algorithm: q.Algorithm, Proxy: q.Proxy}
		switch method {
		case "ACK":
			a.NC, a.Method = q.Invite, "INVITE"
			if l.Answers == 0 { // of the INVITE that called the party
				a.URI = c.target(leg)
			}
		case "INVITE":
			q.Count++
			a.NC, q.Invite = q.Count, q.Count
		default:
			q.Count++
			a.NC = q.Count
		}
		switch {
		case a.NC == 0:
			continue // the INVITE of this ACK went without
		case q.Plain:
			a.NC = 0
		default:
			a.Cnonce = c.hash(8, "cnonce", string(c.key(leg)), formatCSeq(cseq, a.Method))
		}
		out = append(out, a)
	}
	return out
}

// Posed is a challenge as it came.
type Posed struct {
	Challenge
	Stale bool // its predecessor's nonce was too old: the password was right
}

// Refused reports whether challenges say that an answer of ours was wrong: its
// realm asks again, and not because the nonce was too old.
func Refused(given []Authorize, asked []Posed) bool {
	return slices.ContainsFunc(given, func(a Authorize) bool {
		again := func(q Posed) bool { return q.Realm == a.Realm && q.Proxy == a.Proxy }
		fresh := func(q Posed) bool { return again(q) && q.Stale }
		return slices.ContainsFunc(asked, again) && !slices.ContainsFunc(asked, fresh)
	})
}

// Pose puts challenges in the place of those that their realms have posed before.
func Pose(before []Challenge, asked []Posed) []Challenge {
	now := slices.DeleteFunc(slices.Clone(before), func(o Challenge) bool {
		return slices.ContainsFunc(asked, func(q Posed) bool { return q.Realm == o.Realm && q.Proxy == o.Proxy })
	})
	for _, q := range asked {
		now = append(now, q.Challenge)
	}
	return now[max(0, len(now)-maxChallenges):]
}

// ChallengesOf reads the challenges that can be answered, in their order: those
// whose algorithm we know, the first of each in a realm, with qop "auth" or without.
func ChallengesOf(m *Message) (out []Posed) {
	for _, h := range m.Headers {
		proxy := strings.EqualFold(h.Name, "Proxy-Authenticate")
		if !proxy && !strings.EqualFold(h.Name, "WWW-Authenticate") {
			continue
		}
		q, ok := readChallenge(h.Value)
		q.Proxy = proxy
		twice := func(o Posed) bool {
			return o.Realm == q.Realm && o.Proxy == proxy && cmp.Or(o.Algorithm, "MD5") == cmp.Or(q.Algorithm, "MD5")
		}
		if ok && len(out) < maxChallenges && !slices.ContainsFunc(out, twice) {
			out = append(out, q)
		}
	}
	return out
}

// readChallenge reads the value of one header (RFC 7616 3.3).
func readChallenge(value string) (q Posed, ok bool) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(value), " ")
	if !strings.EqualFold(scheme, "Digest") || len(value) > maxChallenge {
		return q, false
	}
	qop, hasQop, hasRealm := "", false, false
	for {
		if rest = strings.TrimLeft(rest, " \t,"); rest == "" {
			break
		}
		name, after, found := strings.Cut(rest, "=")
		if !found {
			return q, false
		}
		var v string
		if v, rest, ok = ParamValue(strings.TrimLeft(after, " \t")); !ok {
			return q, false
		}
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "realm":
			q.Realm, hasRealm = v, true
		case "nonce":
			q.Nonce = v
		case "opaque":
			q.Opaque = v
		case "algorithm":
			q.Algorithm = strings.ToUpper(v)
		case "stale":
			q.Stale = strings.EqualFold(v, "true")
		case "qop":
			qop, hasQop = v, true
		}
	}
	auth := slices.ContainsFunc(strings.Split(qop, ","), func(s string) bool { return strings.EqualFold(strings.TrimSpace(s), "auth") })
	q.Plain = !hasQop
	known := q.Algorithm == "" || q.Algorithm == "MD5" || q.Algorithm == "SHA-256"
	return q, hasRealm && q.Nonce != "" && known && (q.Plain || auth)
}

// ParamValue reads a token or a quoted string (RFC 3261 25.1), up to the comma.
func ParamValue(s string) (v, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		v, rest, _ = strings.Cut(s, ",")
		v = strings.TrimSpace(v)
		return v, rest, !strings.ContainsAny(v, "\" \t")
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		case '"':
			after := strings.TrimLeft(s[i+1:], " \t")
			return b.String(), after, after == "" || after[0] == ','
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", false
}
