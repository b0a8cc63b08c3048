package edge

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"

	"callswitch/codecore"
)

// A link carries messages: a UDP socket, or a connection (TCP, TLS, WebSocket). send never blocks and never keeps b's backing array
// changed: callers do not write to b afterwards.
type link interface {
	send(to netip.AddrPort, b []byte) error
	transport() string     // as in Via: "UDP", "TCP", "TLS", "WS", "WSS"
	local() netip.AddrPort // bound address
	reliable() bool        // RFC 3261 17: no retransmissions of ours
	alive() bool
	flowID(remote netip.AddrPort) string
}

// A flow is a link and the far end on it.
type flow struct {
	link   link
	remote netip.AddrPort
}

func (f flow) id() string {
	if f.link == nil {
		return ""
	}
	return f.link.flowID(f.remote)
}

var errLink = errors.New("edge: link is gone")

// udpLink is one UDP socket; its flows spell their addresses, so that another
// incarnation of the edge can use them.
type udpLink struct {
	conn  *net.UDPConn
	raw   syscall.RawConn // of conn
	bound netip.AddrPort
	v6    bool
	errs  chan struct{} // asks for its error queue to be read
}

func (u *udpLink) send(to netip.AddrPort, b []byte) error {
	if u.v6 && to.Addr().Is4() {
		to = netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
	}
	return u.sendUDP(b, to)
}

func (u *udpLink) transport() string     { return "UDP" }
func (u *udpLink) local() netip.AddrPort { return u.bound }
func (u *udpLink) reliable() bool        { return false }
func (u *udpLink) alive() bool           { return true }
func (u *udpLink) flowID(remote netip.AddrPort) string {
	return "udp/" + u.bound.String() + "/" + remote.String()
}

// flowByID finds a flow again: a UDP socket bound to the address it spells, or
// a connection that is still open.
func (e *Edge) flowByID(id string) (flow, bool) {
	if id == codecore.LoopFlow {
		return e.loopFlow(), true
	}
	if rest, ok := strings.CutPrefix(id, "udp/"); ok {
		l, r, _ := strings.Cut(rest, "/")
		remote, err := netip.ParseAddrPort(r)
		if err != nil || remote.Port() == 0 {
			return flow{}, false
		}
		for _, u := range e.udp {
			if u.bound.String() == l {
				return flow{u, remote}, true
			}
		}
		return flow{}, false
	}
	e.conns.mu.Lock()
	defer e.conns.mu.Unlock()
	if c := e.conns.byID[id]; c != nil {
		return flow{c, c.remote}, true
	}
	return flow{}, false
}

// remoteOf is the address of the far end that a flow's id spells: of a connection
// behind its transport, of a UDP flow behind our own.
func remoteOf(id string) netip.Addr {
	proto, rest, _ := strings.Cut(id, "/")
	near, far, _ := strings.Cut(rest, "/")
	if proto == "udp" {
		near = far
	}
	at, _ := netip.ParseAddrPort(near)
	return at.Addr().Unmap()
}

// udpFor is the socket that requests to an address leave through.
func (e *Edge) udpFor(to netip.Addr) *udpLink {
	for _, u := range e.udp {
		if u.bound.Addr().Is4() == to.Is4() {
			return u
		}
	}
	return nil
}

// serveUDP reads one socket. Each datagram is dealt with before the next: order
// is kept, and nothing is handed to another goroutine.
func (e *Edge) serveUDP(u *udpLink) {
	defer e.wg.Done()
	e.gate.enter()
	defer e.gate.leave()
	buf := make([]byte, 65536)
	for {
		n, from, err := u.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if e.gate.pause() {
				continue
			}
			u.troubled() // an ICMP error of an earlier send: no reason to stop
			continue
		}
		f := flow{u, netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}
		if isSTUN(buf[:n]) {
			e.onSTUN(f, buf[:n])
			continue
		}
		e.handle(f, buf[:n])
	}
}

// isWeb tells a WebSocket. Its far end is a browser, in which pages of others
// run: an address alone is nobody there, whatever the dialplan says of it.
func isWeb(l link) bool {
	c, ok := l.(*streamLink)
	return ok && c.proto.web
}

// sentBy is the host:port that the far end of a link knows us by. The port of
// Advertise is that of UDP and TCP.
func (e *Edge) sentBy(l link) string {
	host, port := e.cfg.Advertise, ""
	if h, p, err := net.SplitHostPort(host); err == nil {
		host, port = h, p
	}
	own := l.local()
	if host == "" {
		host = own.Addr().String()
	}
	if c, ok := l.(*streamLink); ok {
		if c.proto != overTCP {
			port = ""
		}
		if c.dialed { // our end of it is not where we listen
			if there := e.listening(c.proto); there != nil {
				own = there.bound
			} else if len(e.udp) > 0 {
				own = e.udp[0].bound
			}
		}
	}
	if port == "" {
		port = strconv.Itoa(int(own.Port()))
	}
	return net.JoinHostPort(host, port)
}
