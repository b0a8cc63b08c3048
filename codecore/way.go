package codecore

import (
	"net/netip"
	"slices"
	"strings"
)

// The way of a request of ours inside a dialog: the route set, else the party's
// Contact (RFC 3261 12.2.1.1). A connection is used as long as there is one, and
// what came through a NAT goes back through it.

// flow is the one by which the peer that sent e is to be reached; "" = by the first
// of routes, else by target. That leads to him when he is where his Via says, and
// not to an address that is nobody's here. Names are left to the flow: what a phone
// calls itself is known to nobody else. So is an account: it would have us ask a
// carrier, which knows our address, whatever it names as its Contact.
func (e *SIPRequest) flow(peer string, routes []string, target string) string {
	if _, account := AccountOf(peer); account {
		return e.Flow
	}
	if len(routes) > 0 {
		target = uriOf(routes[0])
	}
	_, sentBy, _ := strings.Cut(e.Msg.Get("Via"), " ")
	via, ok := literal("sip:" + strings.TrimSpace(sentBy))
	next, ok2 := literal(target)
	source, err := netip.ParseAddrPort(e.Source)
	switch {
	case !strings.HasPrefix(e.Flow, "udp/"), !ok, !ok2, err != nil, via != source, next == source,
		next.Addr().IsPrivate() && !source.Addr().IsPrivate():
		return e.Flow
	}
	return ""
}

// literal is the address that a SIP URI without names leads to.
func literal(uri string) (netip.AddrPort, bool) {
	host := hostOf(uri)
	if at, err := netip.ParseAddrPort(host); err == nil {
		return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return netip.AddrPortFrom(addr.Unmap(), 5060), err == nil
}

// strictly is how a request reaches a target by a route set: Request-URI and Route.
// A first proxy without "lr" wants its own URI there (RFC 3261 12.2.1.1).
func strictly(target string, routes []string) (uri string, route []string) {
	if len(routes) == 0 {
		return target, nil
	}
	first := uriOf(routes[0])
	if slices.ContainsFunc(strings.Split(first, ";")[1:], func(p string) bool {
		name, _, _ := strings.Cut(p, "=")
		return strings.EqualFold(name, "lr")
	}) {
		return target, routes
	}
	return first, append(slices.Clone(routes[1:]), "<"+target+">")
}
