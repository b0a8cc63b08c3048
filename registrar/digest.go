package registrar

import (
	"crypto/subtle"
	"strconv"
	"strings"

	"callswitch/codecore"
)

// credentials are an Authorization or Proxy-Authorization header (RFC 7616 3.4).
type credentials struct {
	username, realm, nonce, uri, response, algorithm, cnonce, qop string
	nc                                                            uint32
}

// maxCredentials bounds a header that is worth reading.
const maxCredentials = 2048

// parseCredentials reads a header's value; ok false: not digest, or malformed.
// A parameter that stands twice is malformed: two readers would see two answers.
func parseCredentials(value string) (c credentials, ok bool) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(value), " ")
	if !strings.EqualFold(scheme, "Digest") || len(value) > maxCredentials {
		return c, false
	}
	seen := map[string]bool{}
	for {
		rest = strings.TrimLeft(rest, " \t,")
		if rest == "" {
			break
		}
		name, after, found := strings.Cut(rest, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if !found || name == "" || seen[name] {
			return c, false
		}
		seen[name] = true
		var v string
		if v, rest, ok = codecore.ParamValue(strings.TrimLeft(after, " \t")); !ok {
			return c, false
		}
		switch name {
		case "username":
			c.username = v
		case "realm":
			c.realm = v
		case "nonce":
			c.nonce = v
		case "uri":
			c.uri = v
		case "response":
			c.response = strings.ToLower(v)
		case "algorithm":
			c.algorithm = v
		case "cnonce":
			c.cnonce = v
		case "qop":
			c.qop = strings.ToLower(v)
		case "nc":
			n, err := strconv.ParseUint(v, 16, 32)
			if err != nil || len(v) != 8 {
				return c, false
			}
			c.nc = uint32(n)
		}
	}
	switch { // RFC 7616 3.4: without one it is MD5
	case c.algorithm == "" || strings.EqualFold(c.algorithm, MD5):
		c.algorithm = MD5
	case strings.EqualFold(c.algorithm, SHA256):
		c.algorithm = SHA256
	default:
		return c, false
	}
	return c, c.username != "" && c.nonce != "" && c.uri != "" && c.response != ""
}

// answer is the request-digest of RFC 7616 3.4.1 for qop=auth.
func answer(c credentials, ha1, method string) string {
	ha2 := sum(c.algorithm, method+":"+c.uri)
	return sum(c.algorithm, strings.Join([]string{ha1, c.nonce, hex8(c.nc), c.cnonce, c.qop, ha2}, ":"))
}

func hex8(n uint32) string {
	s := strconv.FormatUint(uint64(n), 16)
	return "00000000"[:8-len(s)] + s
}

// knows reports whether the credentials were made by somebody who knows the
// password. It takes as long for an account without such a hash.
func (c credentials) knows(a Account, method string) bool {
	ha1 := a.ha1(c.algorithm)
	want := answer(c, ha1, method)
	return subtle.ConstantTimeCompare([]byte(want), []byte(c.response)) == 1 && ha1 != ""
}
