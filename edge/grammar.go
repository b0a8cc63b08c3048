package edge

import (
	"net/netip"
	"strconv"
	"strings"
)

// The productions of RFC 3261 section 25.1 that the edge reads itself. They are
// strict where two readers could see different things (quotes, angles, ports,
// escapes) and take what phones are known to write elsewhere.

// uri is a URI of a SIP header. Of one that is not sip or sips only the scheme
// is known: rest is opaque.
type uri struct {
	scheme  string // small letters
	user    string // with its password, escapes as written
	host    string // small letters, an IPv6 address without brackets
	port    int    // 0 = none
	params  string // ";a=b" as written
	headers string // "?a=b" as written
}

func (u *uri) sip() bool { return u.scheme == "sip" || u.scheme == "sips" }

// parseURI reads an absolute URI.
func parseURI(s string) (u uri, ok bool) {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok || !isScheme(scheme) || rest == "" || !visible(s) {
		return u, false
	}
	u.scheme = strings.ToLower(scheme)
	if !u.sip() {
		return u, true
	}
	if i := strings.IndexByte(rest, '@'); i >= 0 { // only as the end of the user part: elsewhere it is escaped
		u.user, rest = rest[:i], rest[i+1:]
		if u.user == "" || strings.IndexByte(rest, '@') >= 0 || !escapes(u.user) {
			return u, false
		}
	}
	end := strings.IndexAny(rest, ";?")
	if end < 0 {
		end = len(rest)
	}
	if u.host, u.port, ok = hostPort(rest[:end]); !ok {
		return u, false
	}
	u.params = rest[end:]
	if i := strings.IndexByte(u.params, '?'); i >= 0 {
		u.params, u.headers = u.params[:i], u.params[i:]
	}
	return u, escapes(u.params) && escapes(u.headers)
}

// param is the value of a URI parameter.
func (u *uri) param(name string) (value string, ok bool) {
	for _, p := range strings.Split(u.params, ";") {
		n, v, _ := strings.Cut(p, "=")
		if strings.EqualFold(n, name) {
			return v, true
		}
	}
	return "", false
}

func isScheme(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i] | 0x20; {
		case 'a' <= c && c <= 'z':
		case i > 0 && ('0' <= s[i] && s[i] <= '9' || s[i] == '+' || s[i] == '-' || s[i] == '.'):
		default:
			return false
		}
	}
	return s != ""
}

// visible: printable ASCII without what ends a URI.
func visible(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '<' || c == '>' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// escapes: each % begins an escaped byte.
func escapes(s string) bool {
	for {
		i := strings.IndexByte(s, '%')
		if i < 0 {
			return true
		}
		if len(s) < i+3 || !isHex(s[i+1]) || !isHex(s[i+2]) {
			return false
		}
		s = s[i+3:]
	}
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}

// hostPort reads host[:port]; an IPv6 address stands in brackets (RFC 3261
// 19.1.1, RFC 5118 4.2), blanks may stand around the colon (25.1, COLON).
func hostPort(s string) (host string, port int, ok bool) {
	if strings.HasPrefix(s, "[") {
		in, after, ok := strings.Cut(s[1:], "]")
		a, err := netip.ParseAddr(in)
		if !ok || err != nil || !a.Is6() || a.Zone() != "" {
			return "", 0, false
		}
		host, s = strings.ToLower(in), strings.TrimLeft(after, " \t")
	} else {
		end := strings.IndexByte(s, ':')
		if end < 0 {
			end = len(s)
		}
		host, s = strings.ToLower(strings.TrimRight(s[:end], " \t")), s[end:]
		if !isHost(host) {
			return "", 0, false
		}
	}
	if s == "" {
		return host, 0, true
	}
	if s[0] != ':' {
		return "", 0, false
	}
	n, err := strconv.ParseUint(strings.Trim(s[1:], " \t"), 10, 16)
	return host, int(n), err == nil && n > 0
}

// isHost: a name or an IPv4 address. The underscore is no letter of a host name
// but stands in many.
func isHost(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		default:
			return false
		}
	}
	return s != "" && len(s) < 256
}

// isAddress tells whether a host is an IP address, and which.
func isAddress(host string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(host)
	return a.Unmap(), err == nil
}

// address is a name-addr or addr-spec with its parameters (RFC 3261 20.10): the
// value of From, To, Contact, Route.
type address struct {
	uri    uri
	tag    string
	params string // behind the address, from the first ";"
}

// maxParams bounds the parameters of one header value.
const maxParams = 64

// parseAddress reads a name-addr or addr-spec. A bare addr-spec cannot have
// parameters or headers of its own: they are the header's (20.10).
func parseAddress(v string) (a address, ok bool) {
	var text string
	if i, found := angle(v); found {
		j := strings.IndexByte(v[i:], '>')
		if j < 0 || !isName(strings.TrimSpace(v[:i])) {
			return a, false
		}
		text, a.params = v[i+1:i+j], strings.TrimLeft(v[i+j+1:], " \t")
	} else {
		end := strings.IndexByte(v, ';')
		if end < 0 {
			end = len(v)
		}
		text, a.params = strings.TrimRight(v[:end], " \t"), v[end:]
		if strings.IndexByte(text, '?') >= 0 {
			return a, false
		}
	}
	if a.uri, ok = parseURI(text); !ok {
		return a, false
	}
	ok = eachParam(a.params, func(name, value string) {
		if a.tag == "" && strings.EqualFold(name, "tag") {
			a.tag = value
		}
	})
	return a, ok && (a.tag == "" || isToken(a.tag))
}

// plainParams: no parameter hides, in quotes, what ends one. In From and To,
// which others read for their tag, that would be two tags for two readers.
func (a *address) plainParams() bool {
	plain := true
	eachParam(a.params, func(_, value string) { plain = plain && !strings.ContainsAny(value, ";>") })
	return plain
}

// angle finds the first "<" outside quotes.
func angle(v string) (int, bool) {
	quoted := false
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == '<' && !quoted:
			return i, true
		}
	}
	return 0, false
}

// isName: a display name is a quoted string or words. Words are tokens by the
// RFC; letters outside ASCII and most signs are taken too, but nothing that
// structures a header.
func isName(s string) bool {
	if strings.HasPrefix(s, `"`) {
		n := quotedLen(s)
		return n == len(s)
	}
	return !strings.ContainsAny(s, "\",;:<>@\\")
}

// quotedLen is the length of the quoted string that s begins with, -1 without
// an end.
func quotedLen(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

// eachParam reads ";name=value;name…" with blanks around the signs.
func eachParam(s string, f func(name, value string)) bool {
	for n := 0; s != ""; n++ {
		if s[0] != ';' || n == maxParams {
			return false
		}
		s = strings.TrimLeft(s[1:], " \t")
		end := strings.IndexAny(s, ";=")
		if end < 0 {
			end = len(s)
		}
		name := strings.TrimRight(s[:end], " \t")
		s = s[end:]
		value := ""
		if s != "" && s[0] == '=' {
			s = strings.TrimLeft(s[1:], " \t")
			if strings.HasPrefix(s, `"`) {
				end = quotedLen(s)
				if end < 0 {
					return false
				}
			} else if end = strings.IndexByte(s, ';'); end < 0 {
				end = len(s)
			}
			value = strings.TrimRight(s[:end], " \t")
			s = strings.TrimLeft(s[end:], " \t")
			if value == "" || value[0] != '"' && strings.ContainsAny(value, " \t\",<>") {
				return false
			}
		}
		if !isToken(name) {
			return false
		}
		f(name, value)
	}
	return true
}

// parseVia reads one Via value (RFC 3261 20.42).
func parseVia(v string) (t topVia, ok bool) {
	protocol, v, ok1 := strings.Cut(v, "/")
	version, v, ok2 := strings.Cut(v, "/")
	if !ok1 || !ok2 || !strings.EqualFold(strings.TrimSpace(protocol), "SIP") || strings.TrimSpace(version) != "2.0" {
		return t, false
	}
	v = strings.TrimLeft(v, " \t")
	end := strings.IndexAny(v, " \t")
	if end < 0 || !isToken(v[:end]) {
		return t, false
	}
	t.transport = strings.ToUpper(v[:end])
	v = strings.TrimLeft(v[end:], " \t")
	end = strings.IndexByte(v, ';')
	if end < 0 {
		end = len(v)
	}
	if t.host, t.port, ok = hostPort(strings.TrimRight(v[:end], " \t")); !ok {
		return t, false
	}
	t.sentBy = t.host + ":" + strconv.Itoa(t.port)
	t.params = v[end:]
	ok = eachParam(t.params, func(name, value string) {
		switch {
		case strings.EqualFold(name, "branch") && t.branch == "":
			t.branch = value
		case strings.EqualFold(name, "rport"):
			t.rport = true
		}
	})
	return t, ok && (t.branch == "" || isToken(t.branch) || visible(t.branch))
}

// parseCSeq reads "102 INVITE" (RFC 3261 8.1.1.5: below 2^31).
func parseCSeq(v string) (number, method string, ok bool) {
	end := strings.IndexAny(v, " \t")
	if end < 0 {
		return "", "", false
	}
	n, err := strconv.ParseUint(v[:end], 10, 31)
	method = strings.TrimLeft(v[end:], " \t")
	return strconv.FormatUint(n, 10), method, err == nil && isToken(method)
}
