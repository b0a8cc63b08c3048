package edge

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"

	"callswitch/codecore"
	"callswitch/secrets"
)

// What an SDP says in confidence stays at the edge: codecore reads and writes names
// (codecore/secure.go), here they become secrets, and secrets names.
//
//	from the network   a=ice-pwd, keys of a=crypto   {sealed:TEXT}, or {bad}
//	                   k=, a=key-mgmt                left out: nobody here speaks them
//	                   {own:…, {sealed:…             (own:…, (sealed:…: no party speaks to us like that
//	to the network     {own:…}                       ours, by package secrets

// vault has the secrets of the cluster.
type vault struct {
	key         *secrets.Key
	fingerprint string
}

func newVault(clusterKey []byte) (v vault, err error) {
	if v.key, err = secrets.New(clusterKey); err == nil {
		_, v.fingerprint, err = v.key.Certificate()
	}
	return v, err
}

// ourWords are what only codecore may write, and what becomes of them.
var ourWords = [][2][]byte{
	{[]byte("{own:"), []byte("(own:")}, {[]byte("{sealed:"), []byte("(sealed:")},
}

// seal makes the body of a message that came in fit for codecore, records and logs.
// One without a secret, which is most of them, is not copied.
func (v *vault) seal(call codecore.CallID, m *codecore.Message) {
	if len(m.Body) == 0 {
		return
	}
	for _, w := range ourWords {
		if bytes.Contains(m.Body, w[0]) {
			m.Body = bytes.ReplaceAll(m.Body, w[0], w[1])
		}
	}
	if !isSDP(m) {
		return
	}
	var out []byte // what was before at, sealed; nil: nothing was to be
	done := 0
	for at := 0; at < len(m.Body); {
		end := at + bytes.IndexByte(m.Body[at:], '\n') + 1
		if end == at {
			end = len(m.Body)
		}
		line := m.Body[at:end]
		if confidential(line) {
			text := bytes.TrimRight(line, "\r\n")
			out = append(append(out, m.Body[done:at]...), v.hide(call, string(text))...)
			out = append(out, line[len(text):]...)
			done = end
		}
		at = end
	}
	if out != nil {
		m.Body = append(out, m.Body[done:]...)
	}
}

// isSDP reports whether a body may be read as SDP: codecore does not ask a response
// for its type.
func isSDP(m *codecore.Message) bool {
	kind := m.Get("Content-Type")
	return len(kind) >= len(sdpType) && strings.EqualFold(kind[:len(sdpType)], sdpType) || bytes.HasPrefix(bytes.TrimLeft(m.Body, " \t\r\n"), []byte("v="))
}

const sdpType = "application/sdp"

// confidential reports whether a line of an SDP holds a secret.
func confidential(line []byte) bool {
	if len(line) < 2 {
		return false
	}
	switch line[0] {
	case 'k', 'K':
		return line[1] == '='
	case 'a', 'A':
		rest := bytes.TrimLeft(line[2:], " \t")
		return hasFold(rest, "ice-pwd:") || hasFold(rest, "crypto:") || hasFold(rest, "key-mgmt:")
	}
	return false
}

func hasFold(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && strings.EqualFold(string(b[:len(prefix)]), prefix)
}

// hide is a line without its secret.
func (v *vault) hide(call codecore.CallID, line string) string {
	name, value, _ := strings.Cut(line[2:], ":") // what stands before it may be a colon, too
	kind := strings.ToLower(strings.TrimLeft(name, " \t"))
	name = line[:2] + name
	switch {
	case line[0] != 'a' && line[0] != 'A', kind == "key-mgmt":
		return "k=prompt" // RFC 8866 5.12: a key, but not here
	case kind == "ice-pwd":
		value = strings.TrimSpace(value)
		if n := len(value); n < 22 || n > 256 || strings.ContainsAny(value, " \t") { // RFC 8839 5.4
			return name + ":{bad}"
		}
		return name + ":{sealed:" + v.key.Hide(string(call), value) + "}"
	}
	words := strings.Fields(value)
	suite := ""
	if len(words) > 1 {
		suite = words[1]
	}
	for i := 2; i < len(words); i++ {
		if i > 2 && slices.ContainsFunc(sessionParams, func(p string) bool { return strings.HasPrefix(words[i], p) }) {
			continue
		}
		keys := strings.Split(words[i], ";") // RFC 4568 6.1: several, told apart by an MKI
		for j, k := range keys {
			method, rest, _ := strings.Cut(k, ":")
			key, params, more := strings.Cut(rest, "|")
			if keys[j] = "{bad}"; i > 2 || !strings.EqualFold(method, "inline") || strings.Trim(params, "0123456789^:|") != "" {
				continue
			}
			keys[j] = "inline:" + v.srtpKey(call, suite, key)
			if more {
				keys[j] += "|" + params
			}
		}
		words[i] = strings.Join(keys, ";")
	}
	return name + ":" + strings.Join(words, " ")
}

// sessionParams are those of RFC 4568 6.3 that hold no key.
var sessionParams = []string{"KDR=", "WSH=", "UNENCRYPTED_SRT", "UNAUTHENTICATED_SRTP", "FEC_ORDER=", "-"}

// srtpKey seals master key and salt, which are as long as the suite wants them.
func (v *vault) srtpKey(call codecore.CallID, suite, key string) string {
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(key, "="))
	if n, known := secrets.SuiteBytes[suite]; err != nil || known && len(b) != n || len(b) == 0 || len(b) > 128 {
		return "{bad}"
	}
	return "{sealed:" + v.key.Hide(string(call), base64.StdEncoding.EncodeToString(b)) + "}"
}

// fill puts our secrets into the SDP of a message that goes out; false when a name
// stands for none.
func (v *vault) fill(call codecore.CallID, m *codecore.Message) bool {
	own := ourWords[0][0]
	if !bytes.Contains(m.Body, own) || !strings.HasPrefix(strings.ToLower(m.Get("Content-Type")), sdpType) {
		return true
	}
	rest, out, ok := m.Body, make([]byte, 0, len(m.Body)+512), true
	for {
		before, after, found := bytes.Cut(rest, own)
		if out = append(out, before...); !found {
			break
		}
		name, after, closed := bytes.Cut(after, []byte("}"))
		value := ""
		if closed {
			value = v.value(string(call), strings.Split(string(name), ":"))
		}
		if value == "" {
			ok = false
		}
		out, rest = append(out, value...), after
	}
	m.Body = out
	return ok
}

// value is what a name stands for; "" for none.
func (v *vault) value(call string, name []string) string {
	switch {
	case len(name) == 1 && name[0] == "fingerprint":
		return v.fingerprint
	case len(name) == 2 && name[0] == "ufrag":
		ufrag, _ := v.key.ICE(call, name[1])
		return ufrag
	case len(name) == 2 && name[0] == "pwd":
		_, pwd := v.key.ICE(call, name[1])
		return pwd
	case len(name) == 3 && name[0] == "srtp":
		if b := v.key.SRTP(call, name[2], name[1]); b != nil {
			return base64.StdEncoding.EncodeToString(b)
		}
	}
	return ""
}

// fill puts our secrets into what an action sends.
func (e *Edge) fill(c *call, a *codecore.Action) {
	ok := true
	switch {
	case a.Request != nil:
		ok = e.vault.fill(c.id, &a.Request.Msg)
	case a.Response != nil:
		ok = e.vault.fill(c.id, &a.Response.Msg)
	}
	if !ok {
		e.stats.count(badAction)
	}
}
