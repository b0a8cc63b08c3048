package edge

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// connKey is what a connection can be found again by, to send over it.
type connKey struct {
	proto  *proto
	remote netip.AddrPort
	name   string
}

// conns are the connections that are open.
type conns struct {
	mu       sync.Mutex
	last     uint64
	byID     map[string]*streamLink
	byRemote map[connKey]*streamLink
	bySource map[netip.Addr]int
	// unproven are those of strangers that have not said anything sensible yet.
	unproven  map[*streamLink]struct{}
	strangers int
}

func newConns() conns {
	return conns{byID: map[string]*streamLink{}, byRemote: map[connKey]*streamLink{}, bySource: map[netip.Addr]int{}, unproven: map[*streamLink]struct{}{}}
}

// key is where requests to the far end find the connection; ok false: they must
// not. A client's TLS connection shows no name (RFC 5923 5), a browser's has no
// address that means anything.
func (c *streamLink) key() (k connKey, ok bool) {
	return connKey{c.proto, c.remote, c.name}, c.dialed || c.proto == overTCP
}

// prove takes note that somebody known speaks on a link.
func (e *Edge) prove(l link) {
	c, ok := l.(*streamLink)
	if !ok || c.known {
		return
	}
	c.known = true
	e.conns.mu.Lock()
	delete(e.conns.unproven, c)
	e.conns.mu.Unlock()
}

// newConn registers a connection; nil when there are too many. Strangers have a
// few each and a quarter of all together, so that they cannot keep peers out;
// when that is full, one who has said nothing sensible yet, drawn by lot, goes
// for a newcomer: who speaks at once, as phones do, is hardly ever drawn.
func (e *Edge) newConn(p *proto, remote netip.AddrPort, conn net.Conn, name string) *streamLink {
	_, known := e.identify(remote)
	known = known || conn == nil || e.friends.has(remote.Addr(), time.Now())
	limit, source := e.lim.MaxPerSource, sourceKey(remote.Addr())
	if !known {
		limit = min(limit, 8)
	}
	e.conns.mu.Lock()
	defer e.conns.mu.Unlock()
	if e.conns.bySource[source] >= limit || e.ctx.Err() != nil {
		return nil
	}
	if len(e.conns.byID) >= e.lim.MaxConns || !known && e.conns.strangers >= max(1, e.lim.MaxConns/4) {
		if !e.dropUnproven() {
			return nil
		}
	}
	e.conns.last++
	c := &streamLink{e: e, proto: p, remote: remote, raw: conn, conn: conn, name: name, dialed: conn == nil, known: conn == nil, stranger: !known}
	c.id = protoWord(p) + "/" + remote.String() + "/" + e.cfg.Boot + "." + strconv.FormatUint(e.conns.last, 10)
	if conn != nil {
		c.stage, c.own = connShaking, conn.LocalAddr().(*net.TCPAddr).AddrPort()
		if p.secure {
			c.conn = tls.Server(&underTLS{Conn: conn}, e.tlsServer)
		}
	} else if l := e.listening(p); l != nil {
		c.own = l.bound
	}
	e.enterConn(c)
	return c
}

// enterConn is the opposite of forgetConn. e.conns.mu is held.
func (e *Edge) enterConn(c *streamLink) {
	if c.stranger {
		e.conns.strangers++
		if !c.known {
			e.conns.unproven[c] = struct{}{}
		}
	}
	e.conns.byID[c.id] = c
	if k, ok := c.key(); ok {
		e.conns.byRemote[k] = c
	}
	e.conns.bySource[sourceKey(c.remote.Addr())]++
	if c.carried > 0 {
		e.stats.Carried.Add(1)
	}
	e.stats.Connections.Add(1)
	e.stats.of(c.proto.name).Connections.Add(1)
}

// dropUnproven closes one connection of a stranger. It counts as gone at once;
// its reader does the rest. e.conns.mu is held.
func (e *Edge) dropUnproven() bool {
	for c := range e.conns.unproven { // a map begins anywhere
		e.stats.count(connLimit)
		e.forgetConn(c)
		c.close()
		return true
	}
	return false
}

// forgetConn takes a connection out of the registers, once. e.conns.mu is held.
func (e *Edge) forgetConn(c *streamLink) {
	if _, open := e.conns.byID[c.id]; !open {
		return
	}
	delete(e.conns.byID, c.id)
	delete(e.conns.unproven, c)
	if k, ok := c.key(); ok && e.conns.byRemote[k] == c {
		delete(e.conns.byRemote, k)
	}
	source := sourceKey(c.remote.Addr())
	if e.conns.bySource[source]--; e.conns.bySource[source] == 0 {
		delete(e.conns.bySource, source)
	}
	if c.stranger {
		e.conns.strangers--
	}
	if c.carried > 0 {
		e.stats.Carried.Add(-1)
	}
	e.stats.Connections.Add(-1)
	e.stats.of(c.proto.name).Connections.Add(-1)
}

// dropConn forgets a connection; requests that were waiting on it have failed.
func (e *Edge) dropConn(c *streamLink) {
	c.close()
	e.conns.mu.Lock()
	e.forgetConn(c)
	e.conns.mu.Unlock()
	if c.known { // nothing was done for others
		e.linkLost(c)
	}
}
