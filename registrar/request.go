package registrar

import (
	"strconv"
	"strings"
	"time"

	"callswitch/codecore"
)

// A Request is what a REGISTER asks for (RFC 3261 10.2), read and bounded.
type Request struct {
	Account  string
	CallID   string
	CSeq     uint32
	Contacts []Contact // none: only tell what there is
	Wildcard bool      // "*": remove all
	Path     []string  // RFC 3327, as it stands: the first is nearest to us
	Agent    string    // User-Agent

	// From where it came, put in by the edge.
	Edge   string
	Flow   string
	Source string // "ip:port"
}

// A Contact is one address that a REGISTER names.
type Contact struct {
	URI      string
	Expires  time.Duration // asked for; negative: not said
	Instance string        // +sip.instance (RFC 5626 4.1), with its brackets
	RegID    int           // reg-id; 0: none
}

// A Refusal is the answer to a REGISTER that is not granted.
type Refusal struct {
	Status int
	Cause  string // stable reason code
	Header []codecore.Header
}

// Bounds of one request: what is kept of a binding is bounded by them.
const (
	maxContacts = 16
	maxURI      = 512
	maxText     = 256
	maxPath     = 8
)

// Read reads a REGISTER. The account is who authenticated; the address of
// record in To must be its own.
func Read(m *codecore.Message, account string) (Request, *Refusal) {
	r := Request{Account: account, CallID: m.Get("Call-ID"), Path: m.All("Path"), Agent: clip(m.Get("User-Agent"))}
	if userOf(uriOf(m.Get("To"))) != account {
		return r, &Refusal{Status: 403, Cause: "to-not-account"}
	}
	num, _, _ := strings.Cut(strings.TrimSpace(m.Get("CSeq")), " ")
	n, err := strconv.ParseUint(num, 10, 32)
	if err != nil || len(r.CallID) > maxText {
		return r, &Refusal{Status: 400, Cause: "header"}
	}
	r.CSeq = uint32(n)
	if unknown := unsupported(m.All("Require")); len(unknown) > 0 {
		return r, &Refusal{420, "extension", []codecore.Header{{Name: "Unsupported", Value: strings.Join(unknown, ", ")}}}
	}
	pathLen := 0
	for _, p := range r.Path {
		pathLen += len(p)
	}
	contacts := m.All("Contact")
	if len(contacts) > maxContacts || len(r.Path) > maxPath || pathLen > 2*maxURI {
		return r, &Refusal{Status: 400, Cause: "too-many"}
	}
	asked, err := seconds(m.Get("Expires"))
	if err != nil {
		asked = -1 // RFC 3261 20.19: malformed is as if it were not there
	}
	for _, v := range contacts {
		if strings.TrimSpace(v) == "*" {
			r.Wildcard = true
			continue
		}
		c, ok := readContact(v, asked)
		if !ok {
			return r, &Refusal{Status: 400, Cause: "contact"}
		}
		r.Contacts = append(r.Contacts, c)
	}
	if r.Wildcard && (len(contacts) > 1 || asked != 0) { // RFC 3261 10.3, step 6
		return r, &Refusal{Status: 400, Cause: "wildcard"}
	}
	return r, nil
}

func unsupported(required []string) (unknown []string) {
	for _, list := range required {
		for _, tag := range strings.Split(list, ",") {
			if tag = strings.TrimSpace(tag); tag != "" && !strings.EqualFold(tag, "path") && !strings.EqualFold(tag, "outbound") {
				unknown = append(unknown, clip(tag))
			}
		}
	}
	return unknown
}

// seconds reads a delta-seconds; "" is -1.
func seconds(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return -1, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return time.Duration(n) * time.Second, err
}

func readContact(v string, expires time.Duration) (c Contact, ok bool) {
	c = Contact{URI: codecore.RequestURI(uriOf(v)), Expires: expires}
	var params string
	if _, rest, angle := cutName(v); angle {
		_, params, _ = strings.Cut(rest, ">")
	} else {
		_, params, _ = strings.Cut(v, ";")
	}
	for _, p := range splitQuoted(params, ';') {
		name, value, _ := strings.Cut(p, "=")
		value = strings.TrimSpace(value)
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "expires":
			if d, err := seconds(value); err == nil && d >= 0 {
				c.Expires = d
			}
		case "+sip.instance":
			c.Instance = clip(strings.Trim(value, `"`))
		case "reg-id":
			if n, err := strconv.ParseUint(value, 10, 31); err == nil {
				c.RegID = int(n)
			}
		}
	}
	scheme, _, _ := strings.Cut(c.URI, ":")
	ok = (strings.EqualFold(scheme, "sip") || strings.EqualFold(scheme, "sips")) && len(c.URI) <= maxURI && hostOf(c.URI) != "" &&
		!strings.ContainsAny(c.URI, " <>\"\t\r\n")
	return c, ok
}

func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxText)], "") }

// splitQuoted splits at sep, quoted strings passed over.
func splitQuoted(s string, sep byte) (parts []string) {
	quoted, from := false, 0
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case !quoted && s[i] == sep:
			parts = append(parts, s[from:i])
			from = i + 1
		}
	}
	return append(parts, s[from:])
}

// cutName splits `"Name" <uri>…` at the angle, quoted strings passed over.
func cutName(v string) (name, rest string, ok bool) {
	quoted := false
	for i := 0; i < len(v); i++ {
		switch {
		case quoted && v[i] == '\\':
			i++
		case v[i] == '"':
			quoted = !quoted
		case !quoted && v[i] == '<':
			return strings.TrimSpace(v[:i]), v[i+1:], true
		}
	}
	return "", "", false
}

// uriOf reads the URI of a name-addr or addr-spec (RFC 3261 20.10).
func uriOf(v string) string {
	if _, rest, ok := cutName(v); ok {
		uri, _, _ := strings.Cut(rest, ">")
		return strings.TrimSpace(uri)
	}
	uri, _, _ := strings.Cut(v, ";")
	return strings.TrimSpace(uri)
}

// UserOf reads the account that a From or To header names.
func UserOf(header string) string { return userOf(uriOf(header)) }

// userOf is the user part of a SIP URI, as it stands.
func userOf(uri string) string {
	_, rest, _ := strings.Cut(uri, ":")
	user, _, ok := strings.Cut(rest, "@")
	if !ok {
		return ""
	}
	user, _, _ = strings.Cut(user, ":")
	user, _, _ = strings.Cut(user, ";")
	return user
}

// hostOf is host[:port] of a SIP URI.
func hostOf(uri string) string {
	_, rest, _ := strings.Cut(uri, ":")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = rest[i+1:]
	}
	if end := strings.IndexAny(rest, ";?"); end >= 0 {
		rest = rest[:end]
	}
	return rest
}
