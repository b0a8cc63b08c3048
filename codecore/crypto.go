package codecore

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pion/sdp/v3"
)

// SDES: keys in the SDP (RFC 4568). "a=crypto:1 AES_CM_128_HMAC_SHA1_80
// inline:{sealed:…}|2^20".

// suites are those that we speak, the best first. What is offered leaves out the
// short tag.
var (
	suites        = []string{"AEAD_AES_256_GCM", "AEAD_AES_128_GCM", "AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32"}
	offeredSuites = suites[:3]
)

const maxCrypto = 32 // a=crypto lines of one m= line

// keysIn reads the a=crypto lines of an offer and takes the best suite; of an
// answer to ask, the one it has chosen.
func keysIn(m *sdp.MediaDescription, ask *Ask) (choice, error) {
	best, found, n := len(suites), choice{media: m}, 0
	for _, a := range m.Attributes {
		if a.Key != "crypto" {
			continue
		}
		if n++; n > maxCrypto {
			return found, fmt.Errorf("%w: more than %d", ErrSuite, maxCrypto)
		}
		tag, suite, key, ok := cryptoOf(a.Value)
		if !ok || ask != nil && !ask.offers(tag, suite) {
			continue
		}
		if i := slices.Index(suites, suite); i >= 0 && i < best {
			best, found.crypto, found.secure = i, tag, &Secure{Kind: SecureSDES, Suite: suite, Key: key}
		}
	}
	switch {
	case n == 0:
		return found, fmt.Errorf("%w: no keys", ErrSecure)
	case found.secure == nil:
		return found, ErrSuite
	}
	return found, nil
}

// offers reports whether an answer may take that line of our offer.
func (a *Ask) offers(tag, suite string) bool {
	if a.Suite != "" {
		return tag == "1" && suite == a.Suite
	}
	i := slices.Index(offeredSuites, suite)
	return i >= 0 && tag == fmt.Sprint(i+1)
}

// cryptoOf reads one line; false for what we cannot do: several keys, a key with
// an MKI, session parameters other than WSH (RFC 4568 6.3).
func cryptoOf(v string) (tag, suite, key string, ok bool) {
	w := strings.Fields(v)
	if len(w) < 3 || len(w[0]) > 9 || strings.Trim(w[0], "0123456789") != "" {
		return "", "", "", false
	}
	rest, inline := strings.CutPrefix(w[2], "inline:")
	key, params, _ := strings.Cut(rest, "|")
	key, sealed := unsealed(key)
	if !inline || !sealed || strings.ContainsAny(params, ":;") {
		return "", "", "", false
	}
	for _, p := range w[3:] {
		if !strings.HasPrefix(p, "WSH=") && !strings.HasPrefix(p, "-") {
			return "", "", "", false
		}
	}
	return w[0], w[1], key, true
}

// unsealed takes the text out of {sealed:TEXT}.
func unsealed(v string) (text string, ok bool) {
	if !strings.HasPrefix(v, "{sealed:") || !strings.HasSuffix(v, "}") {
		return "", false
	}
	text = v[len("{sealed:") : len(v)-1]
	return text, text != "" && len(text) <= 1024 && !strings.ContainsAny(text, "{}:")
}

// cryptoLines are those of an SDP of ours.
func (f *shape) cryptoLines(line func(string, ...any)) {
	switch s := f.secure; {
	case f.crypto != "":
		line("a=crypto:%s %s inline:{own:srtp:%[2]s:%s}", f.crypto, s.Suite, s.Own)
	case s.Suite != "":
		line("a=crypto:1 %s inline:{own:srtp:%[1]s:%s}", s.Suite, s.Own)
	default:
		for i, suite := range offeredSuites {
			line("a=crypto:%d %s inline:{own:srtp:%[2]s:%s}", i+1, suite, s.Own)
		}
	}
}
