package registrar

import (
	"net/netip"
	"strings"
	"time"
)

// AuthConfig is an Auth's. Key, Realm and Accounts have no default.
type AuthConfig struct {
	Key      []byte // of the cluster: all edges take each other's nonces
	Realm    string
	Accounts *Accounts
	NonceTTL time.Duration // 5 min: an older nonce is stale
	MaxNonce int           // 131072 nonces whose counts are remembered
	Born     time.Time     // of this process
}

// Auth challenges and judges the answers. Safe for use by many goroutines.
type Auth struct {
	cfg    AuthConfig
	nonces nonces
	counts *counts
	guard  *guard
}

// NewAuth makes an Auth.
func NewAuth(cfg AuthConfig) *Auth {
	if cfg.NonceTTL <= 0 {
		cfg.NonceTTL = 5 * time.Minute
	}
	if cfg.MaxNonce <= 0 {
		cfg.MaxNonce = 1 << 17
	}
	return &Auth{cfg: cfg, nonces: newNonces(cfg.Key, cfg.Realm), counts: newCounts(cfg.MaxNonce, cfg.Born), guard: newGuard()}
}

// Realm is what passwords are hashed with.
func (a *Auth) Realm() string { return a.cfg.Realm }

// A Verdict is what the answer to a challenge is worth.
type Verdict int

// Verdicts.
const (
	Granted Verdict = iota // the account has shown that it knows its password
	Missing                // no answer to a challenge of ours: challenge
	Stale                  // the password is right, the nonce is not: challenge with stale=true
	Wrong                  // challenge again, the password is wrong or there is no such account
	Slowed                 // too many wrong answers: not looked at
)

// Check judges the credentials of a request among values, those of its
// Authorization (401) or Proxy-Authorization (407) headers. account is whom the
// request claims to come from, whatever the verdict; it exists only when Granted.
func (a *Auth) Check(method string, values []string, from netip.Addr, now time.Time) (account string, v Verdict) {
	var c credentials
	found := false
	for _, value := range values {
		if d, ok := parseCredentials(value); ok && d.realm == a.cfg.Realm {
			c, found = d, true
			break
		}
	}
	if !found || c.qop != "auth" || c.cnonce == "" {
		return "", Missing
	}
	if !a.guard.allows(from, c.username, now) {
		return c.username, Slowed
	}
	acc, exists := a.cfg.Accounts.Get(c.username)
	if right := c.knows(acc, method); !right || !exists {
		a.guard.failed(from, acc.Name, now)
		return c.username, Wrong
	}
	at, ok := a.nonces.minted(c.nonce, from)
	age := now.Sub(at)
	if !ok || age > a.cfg.NonceTTL || age < -time.Minute || !a.counts.take(c.nonce, at, c.nc) {
		return c.username, Stale
	}
	a.guard.succeeded(from, c.username, now)
	return c.username, Granted
}

// Seen is what a successor needs to take the nonces of before: without it nobody could
// say whether an answer is a repeated one, and they are stale.
func (a *Auth) Seen(now time.Time) Seen { return a.counts.seen(now.Add(-a.cfg.NonceTTL)) }

// Resume goes on where another Auth has stopped, before anything is checked here.
func (a *Auth) Resume(s Seen) { a.counts.resume(s) }

// Challenges are the values of the WWW-Authenticate or Proxy-Authenticate
// headers, in the order in which the client is to prefer them (RFC 8760 2.3).
// claimed is the account that is to answer: one that has a hash for one algorithm
// only is asked for that one.
func (a *Auth) Challenges(order []string, claimed string, to netip.Addr, stale bool, now time.Time) []string {
	acc, known := a.cfg.Accounts.Get(claimed)
	nonce := a.nonces.mint(to, now)
	out := make([]string, 0, len(order))
	for _, algorithm := range order {
		if known && acc.ha1(algorithm) == "" {
			continue
		}
		var b strings.Builder
		b.WriteString(`Digest realm="` + quoted.Replace(a.cfg.Realm) + `",nonce="` + nonce + `",algorithm=` + algorithm + `,qop="auth"`)
		if stale {
			b.WriteString(",stale=true")
		}
		out = append(out, b.String())
	}
	return out
}

var quoted = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// StrongFirst is the order of challenges (RFC 8760 2.4): clients take the first
// that they know. Those of browsers know MD5 alone and keep the last header of the
// name, so that must be it: JsSIP 3.13.8 and SIP.js 0.21 give up on any other.
var StrongFirst = []string{SHA256, MD5}
