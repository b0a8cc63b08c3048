package edge

import (
	"net/netip"
	"strings"
	"sync"
	"time"

	"callswitch/codecore"
	"callswitch/registrar"
)

// Who comes from no peer's address has to show that it is an account (RFC 3261
// section 22): a REGISTER, which we answer ourselves, is challenged with 401,
// what we pass on with 407. Not challenged are ACK and CANCEL, which cannot be
// (22.1), retransmissions, and requests in a dialog: our tag in their To is a
// MAC that only the parties of the call have seen.

// Headers of both kinds of challenge.
const (
	answerHeader      = "Authorization"
	proxyAnswerHeader = "Proxy-Authorization"
)

// challengeSlack is how many bytes longer than its request a challenge may be:
// it has two nonces to tell. A flood of invented REGISTERs of 400 bytes is
// answered with at most 1.7 times what it sent, and that within the buckets.
const challengeSlack = 288

// auth is the judge of digests; nil when nobody has an account.
func (e *Edge) auth() *registrar.Auth {
	if e.cfg.Auth == nil || e.cfg.Directory == nil || e.cfg.Accounts == nil || e.cfg.Accounts.Ready() && e.cfg.Accounts.Len() == 0 {
		return nil
	}
	return e.cfg.Auth
}

// admitCaller decides about a request from an address that is no peer's: whose it
// is, or it is answered here. An account has the name codecore.AccountPeer gives it.
func (e *Edge) admitCaller(f flow, p *packet, now time.Time) (peer string, ok bool) {
	auth := e.auth()
	_, _, party := e.ids.verify(p.toTag) // of a dialog, from an address of which the plan knows nothing
	if auth == nil && (party || p.known && (p.toTag != "" || p.msg.Method == "ACK")) {
		return "", true
	}
	if auth == nil || isScanner(p.msg.Get("User-Agent")) {
		e.onStranger(f, p, now)
		return "", false
	}
	switch method := p.msg.Method; {
	case p.toTag != "", method == "ACK":
		return "", true // the token in the tag is looked at where its call is looked for
	case method == "CANCEL":
		// Of a transaction here; or, when this edge has been away, of one that a
		// worker knows: few may ask that.
		if e.knowsTx(e.ids.tx(p, "INVITE")) || e.strayCancels.take(netip.Addr{}, now) {
			return "", true
		}
		e.complain(f.remote, flood, now)
		return "", false
	case e.knowsTx(e.ids.tx(p, method)):
		return "", true // again: its transaction absorbs it
	}
	account, ok := e.authenticate(f, p, auth, proxyAnswerHeader, now)
	if !ok {
		return "", false
	}
	// As at other registrars' proxies: who one is, and as whom one calls, are the
	// same. It is refused, not replaced: replacing would hide a wrong setting.
	if registrar.UserOf(p.msg.Get("From")) != account {
		e.complain(f.remote, notAccount, now)
		e.refuse(p.back(f), p, 403, notAccount)
		return "", false
	}
	return codecore.AccountPeer(account), true
}

// enlistedAt is the carrier that a request comes from because it is for the
// Contact that we have registered there: a MAC that nobody else was told.
func (e *Edge) enlistedAt(p *packet) (peer string, ok bool) {
	id, _, ok := e.ids.verify(registrar.UserOf(p.msg.URI))
	if plan := e.cfg.Plan(); ok && plan != nil {
		return plan.EnlistedAs(id)
	}
	return "", false
}

func (e *Edge) knowsTx(key string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.server[key] != nil
}

// authenticate checks the answer to our challenge, or challenges.
func (e *Edge) authenticate(f flow, p *packet, auth *registrar.Auth, header string, now time.Time) (account string, ok bool) {
	back := p.back(f)
	if !e.cfg.Accounts.Ready() { // a phone that hears 403 now may never try again
		e.stats.count(directoryAway)
		e.refuse(back, p, 503, directoryAway, "Retry-After", "5")
		return "", false
	}
	account, verdict := auth.Check(p.msg.Method, p.msg.All(header), f.remote.Addr(), now)
	switch verdict {
	case registrar.Granted:
		e.friends.add(f.remote.Addr(), now.Add(friendFor), now)
		e.prove(f.link)
		return account, true
	case registrar.Slowed:
		e.complain(f.remote, digestSlowed, now)
		e.refuse(back, p, 403, digestSlowed)
		return "", false
	case registrar.Wrong:
		e.complain(f.remote, digestWrong, now)
	}
	e.stats.Challenges.Add(1)
	code, name := 401, "WWW-Authenticate"
	if header == proxyAnswerHeader {
		code, name = 407, "Proxy-Authenticate"
	}
	claimed := registrar.UserOf(p.msg.Get("From"))
	var extra []string
	for _, c := range auth.Challenges(registrar.StrongFirst, claimed, f.remote.Addr(), verdict == registrar.Stale, now) {
		extra = append(extra, name, c)
	}
	b := reply(&p.msg, code, e.ids.sum(16, "stateless", p.callID, p.fromTag), extra...)
	if !f.link.reliable() && len(b) > p.size+challengeSlack {
		e.stats.count(tooLong)
		return "", false
	}
	e.write(back, b)
	return "", false
}

// strip takes the answers to challenges out of a request: they are not for calls,
// logs or stories.
func (p *packet) strip() {
	kept := p.msg.Headers[:0]
	for _, h := range p.msg.Headers {
		if !strings.EqualFold(h.Name, answerHeader) && !strings.EqualFold(h.Name, proxyAnswerHeader) {
			kept = append(kept, h)
		}
	}
	p.msg.Headers = kept
}

// friends are sources (sourceKey) from which an account has shown its password lately: they
// send at a peer's rate. It is a matter of limits only; each request is judged.
type friends struct {
	mu sync.Mutex
	by map[netip.Addr]time.Time
}

const (
	friendFor  = 2 * time.Hour // longer than any registration
	maxFriends = 1 << 16
)

func (fs *friends) add(a netip.Addr, until, now time.Time) {
	a = sourceKey(a)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if _, ok := fs.by[a]; !ok && len(fs.by) >= maxFriends {
		for k, end := range fs.by {
			if !end.After(now) {
				delete(fs.by, k)
			}
		}
		if len(fs.by) >= maxFriends {
			return // at a stranger's rate it still gets in
		}
	}
	fs.by[a] = until
}

func (fs *friends) has(a netip.Addr, now time.Time) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return now.Before(fs.by[sourceKey(a)])
}
