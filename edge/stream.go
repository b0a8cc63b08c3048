package edge

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/gobwas/ws"
)

const (
	dialWithin    = 5 * time.Second
	firstWithin   = 5 * time.Second  // a new connection, its hands shaken, says something sensible by then
	firstWebIn    = 30 * time.Second // a browser may wait for its user to log in
	messageWithin = 10 * time.Second // and ends each message that it has begun
	writeWithin   = 10 * time.Second
	lingerFor     = time.Second      // after our last word, for the far end to read it
	pingEvery     = 30 * time.Second // of silence on a WebSocket
	pongWithin    = 10 * time.Second
	writeQueue    = 256     // messages that a connection holds for a slow reader
	writeBytes    = 1 << 20 // and their bytes
)

// A proto is one of the transports that have connections.
type proto struct {
	name   string // as in Via
	secure bool   // inside TLS
	web    bool   // inside WebSocket
	next   func(*half, *Limits) (piece, reason)
}

var (
	overTCP = &proto{name: "TCP", next: nextInStream}
	overTLS = &proto{name: "TLS", next: nextInStream, secure: true}
	overWS  = &proto{name: "WS", next: nextInFrames, web: true}
	overWSS = &proto{name: "WSS", next: nextInFrames, web: true, secure: true}

	// protos by their word in Config.Listen.
	protos = map[string]*proto{"tcp": overTCP, "tls": overTLS, "ws": overWS, "wss": overWSS}
)

// A streamLink is one connection, whatever lies between its bytes and its
// messages. Its reader deals with one message after the other; a writer comes
// when there is something to write and goes when there is not, so that a peer
// that does not read holds up nobody, and an idle connection has one goroutine.
// When too much waits for a peer, its connection is closed.
type streamLink struct {
	e        *Edge
	proto    *proto
	id       string
	remote   netip.AddrPort
	name     string // dialed with TLS: whom the certificate must name
	dialed   bool
	stranger bool // no peer had this address when it connected

	footholds []*foothold // of Edge.mu: the contacts that were registered over it

	known bool      // of the reader: a message of a known peer has come, or we dialed
	half  half      // of the reader
	until time.Time // of the reader: it waits so long

	mu      sync.Mutex
	raw     net.Conn // nil until it is made
	conn    net.Conn // raw, or TLS over it; nil until hands are shaken
	own     netip.AddrPort
	gone    bool
	out     [][]byte // waits to be written
	waits   int      // bytes in out
	writing bool
	ending  bool // nothing more is taken
}

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

func (c *streamLink) transport() string            { return c.proto.name }
func (c *streamLink) reliable() bool               { return true }
func (c *streamLink) flowID(netip.AddrPort) string { return c.id }
func (c *streamLink) local() netip.AddrPort        { c.mu.Lock(); defer c.mu.Unlock(); return c.own }

func (c *streamLink) alive() bool { c.mu.Lock(); defer c.mu.Unlock(); return !c.gone && !c.ending }

// key is where requests to the far end find the connection; ok false: they must
// not. A client's TLS connection shows no name (RFC 5923 5), a browser's has no
// address that means anything.
func (c *streamLink) key() (k connKey, ok bool) {
	return connKey{c.proto, c.remote, c.name}, c.dialed || c.proto == overTCP
}

func (c *streamLink) send(_ netip.AddrPort, b []byte) error {
	if c.proto.web {
		b = frame(b)
	}
	return c.put(b)
}

// put queues bytes as they are to stand on the wire.
func (c *streamLink) put(b []byte) error {
	c.mu.Lock()
	if c.gone || c.ending {
		c.mu.Unlock()
		return errLink
	}
	if len(c.out) >= writeQueue || c.waits+len(b) > writeBytes {
		c.mu.Unlock()
		c.e.complain(c.remote, slowReader, time.Now())
		c.close()
		return errLink
	}
	c.out, c.waits = append(c.out, b), c.waits+len(b)
	c.wake()
	c.mu.Unlock()
	return nil
}

// wake starts the writer. c.mu is held, and the connection is open: its reader,
// whom Run waits for, lives.
func (c *streamLink) wake() {
	if c.conn != nil && !c.writing && !c.gone && !c.e.gate.shut() {
		c.writing = true
		c.e.wg.Add(1)
		go c.write()
	}
}

func (c *streamLink) write() {
	defer c.e.wg.Done()
	for {
		c.mu.Lock()
		out := c.out
		c.out, c.waits = nil, 0
		last := c.gone || len(out) == 0
		if last {
			c.writing = false
		}
		over := last && c.ending && !c.gone
		c.mu.Unlock()
		if side, ok := c.conn.(interface{ CloseWrite() error }); ok && over {
			_ = side.CloseWrite()
		}
		if last {
			return
		}
		for i, b := range out {
			if !c.mayWrite() {
				c.putBack(out[i:], 0)
				return
			}
			if n, err := c.conn.Write(b); err != nil {
				if !c.putBack(out[i:], n) {
					c.close()
				}
				return
			}
		}
	}
}

// mayWrite gives the writer time for one message; none while the edge is frozen.
func (c *streamLink) mayWrite() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frozen() {
		return false
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(writeWithin))
	return true
}

// putBack ends the writer of a frozen edge: n bytes of the first message are on
// the wire. false: it is not frozen.
func (c *streamLink) putBack(out [][]byte, n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.frozen() {
		return false
	}
	c.writing = false
	if c.gone {
		return true
	}
	rest := append([][]byte{out[0][n:]}, out[1:]...)
	for _, b := range rest {
		c.waits += len(b)
	}
	c.out = append(rest, c.out...)
	return true
}

// frozen: nothing more is to be written now. What is under way in TLS goes out:
// a record that is cut would be the end of its connection.
func (c *streamLink) frozen() bool { return !c.proto.secure && c.e.gate.shut() }

// end takes no more, and closes our side when all is written.
func (c *streamLink) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ending {
		c.ending = true
		c.wake()
	}
}

// close breaks the connection; its reader then forgets it.
func (c *streamLink) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gone {
		c.gone = true
		c.out, c.waits = nil, 0
		if c.raw != nil {
			_ = c.raw.Close() // a goodbye in TLS could wait for its reader
		}
	}
}

// farewell tells a browser that we go (RFC 6455 7.4.1), if that costs no wait:
// its client then comes back at once.
func (c *streamLink) farewell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proto.web && c.conn != nil && !c.writing && !c.gone {
		_ = c.conn.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		_, _ = c.conn.Write(goodbye(closeCode(okay)))
	}
}

// made gives a link its connection, unless it has been closed meanwhile.
func (c *streamLink) made(raw net.Conn) (ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw = raw
	if c.gone {
		_ = raw.Close()
	}
	return !c.gone
}

// open lets a link write, hands having been shaken.
func (c *streamLink) open(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
	if len(c.out) > 0 || c.ending {
		c.wake()
	}
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
	c := &streamLink{e: e, proto: p, remote: remote, raw: conn, name: name, dialed: conn == nil, known: conn == nil, stranger: !known}
	c.id = protoWord(p) + "/" + remote.String() + "/" + e.cfg.Boot + "." + strconv.FormatUint(e.conns.last, 10)
	if conn != nil {
		c.own = conn.LocalAddr().(*net.TCPAddr).AddrPort()
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

// read deals with what comes on a connection until it ends.
func (e *Edge) read(c *streamLink, conn net.Conn) {
	e.gate.RLock()
	over := e.readOn(c, conn)
	e.gate.RUnlock()
	if over {
		c.linger(conn)
	}
}

// wait says until when the reader waits; zero: for ever.
func (c *streamLink) wait(conn net.Conn, until time.Time) {
	c.until = until
	_ = conn.SetReadDeadline(until)
}

// readOn is read until nothing more is to be read (true), or can be.
func (e *Edge) readOn(c *streamLink, conn net.Conn) (over bool) {
	buf := make([]byte, 4096)
	switch {
	case !c.known && c.proto.web:
		c.wait(conn, time.Now().Add(firstWebIn))
	case !c.known:
		c.wait(conn, time.Now().Add(firstWithin))
	case c.proto.web:
		c.wait(conn, time.Now().Add(pingEvery))
	default:
		c.wait(conn, time.Time{})
	}
	asked := false // a ping is out
	for first := true; ; first = false {
		begun := !c.half.empty()
		if !first || !begun { // bytes may have come behind the handshake
			if e.gate.pause() {
				_ = conn.SetReadDeadline(c.until)
			}
			n, err := conn.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) && e.gate.pause() {
				_ = conn.SetReadDeadline(c.until)
				continue
			}
			if err != nil {
				if !c.silent(err) || asked || c.put(pingFrame) != nil {
					return false
				}
				asked = true
				c.wait(conn, time.Now().Add(pongWithin))
				continue
			}
			asked = false
			c.half.Raw = append(c.half.Raw, buf[:n]...)
		}
		cut, end := e.readPieces(c)
		if end {
			return true
		}
		switch {
		case !c.known: // the first deadline stands
		case c.half.empty():
			c.half = half{} // an idle connection keeps no buffer
			var quiet time.Time
			if c.proto.web {
				quiet = time.Now().Add(pingEvery)
			}
			c.wait(conn, quiet)
		case cut || !begun || first:
			c.wait(conn, time.Now().Add(messageWithin))
		}
	}
}

// silent tells that nothing has come on an idle WebSocket for a while.
func (c *streamLink) silent(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) && c.proto.web && c.known && c.half.empty()
}

// readPieces deals with what is whole. cut: something was; end: nothing more is
// to be read.
func (e *Edge) readPieces(c *streamLink) (cut, end bool) {
	for {
		p, why := c.proto.next(&c.half, &e.lim)
		if why != okay {
			e.refuseStream(c, why)
			return cut, true
		}
		if p.none() {
			return cut, false
		}
		cut = true
		if p.msg != nil {
			e.handle(flow{c, c.remote}, p.msg)
			continue
		}
		e.stats.KeepAlives.Add(1)
		if !e.admitPing(c) {
			e.refuseStream(c, flood)
			return cut, true
		}
		if p.reply != nil {
			_ = c.put(p.reply)
		}
		if p.over {
			c.end()
			return cut, true
		}
	}
}

// admitPing spends a token of the source for a keep-alive.
func (e *Edge) admitPing(c *streamLink) bool {
	if c.known {
		return e.peers.take(c.remote.Addr(), time.Now())
	}
	return e.strangers.take(c.remote.Addr(), time.Now())
}

// pingFrame asks the far end of a WebSocket whether it is there.
var pingFrame = ws.MustCompileFrame(ws.NewPingFrame(nil))

// linger reads on for nothing, so that our last word is not lost: a system that
// closes with bytes unread sends a reset, which overtakes it.
func (c *streamLink) linger(conn net.Conn) {
	c.end()
	_ = conn.SetReadDeadline(time.Now().Add(lingerFor))
	var sink [4096]byte
	for {
		if _, err := conn.Read(sink[:]); err != nil {
			return
		}
	}
}
