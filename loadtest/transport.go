package loadtest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// transport carries a UA's messages to and from the switch. get calls its
// second argument to answer on the way a message came.
type transport interface {
	send(b []byte) error // to the switch
	local() netip.AddrPort
	reliable() bool
	name() string // as in Via
	serve(get func(b []byte, reply func([]byte) error))
	close() error
}

type udpTransport struct {
	conn *net.UDPConn
	to   netip.AddrPort
}

func newUDP(local, to netip.AddrPort) (*udpTransport, error) {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(local))
	if err != nil {
		return nil, fmt.Errorf("loadtest: %w", err)
	}
	_ = c.SetReadBuffer(4 << 20) // what the kernel allows of it
	return &udpTransport{conn: c, to: to}, nil
}

func (t *udpTransport) send(b []byte) error {
	_, err := t.conn.WriteToUDPAddrPort(b, t.to)
	return err
}

func (t *udpTransport) local() netip.AddrPort { return addrOf(t.conn.LocalAddr()) }
func (t *udpTransport) reliable() bool        { return false }
func (t *udpTransport) name() string          { return "UDP" }
func (t *udpTransport) close() error          { return t.conn.Close() }

func (t *udpTransport) serve(get func([]byte, func([]byte) error)) {
	buf := make([]byte, 65536)
	for {
		n, from, err := t.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 20 { // keep-alives too
			continue
		}
		get(buf[:n], func(b []byte) error {
			_, err := t.conn.WriteToUDPAddrPort(b, from)
			return err
		})
	}
}

// tcpTransport listens, and keeps one connection to the switch, dialled again
// when it was lost.
type tcpTransport struct {
	ln  net.Listener
	to  netip.AddrPort
	mu  sync.Mutex
	out net.Conn
	all map[net.Conn]bool
	get func([]byte, func([]byte) error)
	// ready is closed once get is set.
	ready chan struct{}
	wg    sync.WaitGroup
	done  bool

	dialling sync.Mutex    // before mu: one at a time
	limit    time.Duration // of a dial, of a handshake, of a message: who takes none in it is not there

	secure *tls.Config // nil: plain
	lost   int         // connections that have ended before close
}

func newTCP(local, to netip.AddrPort, secure *tls.Config) (*tcpTransport, error) {
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp4", local.String())
	if err != nil {
		return nil, fmt.Errorf("loadtest: %w", err)
	}
	if secure != nil {
		ln = tls.NewListener(ln, secure)
	}
	return &tcpTransport{ln: ln, to: to, all: map[net.Conn]bool{}, ready: make(chan struct{}), limit: 10 * time.Second, secure: secure}, nil
}

func (t *tcpTransport) local() netip.AddrPort { return addrOf(t.ln.Addr()) }
func (t *tcpTransport) reliable() bool        { return true }

func (t *tcpTransport) name() string {
	if t.secure != nil {
		return "TLS"
	}
	return "TCP"
}

func (t *tcpTransport) send(b []byte) error {
	c, err := t.connection()
	if err != nil {
		return err
	}
	return t.write(c, b)
}

// write ends a connection that takes no more: half a message is worse than none.
func (t *tcpTransport) write(c net.Conn, b []byte) error {
	err := c.SetWriteDeadline(time.Now().Add(t.limit))
	if err == nil {
		_, err = c.Write(b)
	}
	if err != nil {
		_ = c.Close()
	}
	return err
}

// connection is the one to the switch, dialled if there is none. mu is free
// meanwhile: close waits for no switch that hangs.
func (t *tcpTransport) connection() (net.Conn, error) {
	t.dialling.Lock()
	defer t.dialling.Unlock()
	t.mu.Lock()
	out, done := t.out, t.done
	t.mu.Unlock()
	switch {
	case done:
		return nil, net.ErrClosed
	case out != nil:
		return out, nil
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: t.local().Addr().AsSlice()}, Timeout: t.limit}
	c, err := d.DialContext(context.Background(), "tcp4", t.to.String())
	if err != nil {
		return nil, err
	}
	if t.secure == nil {
		return c, t.enter(c)
	}
	s := tls.Client(c, t.secure)
	if err = s.SetDeadline(time.Now().Add(t.limit)); err == nil {
		err = t.enter(s)
	}
	if err == nil {
		err = s.HandshakeContext(context.Background())
	}
	if err == nil {
		err = s.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = s.Close()
	}
	return s, err
}

// enter makes c the connection to the switch.
func (t *tcpTransport) enter(c net.Conn) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done {
		_ = c.Close()
		return net.ErrClosed
	}
	t.out = c
	t.begin(c)
	return nil
}

// begin reads a connection until it ends; t.mu is held.
func (t *tcpTransport) begin(c net.Conn) {
	t.all[c] = true
	t.wg.Add(1)
	go func() {
		defer t.wg.Done()
		t.read(c)
		_ = c.Close()
		t.mu.Lock()
		delete(t.all, c)
		if !t.done {
			t.lost++
		}
		if t.out == c {
			t.out = nil
		}
		t.mu.Unlock()
	}()
}

func (t *tcpTransport) read(c net.Conn) {
	<-t.ready
	r := bufio.NewReader(c)
	var wm sync.Mutex
	reply := func(b []byte) error {
		wm.Lock()
		defer wm.Unlock()
		return t.write(c, b)
	}
	for {
		m, err := readFramed(r)
		if err != nil {
			return
		}
		t.get(m, reply)
	}
}

// readFramed reads one message from a stream (RFC 3261 section 18.3).
func readFramed(r *bufio.Reader) ([]byte, error) {
	var head []byte
	length := 0
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		if len(head) == 0 && strings.TrimSpace(string(line)) == "" {
			continue // keep-alive
		}
		head = append(head, line...)
		if len(head) > 65536 {
			return nil, errNotSIP
		}
		if len(line) <= 2 {
			break
		}
		k, v, _ := strings.Cut(string(line), ":")
		if k = strings.ToLower(strings.TrimSpace(k)); k == "content-length" || k == "l" {
			if length, err = strconv.Atoi(strings.TrimSpace(v)); err != nil || length < 0 || length > 65536 {
				return nil, errNotSIP
			}
		}
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	return append(head, body...), nil
}

func (t *tcpTransport) serve(get func([]byte, func([]byte) error)) {
	t.mu.Lock()
	t.get = get
	t.mu.Unlock()
	close(t.ready)
	for {
		c, err := t.ln.Accept()
		if err != nil {
			return
		}
		t.mu.Lock()
		if t.done {
			_ = c.Close()
		} else {
			t.begin(c)
		}
		t.mu.Unlock()
	}
}

func (t *tcpTransport) close() error {
	err := t.ln.Close()
	t.mu.Lock()
	t.done = true
	for c := range t.all {
		_ = c.Close()
	}
	t.mu.Unlock()
	t.wg.Wait()
	return err
}

func addrOf(a net.Addr) netip.AddrPort {
	ap, _ := netip.ParseAddrPort(a.String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
