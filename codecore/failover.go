package codecore

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Failover from one address of a target to the next (RFC 3263 4.3).
//
//	switch              sip:carrier.example
//	  | INVITE 1 ------> | 192.0.2.1    dead, or 503
//	  | INVITE 1 ------> | 192.0.2.2    the same but for its branch; Avoid: 192.0.2.1
//	  | <--------- 180   |
//	  | CANCEL 1 ------> |              with the branch in force
//
// The edge finds the addresses and says which failed; here is decided that the
// next is tried. Each attempt is an action of its own, so what is in force is
// saved before it is sent.

const maxAttempts = 8 // addresses of one target

// elsewhere sends a request once more, to another address of its target. It
// reports false when there is none, or the request is not wanted any more.
func (c *call) elsewhere(leg LegID, t ClientTx, failed string) bool {
	before := c.asked(t)
	if failed == "" || before == nil || !c.wanted(leg, t) ||
		len(before.Avoid) >= maxAttempts || slices.Contains(before.Avoid, failed) {
		return false
	}
	first := t.Method == "INVITE" && t.Tag == ""
	if first && c.A.Agreed && leg != LegA { // who has an answer cannot be given another
		return false
	}
	l := c.leg(leg)
	c.close(l, t)
	if first {
		c.unhear(leg)
	}
	r := *before
	r.Avoid = append(slices.Clone(r.Avoid), failed)
	r.Auth = nil // another server has other nonces: it shall ask
	r.Branch = c.attempt(leg, t.Method, t.CSeq, t.Tag, len(r.Avoid))
	c.Avoid = r.Avoid
	t.Branch = r.Branch
	l.Cli = append(l.Cli, t)
	c.do(edgeOf(l.Edge), Effect{Request: &r})
	return true
}

// unhear lets go of what was heard of an attempt that failed.
func (c *call) unhear(leg LegID) {
	l := c.leg(leg)
	l.Dialogs = without(l.Dialogs, func(d Dialog) bool { return !d.Confirmed })
	l.Early, l.Agreed = nil, false
	if leg != LegB || c.Early == nil || c.Phase != PhaseInviting {
		return
	}
	c.Early, l.Sound = nil, Sound{}
	l.Answers++ // the address of whoever is heard next is to be learned
	c.bridge()
}

// attempt is the branch of the n-th repetition of a request elsewhere.
func (c *call) attempt(leg LegID, method string, cseq uint32, tag string, n int) string {
	return c.branch(leg, method, cseq, tag+"/"+strconv.Itoa(n))
}

// inForce is the branch of a request of ours: that of the last attempt while it
// waits (its CANCEL has the same), else of the first.
func (c *call) inForce(leg LegID, method string, cseq uint32, tag string) string {
	for _, t := range c.leg(leg).Cli {
		if t.Method == method && t.Tag == tag && t.CSeq == cseq {
			return t.Branch
		}
	}
	return c.branch(leg, method, cseq, tag)
}

// tried reports whether a branch is of an INVITE that called the leg's party.
func (c *call) tried(leg LegID, cseq uint32, branch string) bool {
	if branch == c.branch(leg, "INVITE", cseq, "") {
		return true
	}
	for n := 1; n <= maxAttempts; n++ {
		if branch == c.attempt(leg, "INVITE", cseq, "", n) {
			return true
		}
	}
	return false
}

// nextAfter reports whether somebody is called when d's group has failed: then
// the edge need not wait for one that is dead.
func (c *call) nextAfter(d Destination) bool {
	return c.Fork != nil && slices.ContainsFunc(c.Fork.Next, func(n Destination) bool { return n.Group != d.Group })
}

// arrived lets go of the addresses that failed, once the dialog goes by address:
// names are looked up no more, and the call can go back to v0.1.0.
func (c *call) arrived(d *Dialog) {
	next := d.Target
	if len(d.Routes) > 0 {
		next = uriOf(d.Routes[0])
	}
	host := hostOf(next)
	if ap, err := netip.ParseAddrPort(host); err == nil {
		host = ap.Addr().String()
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		c.Avoid = nil
	}
}
