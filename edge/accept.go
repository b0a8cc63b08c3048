package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// dialWithin is how long a connection of ours may take to come to be.
const dialWithin = 5 * time.Second

// A listener takes connections of one transport.
type listener struct {
	proto *proto
	ln    *net.TCPListener
	bound netip.AddrPort
}

// protoWord is a transport's word in Config.Listen.
func protoWord(p *proto) string { return strings.ToLower(p.name) }

// listening is a listener of a transport; nil: there is none.
func (e *Edge) listening(p *proto) *listener {
	for _, l := range e.listeners {
		if l.proto == p {
			return l
		}
	}
	return nil
}

// accept never waits for a connection to say something: hands are shaken in the
// connection's own goroutine.
func (e *Edge) accept(l *listener) {
	defer e.wg.Done()
	e.gate.enter()
	defer e.gate.leave()
	for {
		conn, err := l.ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil && e.gate.pause() {
			continue
		}
		if err != nil { // out of descriptors: let some go
			select {
			case <-e.ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		remote := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
		c := e.newConn(l.proto, remote, conn, "")
		if c == nil {
			e.complain(remote, connLimit, time.Now())
			_ = conn.Close()
			continue
		}
		if !c.proto.secure { // an heir has it from now on
			c.reach(c.proto.begins())
		}
		e.wg.Add(1)
		go e.serve(c)
	}
}

// serve is the life of an accepted connection.
func (e *Edge) serve(c *streamLink) {
	defer e.wg.Done()
	defer e.dropConn(c)
	if why := e.shake(c); why != okay {
		e.notMade(c, why)
		return
	}
	if !c.proto.web {
		e.stats.of(c.proto.name).Accepted.Add(1)
	}
	e.read(c)
}

// notMade takes note of a handshake that came to nothing.
func (e *Edge) notMade(c *streamLink, why reason) {
	e.stats.of(c.proto.name).Failed.Add(1)
	if e.ctx.Err() == nil {
		e.complain(c.remote, why, time.Now())
	}
}

// shake shakes hands in TLS, within Limits.Shake. It is not called back for an heir:
// what is under way stays with this process (pump.go), as all that is TLS.
func (e *Edge) shake(c *streamLink) reason {
	secure, ok := c.conn.(*tls.Conn)
	if !ok {
		return okay
	}
	if c.stranger && !e.shakes.take(c.remote.Addr(), time.Now()) {
		return flood // of handshakes, which cost us more than them
	}
	_ = secure.SetDeadline(time.Now().Add(e.lim.Shake))
	if err := secure.HandshakeContext(context.Background()); err != nil {
		e.log.Debug("edge: TLS handshake", "source", c.remote, "err", err)
		return badTLS
	}
	_ = secure.SetDeadline(time.Time{})
	c.reach(c.proto.begins())
	return okay
}

// dial gives the connection to an address, an open one if there is one. The
// connection is made meanwhile; what is sent waits in its queue. With TLS, the
// far end must prove that it is name.
func (e *Edge) dial(p *proto, remote netip.AddrPort, name string, within time.Duration) *streamLink {
	e.conns.mu.Lock()
	c := e.conns.byRemote[connKey{p, remote, name}]
	e.conns.mu.Unlock()
	if c != nil && c.alive() {
		return c
	}
	if c = e.newConn(p, remote, nil, name); c == nil {
		e.stats.count(connLimit)
		return nil
	}
	e.wg.Add(1)
	go e.connect(c, within)
	return c
}

// connect is the life of a connection of ours.
func (e *Edge) connect(c *streamLink, within time.Duration) {
	defer e.wg.Done()
	defer e.dropConn(c)
	d := net.Dialer{Timeout: within, Control: func(_, _ string, raw syscall.RawConn) error {
		e.mark(raw, c.remote.Addr().Is6())
		return nil
	}}
	conn, err := d.DialContext(e.ctx, "tcp", c.remote.String())
	if err != nil {
		e.stats.count(sendFailed)
		return
	}
	if !c.made(conn) {
		return
	}
	if c.proto.secure {
		secure := tls.Client(&underTLS{Conn: conn}, e.tlsClient(c.name))
		_ = secure.SetDeadline(time.Now().Add(e.lim.Shake))
		if err := secure.HandshakeContext(e.ctx); err != nil {
			e.stats.of(c.proto.name).Failed.Add(1)
			e.complain(c.remote, badTLS, time.Now())
			e.log.Warn("edge: no TLS to a next hop", "name", c.name, "address", c.remote, "err", err)
			return
		}
		_ = secure.SetDeadline(time.Time{})
		conn = secure
	}
	e.gate.enter() // an heir makes it once more, or has it
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
	c.reach(connOpen)
	e.gate.leave()
	e.read(c)
}

// dialTCP is dial without TLS.
func (e *Edge) dialTCP(remote netip.AddrPort, within time.Duration) *streamLink {
	return e.dial(overTCP, remote, "", within)
}
