package edge

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"callswitch/codecore"
)

const (
	resolveWithin = 3 * time.Second
	rememberName  = 30 * time.Second
	maxNames      = 1024
)

// names remembers looked-up host names.
type names struct {
	mu    sync.Mutex
	known map[string]resolved
}

type resolved struct {
	addr  netip.Addr
	until time.Time
}

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
func (e *Edge) reach(tcp bool, to netip.AddrPort) (flow, bool) {
	if tcp {
		c := e.dialTCP(to, dialWithin)
		return flow{c, to}, c != nil
	}
	u := e.udpFor(to.Addr())
	if u == nil {
		return flow{}, false
	}
	return flow{u, to}, true
}

// route finds the flow of a request and calls then with it, e.mu held: at once,
// or, when a name must be looked up, later and from another goroutine.
func (e *Edge) route(a *codecore.SendRequest, then func(flow, bool)) {
	if a.Flow != "" {
		if f, ok := e.flowByID(a.Flow); ok && f.link.alive() {
			then(f, true)
			return
		}
	}
	host, port, tcp, ok := target(a.Target)
	if !ok {
		then(flow{}, false)
		return
	}
	if addr, ok := e.names.get(host); ok {
		then(e.reach(tcp, netip.AddrPortFrom(addr, port)))
		return
	}
	e.wg.Add(1)
	go func() {
		defer e.wg.Done()
		addr, ok := e.names.lookUp(e.ctx, host)
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.ctx.Err() != nil {
			return
		}
		if !ok {
			then(flow{}, false)
			return
		}
		then(e.reach(tcp, netip.AddrPortFrom(addr, port)))
	}()
}

// target reads the URI of a next hop: a plain URI, or a Route value in angle
// brackets.
func target(to string) (host string, port uint16, tcp, ok bool) {
	if i := strings.IndexByte(to, '<'); i >= 0 {
		to, _, _ = strings.Cut(to[i+1:], ">")
	}
	u, ok := parseURI(to)
	if !ok || u.scheme != "sip" {
		return "", 0, false, false // sips needs TLS, which is not here yet
	}
	port = uint16(u.port)
	if port == 0 {
		port = 5060
	}
	switch t, _ := u.param("transport"); strings.ToLower(t) {
	case "", "udp":
	case "tcp":
		tcp = true
	default:
		return "", 0, false, false
	}
	return u.host, port, tcp, true
}

func (n *names) get(host string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap(), true
	}
	if host == "localhost" {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	r, ok := n.known[host]
	return r.addr, ok && time.Now().Before(r.until)
}

func (n *names) lookUp(ctx context.Context, host string) (netip.Addr, bool) {
	ctx, cancel := context.WithTimeout(ctx, resolveWithin)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(addrs) == 0 {
		return netip.Addr{}, false
	}
	best := addrs[0].Unmap()
	for _, a := range addrs {
		if a.Unmap().Is4() {
			best = a.Unmap()
			break
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) >= maxNames {
		clear(n.known)
	}
	n.known[host] = resolved{best, time.Now().Add(rememberName)}
	return best, true
}
