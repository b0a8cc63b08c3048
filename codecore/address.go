package codecore

import (
	"net/url"
	"strconv"
	"strings"
)

// What is read from, and written into, the address-like headers of RFC 3261.

// cseqOf reads "102 INVITE".
func cseqOf(m *Message) (n uint32, method string) {
	num, method, _ := strings.Cut(strings.TrimSpace(m.Get("CSeq")), " ")
	v, _ := strconv.ParseUint(num, 10, 32)
	return uint32(v), strings.TrimSpace(method)
}

// tagOf reads the tag parameter of a From or To value, and the value without it.
func tagOf(value string) (bare, tag string) {
	start := strings.LastIndexByte(value, '>') // parameters of the header stand behind it
	if start < 0 {
		start = 0
		if i := strings.IndexByte(value, ';'); i >= 0 {
			start = i
		}
	}
	head, params := value[:start], value[start:]
	var kept strings.Builder
	for i, p := range strings.Split(params, ";") {
		name, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		if i > 0 && strings.EqualFold(strings.TrimSpace(name), "tag") {
			tag = strings.TrimSpace(v)
			continue
		}
		if i > 0 {
			kept.WriteByte(';')
		}
		kept.WriteString(p)
	}
	return strings.TrimSpace(head + kept.String()), tag
}

func toTag(m *Message) string {
	_, tag := tagOf(m.Get("To"))
	return tag
}

// uriOf reads the URI of a name-addr or addr-spec (RFC 3261 20.10).
func uriOf(value string) string {
	if _, rest, ok := cutName(value); ok {
		uri, _, _ := strings.Cut(rest, ">")
		return strings.TrimSpace(uri)
	}
	uri, _, _ := strings.Cut(value, ";")
	return strings.TrimSpace(uri)
}

// cutName splits `"Name" <uri>…` at the angle, quoted strings passed over.
func cutName(value string) (name, rest string, ok bool) {
	quoted := false
	for i := 0; i < len(value); i++ {
		switch {
		case quoted && value[i] == '\\':
			i++
		case value[i] == '"':
			quoted = !quoted
		case !quoted && value[i] == '<':
			return strings.TrimSpace(value[:i]), value[i+1:], true
		}
	}
	return "", "", false
}

// userOf reads the user part of a SIP or tel URI: the number, unescaped
// (RFC 3261 19.1.2) and, of a tel URI, without visual separators (RFC 3966 5.1.1).
func userOf(uri string) string {
	scheme, rest, ok := strings.Cut(uri, ":")
	if !ok {
		return ""
	}
	if strings.EqualFold(scheme, "tel") {
		num, _, _ := strings.Cut(rest, ";")
		return strings.NewReplacer("-", "", ".", "", "(", "", ")", "").Replace(num)
	}
	user, _, ok := strings.Cut(rest, "@")
	if !ok {
		return ""
	}
	user, _, _ = strings.Cut(user, ":")
	user, _, _ = strings.Cut(user, ";")
	plain, err := url.PathUnescape(user)
	if err != nil || strings.ContainsFunc(plain, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return user
	}
	return plain
}

// escapeUser writes a number as the user part of a SIP URI: what RFC 3261 25.1
// does not allow there is escaped.
func escapeUser(user string) string {
	var b strings.Builder
	for i := range len(user) {
		ch := user[i]
		switch {
		case '0' <= ch && ch <= '9', 'a' <= ch && ch <= 'z', 'A' <= ch && ch <= 'Z', strings.IndexByte("-_.!~*'()&=+$,/", ch) >= 0:
			b.WriteByte(ch)
		default:
			b.WriteByte('%')
			b.WriteString(strings.ToUpper(strconv.FormatUint(uint64(ch)|0x100, 16)[1:]))
		}
	}
	return b.String()
}

// schemeOf is the scheme of a URI, in small letters.
func schemeOf(uri string) string {
	scheme, _, _ := strings.Cut(uri, ":")
	return strings.ToLower(scheme)
}

// contactOf is the remote target that a message names (RFC 3261 12.1), or "".
func contactOf(m *Message) string {
	if uri := uriOf(m.Get("Contact")); strings.HasPrefix(schemeOf(uri), "sip") {
		return RequestURI(uri)
	}
	return ""
}

// RequestURI is a SIP URI without the headers that one in a Contact or a page may
// ask for, and a Request-URI cannot have (RFC 3261 19.1.1). A user part may have a
// question mark of its own.
func RequestURI(uri string) string {
	host := strings.IndexByte(uri, '@') + 1
	before, _, _ := strings.Cut(uri[host:], "?")
	return uri[:host] + before
}

// hopsOf is how many more hops a request that we pass on may make: one less than
// it had (RFC 3261 16.6), 70 when it did not say.
func hopsOf(m *Message) (hops int, ok bool) {
	v := m.Get("Max-Forwards")
	if v == "" {
		return 70, true
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		return 70, true
	}
	return min(n, 255) - 1, n > 0
}

// hostOf reads host[:port] of a SIP URI.
func hostOf(uri string) string {
	_, rest, _ := strings.Cut(uri, ":")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = rest[i+1:]
	}
	end := strings.IndexAny(rest, ";?")
	if end >= 0 {
		rest = rest[:end]
	}
	return rest
}
