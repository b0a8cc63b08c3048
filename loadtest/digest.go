package loadtest

import (
	"context"
	"crypto/md5" //nolint:gosec // what carriers and phones still use
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Digest (RFC 7616, RFC 3261 section 22) as the rig's phone answers it and as its
// carrier asks for it; written apart from the switch's own.

// rigUser is the account of the rig's phone, and our name at its carrier.
const rigUser, rigPassword, rigRealm = "rig", "open-sesame", "carrier.rig"

var errNoChallenge = errors.New("loadtest: no challenge that the rig can answer")

func digestHash(algorithm string, parts ...string) string {
	s := []byte(strings.Join(parts, ":"))
	if algorithm == "MD5" {
		return fmt.Sprintf("%x", md5.Sum(s)) //nolint:gosec // see above
	}
	return fmt.Sprintf("%x", sha256.Sum256(s))
}

// digestParams reads the parameters after "Digest".
func digestParams(value string) map[string]string {
	out := map[string]string{}
	value, ok := strings.CutPrefix(value, "Digest ")
	if !ok {
		return out
	}
	for value != "" {
		name, rest, ok := strings.Cut(value, "=")
		if !ok {
			break
		}
		v, after, _ := strings.Cut(rest, ",")
		if strings.HasPrefix(rest, `"`) {
			v, after, _ = strings.Cut(rest[1:], `"`)
			_, after, _ = strings.Cut(after, ",")
		}
		out[strings.ToLower(strings.TrimSpace(name))] = strings.TrimSpace(v)
		value = after
	}
	return out
}

func digestResponse(p map[string]string, method, password string) string {
	alg := p["algorithm"]
	ha1 := digestHash(alg, p["username"], p["realm"], password)
	return digestHash(alg, ha1, p["nonce"], p["nc"], p["cnonce"], p["qop"], digestHash(alg, method, p["uri"]))
}

// credentials answer the first challenge of a 401 or 407 that the rig understands.
func credentials(m *message, method, uri, user, password string) (string, error) {
	name, answer := "www-authenticate", "Authorization"
	if m.code == 407 {
		name, answer = "proxy-authenticate", "Proxy-Authorization"
	}
	for _, v := range m.all(name) {
		p := digestParams(v)
		if p["algorithm"] == "" {
			p["algorithm"] = "MD5"
		}
		if p["nonce"] == "" || !strings.Contains(p["qop"], "auth") || p["algorithm"] != "MD5" && p["algorithm"] != "SHA-256" {
			continue
		}
		p["username"], p["uri"], p["nc"], p["cnonce"], p["qop"] = user, uri, "00000001", randomHex(8), "auth"
		s := fmt.Sprintf(`%s: Digest username=%q, realm=%q, nonce=%q, uri=%q, response=%q, algorithm=%s, cnonce=%q, qop=auth, nc=%s`,
			answer, user, p["realm"], p["nonce"], uri, digestResponse(p, method, password), p["algorithm"], p["cnonce"], p["nc"])
		if p["opaque"] != "" {
			s += fmt.Sprintf(", opaque=%q", p["opaque"])
		}
		return s, nil
	}
	return "", errNoChallenge
}

// Authorize sends the INVITE again, with the password that it was asked for, and
// waits for the final response. Where only the nonce is too old (RFC 7616 section
// 3.3, stale) it does so once more, as a phone would.
func (l *Leg) Authorize(ctx context.Context) (code int, err error) {
	for range 2 {
		if code, err = l.authorize(ctx); err != nil || !l.staleNonce() {
			break
		}
	}
	return code, err
}

func (l *Leg) staleNonce() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.invite.final == l.ask401 && isStale(l.ask401)
}

// isStale tells a 401 or 407 that has nothing against the password.
func isStale(m *message) bool {
	for _, name := range []string{"www-authenticate", "proxy-authenticate"} {
		for _, v := range m.all(name) {
			if strings.EqualFold(digestParams(v)["stale"], "true") {
				return true
			}
		}
	}
	return false
}

func (l *Leg) authorize(ctx context.Context) (code int, err error) {
	l.mu.Lock()
	var auth string
	if auth, err = credentials(l.ask401, "INVITE", l.target, l.user, rigPassword); err == nil {
		l.version--
		l.invite, err = l.start("INVITE", "application/sdp", l.sdp(sendRecv), []string{auth})
	}
	l.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return l.Final(ctx)
}

// Challenge answers the INVITE with 407; the one with the password is then there
// (Asked), unanswered, or refused with 403.
func (l *Leg) Challenge() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.user = rigUser
	l.incoming.more = []string{fmt.Sprintf("Proxy-Authenticate: Digest realm=%q, nonce=%q, algorithm=SHA-256, qop=\"auth\"", rigRealm, "n"+l.localTag)}
	l.incoming.send(407, "Proxy Authentication Required", nil)
}

// authorized takes the INVITE that follows a challenge of ours; l.mu is held.
func (l *Leg) authorized(t *serverTx) bool {
	if l.caller || l.incoming.code != 407 || param(t.req.get("to"), "tag") != "" {
		return false
	}
	l.incoming = t
	p := digestParams(t.req.get("proxy-authorization"))
	want := digestResponse(p, "INVITE", rigPassword)
	if p["username"] != rigUser || p["realm"] != rigRealm || p["nonce"] != "n"+l.localTag || p["uri"] != t.req.uri ||
		subtle.ConstantTimeCompare([]byte(p["response"]), []byte(want)) != 1 {
		t.send(403, "Forbidden", nil)
		l.end()
		return true
	}
	l.heard(t.req)
	l.times.Invite = time.Now()
	l.Asked.set()
	return true
}

// KindsConfig is DefaultConfig with what the kinds need that know passwords: an
// account for the rig's phone, and our password at its carriers.
func KindsConfig(s Site) []byte {
	b := DefaultConfig(s)
	accounts, trunks := filepath.Join(s.StateDir, "rig-accounts.yaml"), filepath.Join(s.StateDir, "rig-trunks.yaml")
	a := fmt.Appendf(nil, "- {name: %s, ha1_sha256: %s, ha1_md5: %s}\n", rigUser,
		digestHash("SHA-256", rigUser, "switch", rigPassword), digestHash("MD5", rigUser, "switch", rigPassword))
	p := fmt.Appendf(nil, "- {trunk: callee0, user: %s, password: %s}\n", rigUser, rigPassword)
	if os.WriteFile(accounts, a, 0o600) != nil || os.WriteFile(trunks, p, 0o600) != nil {
		return b // the switch says what it misses
	}
	return fmt.Appendf(b, "registrar:\n  accounts: %q\ntrunks:\n  passwords: %q\n", accounts, trunks)
}
