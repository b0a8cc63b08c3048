package edge

import (
	"errors"
	"net"
	"sync"
	"time"
)

// An underTLS is what a connection in TLS stands on. TLS writes by itself, too, with
// no time set: its Read answers new keys (RFC 8446 4.6.3), and would wait for ever for
// a far end that asks for them and reads nothing. Here such a write has writeWithin,
// and is the end of the connection when it fails: Read does not tell of it. Where
// somebody has set a time it stands until he takes it back.
type underTLS struct {
	net.Conn
	mu    sync.Mutex
	until time.Time // as it was set; zero: nobody has
}

func (u *underTLS) Write(b []byte) (int, error) {
	u.mu.Lock()
	own := u.until.IsZero()
	if own {
		_ = u.Conn.SetWriteDeadline(time.Now().Add(writeWithin))
	}
	u.mu.Unlock()
	n, err := u.Conn.Write(b)
	if err != nil && own {
		_ = u.Conn.Close()
	}
	return n, err
}

// SetWriteDeadline takes a time back with the zero one: what is being written
// keeps the time that it has, and what comes next gets its own.
func (u *underTLS) SetWriteDeadline(t time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.until = t; t.IsZero() {
		return nil
	}
	return u.Conn.SetWriteDeadline(t)
}

func (u *underTLS) SetDeadline(t time.Time) error {
	return errors.Join(u.SetReadDeadline(t), u.SetWriteDeadline(t))
}
