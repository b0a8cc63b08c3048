package media

import (
	"strings"

	"github.com/pion/stun/v4"
)

// ice is an ICE-lite responder (RFC 8445 section 2.5): it answers connectivity
// checks, never sends one, and does as the party nominates. It is allocated for
// legs that need it.
type ice struct {
	cur, prev credentials // prev is good until cur nominates (RFC 8445 section 9)
	valid     [4]sockaddr // the latest addresses that a check came from
	turn      byte
	nominated bool
	checked   int64 // last valid check, or when the first was due, ns
	tokens    int32
	filled    int64
}

// credentials are ours, and the fragment of the party's that its checks name.
type credentials struct {
	own           string // label of ours
	ufrag, theirs string
	key           stun.MessageIntegrity
}

const (
	checksPerSecond = 50
	checksAtOnce    = 100
	consentFor      = 30e9 // ns without a valid check: nobody is there (RFC 7675)
)

// stun treats what may be a STUN message for a leg. Nothing is said to those who
// do not know our password: an error response would be an answer to anybody.
func (l *loop) stun(g *leg, b []byte, from *sockaddr, now int64) {
	if g.sec == nil || g.sec.ice == nil {
		l.drop(g, dropForeign)
		return
	}
	c, m := g.sec.ice, &l.check
	m.Raw = append(m.Raw[:0], b...)
	if m.Decode() != nil || m.Type != stun.BindingRequest {
		l.drop(g, dropForeign)
		return
	}
	r := readCheck(m)
	who := c.whose(r.username)
	if who == nil || !c.mayCheck(now) || who.key.Check(m) != nil || r.badPrint {
		l.drop(g, dropCheck)
		return
	}
	c.checked = now
	if g.sec.why == reasonConsent {
		g.sec.why = "" // it is back
	}
	l.total.checks++
	var err error
	if r.controlled { // we never control (RFC 8445 section 7.3.1.1)
		err = l.reply.Build(m, stun.BindingError, stun.CodeRoleConflict, who.key, stun.Fingerprint)
	} else {
		err = l.reply.Build(m, stun.BindingSuccess, mapped(from), who.key, stun.Fingerprint)
	}
	if err != nil {
		return
	}
	if errno := sendTo(g.rtp.fd, l.reply.Raw, from); errno != 0 {
		l.drop(g, dropSend)
	}
	if r.controlled {
		return
	}
	c.note(from)
	dest := g.latch.dest()
	switch {
	case dest.isZero():
	case !r.nominates || who == &c.prev && c.nominated:
		l.greet(g) // if it could not begin before
		return
	}
	if who == &c.cur && r.nominates {
		c.nominated = true
		if c.prev.own != "" {
			c.prev = credentials{}
			l.markDirty(g.call)
		}
	}
	if *dest != *from {
		g.latch.pin(*from)
		g.sec.slot.putAddr(from)
		l.markDirty(g.call)
		l.unpark(g, now)
		if g.peer != nil {
			l.unpark(g.peer, now)
		}
	}
	l.greet(g)
}

// check is what counts in a request: the attributes up to its integrity.
type check struct {
	username              string
	nominates, controlled bool
	badPrint              bool
}

func readCheck(m *stun.Message) (r check) {
	for _, a := range m.Attributes {
		switch a.Type {
		case stun.AttrUsername:
			r.username = string(a.Value)
		case stun.AttrUseCandidate:
			r.nominates = true
		case stun.AttrICEControlled:
			r.controlled = true
		case stun.AttrMessageIntegrity:
			r.badPrint = m.Contains(stun.AttrFingerprint) && stun.Fingerprint.Check(m) != nil
			return r
		}
	}
	return check{}
}

// whose finds the credentials that a check names, "ours:theirs".
func (c *ice) whose(username string) *credentials {
	ours, theirs, ok := strings.Cut(username, ":")
	if !ok || ours == "" {
		return nil
	}
	for _, k := range []*credentials{&c.cur, &c.prev} {
		// Of an offer that is not answered yet, theirs is not known.
		if ours == k.ufrag && (k.theirs == theirs || k.theirs == "") {
			return k
		}
	}
	return nil
}

// mayCheck bounds what a leg's checks may cost.
func (c *ice) mayCheck(now int64) bool {
	if c.filled == 0 {
		c.filled, c.tokens = now, checksAtOnce
	}
	if add := (now - c.filled) * checksPerSecond / 1e9; add > 0 {
		c.filled = now
		c.tokens = int32(min(int64(c.tokens)+add, checksAtOnce))
	}
	if c.tokens <= 0 {
		return false
	}
	c.tokens--
	return true
}

func (c *ice) note(from *sockaddr) {
	if !c.knows(from) {
		c.valid[c.turn%byte(len(c.valid))] = *from
		c.turn++
	}
}

func (c *ice) knows(from *sockaddr) bool {
	for i := range c.valid {
		if c.valid[i] == *from {
			return true
		}
	}
	return false
}

// mapped is the address that the party is seen under.
func mapped(from *sockaddr) *stun.XORMappedAddress {
	a := &stun.XORMappedAddress{Port: int(from.port())}
	if from.size() == 16 {
		a.IP = append(a.IP, from[4:8]...)
	} else {
		a.IP = append(a.IP, from[8:24]...)
	}
	return a
}

// pin sends and hears at one address from now on.
func (t *latch) pin(addr sockaddr) {
	*t = latch{sdp: addr, addr: addr, learned: true, fresh: true}
}
