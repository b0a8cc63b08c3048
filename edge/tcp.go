package edge

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	dialWithin    = 5 * time.Second
	firstWithin   = 5 * time.Second  // a new connection says something sensible by then
	messageWithin = 10 * time.Second // and ends each message that it has begun
	writeWithin   = 10 * time.Second
	writeQueue    = 256     // messages that a connection holds for a slow reader
	writeBytes    = 1 << 20 // and their bytes
)

// tcpLink is one TCP connection. Its reader deals with one message after the
// other; its writer empties a queue, so that a peer that does not read holds up
// nobody: when the queue is full the connection is closed.
type tcpLink struct {
	e        *Edge
	id       string
	remote   netip.AddrPort
	dialed   bool
	known    bool // a message of a known peer has come, or we dialed
	stranger bool // no peer had this address when it connected
	out      chan []byte
	queued   atomic.Int64 // bytes in out
	closed   chan struct{}
	once     sync.Once

	mu   sync.Mutex
	conn net.Conn // nil while dialing
	own  netip.AddrPort
}

type tcpListener struct {
	ln    *net.TCPListener
	bound netip.AddrPort
}

// conns are the connections that are open.
type conns struct {
	mu        sync.Mutex
	last      uint64
	strangers int
	byID      map[string]*tcpLink
	byRemote  map[netip.AddrPort]*tcpLink
	bySource  map[netip.Addr]int
}

func (c *tcpLink) transport() string            { return "TCP" }
func (c *tcpLink) reliable() bool               { return true }
func (c *tcpLink) flowID(netip.AddrPort) string { return c.id }
func (c *tcpLink) local() netip.AddrPort        { c.mu.Lock(); defer c.mu.Unlock(); return c.own }

func (c *tcpLink) alive() bool {
	select {
	case <-c.closed:
		return false
	default:
		return true
	}
}

func (c *tcpLink) send(_ netip.AddrPort, b []byte) error {
	if !c.alive() {
		return errLink
	}
	if c.queued.Add(int64(len(b))) <= writeBytes {
		select {
		case c.out <- b:
			return nil
		default:
		}
	}
	c.e.complain(c.remote, slowReader, time.Now())
	c.close()
	return errLink
}

func (c *tcpLink) close() {
	c.once.Do(func() {
		close(c.closed)
		c.mu.Lock()
		if c.conn != nil {
			c.conn.Close()
		}
		c.mu.Unlock()
	})
}

// acceptTCP never waits for a connection to say something.
func (e *Edge) acceptTCP(t *tcpListener) {
	defer e.wg.Done()
	for {
		conn, err := t.ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
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
		c := e.newConn(remote, conn)
		if c == nil {
			e.complain(remote, connLimit, time.Now())
			_ = conn.Close()
			continue
		}
		e.wg.Add(2)
		go e.readTCP(c, conn)
		go e.writeTCP(c, conn)
	}
}

// newConn registers a connection; nil when there are too many. Strangers have a
// few each and a quarter of all together, so that they cannot keep peers out.
func (e *Edge) newConn(remote netip.AddrPort, conn net.Conn) *tcpLink {
	_, known := e.identify(remote)
	known = known || conn == nil || e.friends.has(remote.Addr(), time.Now())
	limit, source := e.lim.MaxPerSource, sourceKey(remote.Addr())
	if !known {
		limit = min(limit, 8)
	}
	e.conns.mu.Lock()
	defer e.conns.mu.Unlock()
	if len(e.conns.byID) >= e.lim.MaxConns || e.conns.bySource[source] >= limit || e.ctx.Err() != nil ||
		!known && e.conns.strangers >= max(1, e.lim.MaxConns/4) {
		return nil
	}
	e.conns.last++
	c := &tcpLink{e: e, remote: remote, conn: conn, dialed: conn == nil, out: make(chan []byte, writeQueue), closed: make(chan struct{})}
	c.known, c.stranger = c.dialed, !known
	if c.stranger {
		e.conns.strangers++
	}
	c.id = "tcp/" + remote.String() + "/" + e.cfg.Boot + "." + strconv.FormatUint(e.conns.last, 10)
	if conn != nil {
		c.own = conn.LocalAddr().(*net.TCPAddr).AddrPort()
	}
	e.conns.byID[c.id] = c
	e.conns.byRemote[remote] = c
	e.conns.bySource[source]++
	e.stats.Connections.Add(1)
	return c
}

// dropConn forgets a connection; requests that were waiting on it have failed.
func (e *Edge) dropConn(c *tcpLink) {
	c.close()
	e.conns.mu.Lock()
	_, open := e.conns.byID[c.id]
	if open {
		delete(e.conns.byID, c.id)
		if e.conns.byRemote[c.remote] == c {
			delete(e.conns.byRemote, c.remote)
		}
		source := sourceKey(c.remote.Addr())
		if e.conns.bySource[source]--; e.conns.bySource[source] == 0 {
			delete(e.conns.bySource, source)
		}
		if c.stranger {
			e.conns.strangers--
		}
		e.stats.Connections.Add(-1)
	}
	e.conns.mu.Unlock()
	if open {
		e.linkLost(c)
	}
}

// dialTCP gives the connection to an address, an open one if there is one. The
// connection is made meanwhile; what is sent waits in its queue.
func (e *Edge) dialTCP(remote netip.AddrPort, within time.Duration) *tcpLink {
	e.conns.mu.Lock()
	c := e.conns.byRemote[remote]
	e.conns.mu.Unlock()
	if c != nil && c.alive() {
		return c
	}
	if c = e.newConn(remote, nil); c == nil {
		e.stats.count(connLimit)
		return nil
	}
	for _, t := range e.tcp {
		c.own = t.bound
	}
	e.wg.Add(1)
	go func() {
		defer e.wg.Done()
		d := net.Dialer{Timeout: within, Control: func(_, _ string, raw syscall.RawConn) error {
			e.mark(raw, remote.Addr().Is6())
			return nil
		}}
		conn, err := d.DialContext(e.ctx, "tcp", remote.String())
		if err != nil {
			e.stats.count(sendFailed)
			e.dropConn(c)
			return
		}
		c.mu.Lock()
		c.conn = conn
		c.mu.Unlock()
		if !c.alive() {
			conn.Close()
		}
		e.wg.Add(1)
		go e.readTCP(c, conn)
		e.wg.Add(1)
		e.writeTCP(c, conn)
	}()
	return c
}

func (e *Edge) writeTCP(c *tcpLink, conn net.Conn) {
	defer e.wg.Done()
	defer e.dropConn(c)
	for {
		select {
		case b := <-c.out:
			if b == nil {
				return
			}
			c.queued.Add(-int64(len(b)))
			_ = conn.SetWriteDeadline(time.Now().Add(writeWithin))
			if _, err := conn.Write(b); err != nil {
				return
			}
		case <-c.closed:
			return
		}
	}
}

func (e *Edge) readTCP(c *tcpLink, conn net.Conn) {
	defer e.wg.Done()
	defer e.dropConn(c)
	s := stream{lim: &e.lim}
	buf := make([]byte, 8192)
	_ = conn.SetReadDeadline(time.Now().Add(firstWithin))
	if c.dialed {
		_ = conn.SetReadDeadline(time.Time{})
	}
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		begun := len(s.buf) > 0
		s.buf = append(s.buf, buf[:n]...)
		for {
			msg, ping, why := s.next()
			if why != okay {
				e.refuseStream(c, &s, why)
				return
			}
			if ping {
				e.stats.KeepAlives.Add(1)
				_ = c.send(c.remote, []byte("\r\n"))
				continue
			}
			if msg == nil {
				break
			}
			e.handle(flow{c, c.remote}, msg)
			begun = false
		}
		switch {
		case !c.known: // the first deadline stands
		case len(s.buf) == 0:
			s.buf = nil // an idle connection keeps no buffer
			_ = conn.SetReadDeadline(time.Time{})
		case !begun:
			_ = conn.SetReadDeadline(time.Now().Add(messageWithin))
		}
	}
}

// stream cuts messages out of the bytes of a connection.
type stream struct {
	lim *Limits
	buf []byte
}

// next returns the next whole message, or nil when more bytes are needed. ping
// is a keep-alive that wants an answer (RFC 5626 4.4.1). With a reason, the
// connection cannot be read on.
func (s *stream) next() (msg []byte, ping bool, why reason) {
	for bytes.HasPrefix(s.buf, []byte("\r\n")) {
		if bytes.HasPrefix(s.buf, []byte("\r\n\r\n")) {
			s.buf = s.buf[4:]
			return nil, true, okay
		}
		if len(s.buf) == 2 {
			return nil, false, okay // may become a ping; harmless before a start line
		}
		s.buf = s.buf[2:]
	}
	end := bytes.Index(s.buf, []byte("\r\n\r\n"))
	if end < 0 {
		if len(s.buf) > s.lim.MaxMessage {
			return nil, false, badSize
		}
		return nil, false, okay
	}
	length, ok := contentLength(string(s.buf[:end+2]))
	if !ok {
		return nil, false, badLength
	}
	total := end + 4 + length
	if total > s.lim.MaxMessage {
		return nil, false, badSize
	}
	if len(s.buf) < total {
		return nil, false, okay
	}
	msg, s.buf = s.buf[:total:total], s.buf[total:]
	return msg, false, okay
}

// contentLength finds the one Content-Length, which a stream must have (RFC
// 3261 18.3). Two, or none, leave no way to find the next message.
func contentLength(head string) (int, bool) {
	length := -1
	for head != "" {
		var line string
		line, head, _ = strings.Cut(head, "\r\n")
		for head != "" && (head[0] == ' ' || head[0] == '\t') {
			var more string
			more, head, _ = strings.Cut(head, "\r\n")
			line += more
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || longName(strings.TrimRight(name, " \t")) != "Content-Length" {
			continue
		}
		n, err := strconv.ParseUint(strings.Trim(value, " \t"), 10, 31)
		if err != nil || length >= 0 {
			return 0, false
		}
		length = int(n)
	}
	return length, length >= 0
}
