package edge

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"callswitch/codecore"
)

func splitHostPort(s string) (host string, port uint16) {
	h, p, err := net.SplitHostPort(s)
	if err != nil {
		return s, 0
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return h, 0
	}
	return h, uint16(n)
}

// reach is the flow to an address: a socket, or a connection (made if need be).
// With TLS, who is there must prove to be name.
func (e *Edge) reach(to hop, name string) (flow, bool) {
	switch to.proto {
	case "tcp":
		c := e.dialTCP(to.addr, dialWithin)
		return flow{c, to.addr}, c != nil
	case "tls":
		c := e.dial(overTLS, to.addr, name, dialWithin)
		return flow{c, to.addr}, c != nil
	}
	u := e.udpFor(to.addr.Addr())
	if u == nil {
		return flow{}, false
	}
	return flow{u, to.addr}, true
}

// A route is how a request goes out.
type route struct {
	flow   flow
	ok     bool
	why    reason // when not ok
	hop    hop    // found by its target; none when the worker named the flow
	others bool   // the target has more addresses, which were not tried
}

// route finds the way of a request and calls then with it, e.mu held: at once,
// or, when a name must be looked up, later and from another goroutine.
func (e *Edge) route(a *codecore.SendRequest, then func(route)) {
	if a.Flow != "" {
		if f, ok := e.flowByID(a.Flow); ok && f.link.alive() {
			then(route{flow: e.latest(f, a), ok: true})
			return
		}
	}
	if e.byFoothold(a, then) {
		return
	}
	q, ok := target(a.Target)
	if !ok {
		then(route{why: noAddress})
		return
	}
	if l, ok := e.names.get(q, time.Now()); ok {
		then(e.choose(a, q, l, time.Now()))
		return
	}
	e.names.find(e.ctx, &e.wg, q, func(l *located) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.ctx.Err() == nil {
			then(e.choose(a, q, l, time.Now()))
		}
	})
}

// choose takes the first address that was not tried and is not known to be dead.
// All requests of a dialog begin with the same one: the seed is their Call-ID.
// Who is called for the first time is not called where nobody answers; what
// belongs to a dialog is sent all the same. A client whose flow is gone says itself
// what its contact is, so it is looked for where it came from alone, and never at a
// carrier: an account would call there at our cost, past the dialplan, or have us
// call whom it likes.
func (e *Edge) choose(a *codecore.SendRequest, q question, l *located, now time.Time) route {
	first := a.Msg.Method == "INVITE" && tagOf(a.Msg.Get("To")) == ""
	hops := l.order(a.Msg.Get("Call-ID"))
	if first && a.Flow != "" { // of a client that has registered
		from := remoteOf(a.Flow)
		hops = slices.DeleteFunc(hops, func(h hop) bool { return h.addr.Addr() != from || e.isTrunk(h.addr) })
		if len(hops) == 0 {
			return route{why: noFlow}
		}
	}
	left := slices.DeleteFunc(slices.Clone(hops), func(h hop) bool { return slices.Contains(a.Avoid, h.String()) })
	if len(left) == 0 && !first {
		left = hops
	}
	if len(left) == 0 {
		return route{why: noAddress}
	}
	usable := e.circuits.sort(left, now)
	if usable == 0 && first {
		return route{why: circuitOpen}
	}
	if first {
		e.circuits.try(left[0], now)
	}
	f, ok := e.reach(left[0], q.host)
	return route{f, ok, noAddress, left[0], min(len(left), max(usable, 1)) > 1}
}

// target reads the URI of a next hop: a plain URI, or a Route value in angle
// brackets.
func target(to string) (q question, ok bool) {
	if i := strings.IndexByte(to, '<'); i >= 0 {
		to, _, _ = strings.Cut(to[i+1:], ">")
	}
	u, ok := parseURI(to)
	if !ok || !u.sip() {
		return q, false
	}
	q = question{host: strings.ToLower(strings.TrimSuffix(u.host, ".")), port: uint16(u.port)}
	if m, ok := u.param("maddr"); ok && m != "" {
		q.host = strings.ToLower(strings.Trim(m, "[]"))
	}
	switch t, _ := u.param("transport"); strings.ToLower(t) {
	case "":
	case "udp", "tcp", "tls":
		q.proto = strings.ToLower(t)
	default:
		return q, false
	}
	if u.scheme == "sips" { // RFC 3261 26.2.2
		if q.proto == "udp" {
			return q, false
		}
		q.proto = "tls"
	}
	return q, q.host != ""
}
