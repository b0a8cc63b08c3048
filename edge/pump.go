package edge

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The keys of a TLS connection have no way out of crypto/tls, so the connection
// stays where its hands were shaken, and its bytes do not:
//
//	client == TLS == pump, in the old process -- bridge -- edge, whichever is at work
//
// The bridge is a pair of sockets. Its far end is handed over as the descriptor of
// the connection, with what has been read and not been dealt with, as that of any
// connection (handed.go); the next heir gets the same descriptor. What the client
// sends meanwhile waits in the kernel. A pump knows nothing of SIP and ends with its
// connection, or with the edge at the far end: then the client comes back by itself.

// maxCarried is how many generations, at most, carry connections for the one at work:
// what the oldest carries ends when it would be one more.
const maxCarried = 2

// lastWords is how long the edge may take to end its connections when the switch ends.
const lastWords = 2 * time.Second

// A bridge leads from a pump to the edge.
type bridge struct {
	near net.Conn // ours
	far  *os.File // the heir's
}

func newBridge() (*bridge, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("pair of sockets: %w", err)
	}
	end, far := os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
	near, err := net.FileConn(end)
	_ = end.Close()
	if err != nil {
		_ = far.Close()
		return nil, err
	}
	return &bridge{near, far}, nil
}

func (b *bridge) close() {
	_ = b.near.Close()
	_ = b.far.Close() // whoever took it has closed it
}

// bridges are built before the edge is frozen, for all that is there by then.
func (e *Edge) bridges() {
	for _, c := range e.openConns() {
		c.mu.Lock()
		if c.ours() && !c.gone && c.bridge == nil {
			c.bridge, _ = newBridge() // without it: another try when it is handed over
		}
		c.mu.Unlock()
	}
}

// A pump carries one connection.
type pump struct {
	tls   *tls.Conn // may be in its handshake
	shake time.Duration
	near  net.Conn
	after <-chan struct{} // nil, or closed when a message of ours that was on its way has been written
}

// run ends when either side has.
func (p *pump) run() {
	defer p.cut()
	if !p.tls.ConnectionState().HandshakeComplete {
		_ = p.tls.SetDeadline(time.Now().Add(p.shake))
		if p.tls.HandshakeContext(context.Background()) != nil {
			return
		}
		_ = p.tls.SetDeadline(time.Time{})
	}
	_ = p.tls.SetReadDeadline(time.Time{}) // by which its reader was called back
	over := make(chan struct{})
	go func() {
		defer close(over)
		p.down()
	}()
	_ = carry(p.near, p.tls) // the edge has gone, or will be told that the client has
	_ = p.near.(interface{ CloseWrite() error }).CloseWrite()
	<-over
}

// down carries what the edge says. When it has no more to say the client is given
// the time that the edge itself gives it.
func (p *pump) down() {
	if p.after != nil {
		<-p.after
	}
	if carry(p.tls, p.near) != nil {
		p.cut()
		return
	}
	_ = p.tls.CloseWrite()
	_ = p.tls.SetReadDeadline(time.Now().Add(2 * lingerFor))
}

// cut ends both sides at once.
func (p *pump) cut() {
	_ = p.tls.NetConn().Close() // a goodbye in TLS could wait for its reader
	_ = p.near.Close()
}

// carry copies until there is nothing more; its error is of writing.
func carry(to, from net.Conn) error {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			_ = to.SetWriteDeadline(time.Now().Add(writeWithin))
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
			_ = to.SetWriteDeadline(time.Time{}) // TLS writes by itself, too
		}
		if err != nil {
			return nil //nolint:nilerr // it ends, however
		}
	}
}

// Stay follows a Freeze in a process whose heir has everything: the Edge is over,
// and Run is of no use any more. Its sockets are closed; connections in TLS go on, whose
// bytes it carries until the last has ended, or until a moment after end is closed.
// tell hears how many are open, when that changes, at most once a second.
func (e *Edge) Stay(end <-chan struct{}, tell func(open int)) { carryAll(e.leave(), end, tell) }

func carryAll(pumps []*pump, end <-chan struct{}, tell func(open int)) {
	ended := make(chan struct{}, len(pumps))
	for _, p := range pumps {
		go func() {
			p.run()
			ended <- struct{}{}
		}()
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	cut := (<-chan time.Time)(nil)
	for open, told := len(pumps), 0; open > 0; {
		if told == 0 {
			told = open
			tell(open)
		}
		select {
		case <-ended:
			open--
		case <-tick.C:
			if open != told {
				told = 0
			}
		case <-end:
			end, cut = nil, time.After(lastWords)
		case <-cut:
			for _, p := range pumps {
				p.cut()
			}
		}
	}
}
