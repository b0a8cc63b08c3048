package edge

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"time"
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
	out     [][]byte  // waits to be written
	waits   int       // bytes in out
	writing bool      // a writer is there
	under   bool      // and the first of out on its way
	by      time.Time // and has so long
	ending  bool      // nothing more is taken

	carried int           // by which of the generations that carry TLS for us, counted from the youngest; 0: it is ours, or none
	bridge  *bridge       // while frozen: how the heir will reach it
	over    bool          // while frozen: it ends, its carrier is one too many
	written chan struct{} // closed when what was on its way then has been written
}

func (c *streamLink) transport() string            { return c.proto.name }
func (c *streamLink) reliable() bool               { return true }
func (c *streamLink) flowID(netip.AddrPort) string { return c.id }
func (c *streamLink) local() netip.AddrPort        { c.mu.Lock(); defer c.mu.Unlock(); return c.own }

func (c *streamLink) alive() bool { c.mu.Lock(); defer c.mu.Unlock(); return !c.gone && !c.ending }

// close breaks the connection; its reader then forgets it.
func (c *streamLink) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gone {
		c.gone = true
		c.out, c.waits = nil, 0
		switch {
		case c.bridge == nil:
		case c.e.gate.shut(): // its far end may be under way to an heir, who reads the end
			_ = c.bridge.near.Close()
		default:
			c.bridge.close()
		}
		if c.raw != nil {
			_ = c.raw.Close() // a goodbye in TLS could wait for its reader
		}
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
