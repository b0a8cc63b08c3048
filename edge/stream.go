package edge

import (
	"crypto/tls"
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

// A stage is how far a connection has come.
type stage int

const (
	connMaking    stage = iota // by us
	connShaking                // hands, in TLS
	connUpgrading              // to a WebSocket
	connOpen                   // for messages
)

// begins is the stage in which bytes can be read.
func (p *proto) begins() stage {
	if p.web {
		return connUpgrading
	}
	return connOpen
}

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
	stage   stage
	raw     net.Conn // nil until it is made
	conn    net.Conn // raw, or TLS over it: what is read and written
	own     netip.AddrPort
	gone    bool
	out     [][]byte // waits to be written
	waits   int      // bytes in out
	writing bool     // a writer is there
	under   bool     // and the first of out on its way
	ending  bool     // nothing more is taken

	carried int           // by which of the generations that carry TLS for us, counted from the youngest; 0: it is ours, or none
	bridge  *bridge       // while frozen: how the heir will reach it
	over    bool          // while frozen: it ends, its carrier is one too many
	written chan struct{} // closed when what was on its way then has been written
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
	if c.stage == connOpen && !c.writing && !c.gone && !c.e.gate.shut() {
		c.writing = true
		c.e.wg.Add(1)
		go c.write()
	}
}

// write is the writer: it goes when nothing is left, or the edge is frozen.
func (c *streamLink) write() {
	defer c.e.wg.Done()
	for {
		b, over := c.nextOut()
		if over {
			if side, ok := c.conn.(interface{ CloseWrite() error }); ok {
				_ = side.CloseWrite()
			}
		}
		if b == nil {
			return
		}
		n, err := c.conn.Write(b)
		if !c.wrote(n, err) {
			c.close()
		}
	}
}

// nextOut is what is to be written next, with time for it; nil ends the writer.
// over: our side is to be closed.
func (c *streamLink) nextOut() (b []byte, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone || len(c.out) == 0 || c.e.gate.shut() {
		c.writing = false
		return nil, c.ending && !c.gone && len(c.out) == 0
	}
	c.under = true
	_ = c.conn.SetWriteDeadline(time.Now().Add(writeWithin))
	return c.out[0], false
}

// wrote takes note of what became of the first of out: what a frozen edge has not
// written of it stays. A record of TLS is not called back, it would be the end of
// its connection. false: the connection is broken.
func (c *streamLink) wrote(n int, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.under = false
	switch {
	case c.written != nil: // and the heir has the rest
		close(c.written)
		return true
	case c.gone:
		return true
	case err == nil:
		c.waits -= len(c.out[0])
		c.out[0] = nil
		if c.out = c.out[1:]; len(c.out) == 0 {
			c.out = nil
		}
		return true
	case c.ours() || !c.e.gate.shut():
		return false
	}
	c.out[0], c.waits = c.out[0][n:], c.waits-n
	return true
}

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
		if c.bridge != nil {
			c.bridge.close()
		}
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
	if c.proto.web && c.stage == connOpen && len(c.out) == 0 && !c.gone {
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

// reach takes note of how far a link has come; once it is open it is written to.
func (c *streamLink) reach(s stage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stage = s
	if len(c.out) > 0 || c.ending {
		c.wake()
	}
}

// inTLS tells that somebody keeps the keys of it.
func (c *streamLink) inTLS() bool { return c.carried > 0 || c.ours() }

// ours tells that its TLS ends in this process: a record of it must not be cut.
func (c *streamLink) ours() bool {
	_, is := c.conn.(*tls.Conn)
	return is
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
			c.conn = tls.Server(conn, e.tlsServer)
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

// read deals with what comes on a connection until it ends.
func (e *Edge) read(c *streamLink) {
	if e.readOn(c) {
		c.linger()
	}
}

// wait says until when the reader waits; zero: for ever.
func (c *streamLink) wait(until time.Time) {
	c.until = until
	_ = c.conn.SetReadDeadline(until)
}

// more reads what comes next; while it waits it may be called back for an heir.
func (c *streamLink) more(buf []byte) (n int, err error) {
	again := c.e.gate.pause()
	for {
		if again {
			_ = c.conn.SetReadDeadline(c.until)
		}
		n, err = c.conn.Read(buf)
		if !errors.Is(err, os.ErrDeadlineExceeded) || !c.e.gate.pause() {
			return n, err
		}
		again = true
	}
}

// readOn is read until nothing more is to be read (true), or can be.
func (e *Edge) readOn(c *streamLink) (over bool) {
	e.gate.enter()
	defer e.gate.RUnlock()
	if c.stage == connUpgrading {
		if why := e.upgrade(c); why != okay {
			e.notMade(c, why)
			return c.stage == connOpen // who is refused reads why
		}
		e.stats.of(c.proto.name).Accepted.Add(1)
	}
	buf := make([]byte, 4096)
	switch {
	case !c.known && c.proto.web:
		c.wait(time.Now().Add(firstWebIn))
	case !c.known:
		c.wait(time.Now().Add(firstWithin))
	case c.proto.web:
		c.wait(time.Now().Add(pingEvery))
	default:
		c.wait(time.Time{})
	}
	asked := false // a ping is out
	for first := true; ; first = false {
		begun := !c.half.empty()
		if !first || !begun { // bytes may have come behind the handshake
			n, err := c.more(buf)
			if err != nil {
				if !c.silent(err) || asked || c.put(pingFrame) != nil {
					return false
				}
				asked = true
				c.wait(time.Now().Add(pongWithin))
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
			c.wait(quiet)
		case cut || !begun || first:
			c.wait(time.Now().Add(messageWithin))
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
func (c *streamLink) linger() {
	c.end()
	_ = c.conn.SetReadDeadline(time.Now().Add(lingerFor))
	var sink [4096]byte
	for {
		if _, err := c.conn.Read(sink[:]); err != nil {
			return
		}
	}
}
