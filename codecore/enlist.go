package codecore

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Enlist is how the switch registers at a carrier (RFC 3261 10.2). The user name
// and password of its digest stand where those of all trunks do, never here.
type Enlist struct {
	AOR     string  `json:"aor" yaml:"aor"`                             // "sip:4930123456@carrier.example": who we are there, To and From
	URI     string  `json:"uri,omitempty" yaml:"uri,omitempty"`         // the registrar: Request-URI; "" = the host of AOR
	Proxy   string  `json:"proxy,omitempty" yaml:"proxy,omitempty"`     // SIP URI that it is reached by: Route; "" = URI itself
	Expires Seconds `json:"expires,omitempty" yaml:"expires,omitempty"` // asked for; 0 = 3600
	Contact string  `json:"contact,omitempty" yaml:"contact,omitempty"` // user part of our Contact; "" = one that nobody can guess
	Number  string  `json:"number,omitempty" yaml:"number,omitempty"`   // that calls to the Contact are for; "" = the user of AOR, "to" = what their To says
}

// NumberOfTo, as Enlist.Number, takes the number from the To of each call.
const NumberOfTo = "to"

// Registrar is the Request-URI of the REGISTER.
func (r *Enlist) Registrar() string {
	if r.URI != "" {
		return r.URI
	}
	return "sip:" + hostOf(r.AOR)
}

// Seconds is what to ask for.
func (r *Enlist) Seconds() Seconds {
	if r.Expires == 0 {
		return 3600
	}
	return r.Expires
}

// Enlisted are the peers at which the switch registers, by name.
func (p *Plan) Enlisted() map[string]Enlist {
	out := map[string]Enlist{}
	for _, q := range p.Peers {
		if q.Register != nil {
			out[q.Name] = *q.Register
		}
	}
	return out
}

// EnlistID names the registration at a peer, as calls are named: the token of our
// Contact user, tags and branches begins with it.
func EnlistID(peer string) CallID {
	sum := sha256.Sum256([]byte("registration at " + peer))
	return CallID(hex.EncodeToString(sum[:12]))
}

// EnlistedAs is the peer at which we gave this Contact user away. The caller has
// verified its token; a user that the plan spells is no proof of anything.
func (p *Plan) EnlistedAs(id CallID) (peer string, ok bool) {
	for _, q := range p.Peers {
		if q.Register != nil && q.Register.Contact == "" && EnlistID(q.Name) == id {
			return q.Name, true
		}
	}
	return "", false
}

// called is the number that a peer's INVITE is for: that of its Request-URI,
// unless it is for the Contact that we have registered there.
func (p *Plan) called(peer string, m *Message) string {
	number := userOf(m.URI)
	q := p.peer(peer)
	if q == nil || q.Register == nil {
		return number
	}
	r := q.Register
	ours := number == r.Contact
	if r.Contact == "" {
		ours = strings.HasPrefix(number, string(EnlistID(peer)))
	}
	switch {
	case !ours:
		return number
	case r.Number == NumberOfTo:
		return userOf(uriOf(m.Get("To")))
	case r.Number != "":
		return r.Number
	}
	return userOf(r.AOR)
}

// check says what is wrong with it.
func (r *Enlist) check() string {
	for _, uri := range []string{r.AOR, r.URI, r.Proxy} {
		if strings.ContainsFunc(uri, func(ch rune) bool { return ch <= ' ' || ch == 0x7f || strings.ContainsRune(`<>"?`, ch) }) {
			return "register: a URI has spaces, quotes, brackets or headers in it"
		}
	}
	user := userOf(r.AOR)
	switch {
	case !isURI(r.AOR) || user == "" || hostOf(r.AOR) == "":
		return "register: aor: write whom the carrier knows us as, like sip:4930123456@carrier.example"
	case r.URI != "" && (!isURI(r.URI) || hostOf(r.URI) == "" || strings.Contains(r.URI, "@")):
		return "register: uri: write the registrar without a user, like sip:carrier.example"
	case r.Proxy != "" && (!isURI(r.Proxy) || hostOf(r.Proxy) == ""):
		return "register: proxy: write a URI like sip:192.0.2.1:5060"
	case r.Expires < 0 || r.Expires > 86400:
		return "register: expires: up to 86400 seconds"
	case r.Contact != escapeUser(r.Contact) || len(r.Contact) > 64:
		return "register: contact: up to 64 letters, digits and - _ . ! ~ * ' ( ) & = + $ , /"
	case r.Number != escapeUser(r.Number):
		return "register: number: write a number, or to"
	}
	return ""
}

// SameAccount reports whether two are one binding at one registrar.
func (r *Enlist) SameAccount(o Enlist) bool {
	return r.AOR == o.AOR && r.Registrar() == o.Registrar() && r.Proxy == o.Proxy && r.Contact == o.Contact
}
