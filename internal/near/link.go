package near

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stalled is how long a writer waits for a reader that has stopped in the middle
// of a frame; then the stream is closed.
const stalled = 50 * time.Millisecond

// errFull reports a socket whose reader is behind: nothing was written.
var errFull = errors.New("near: socket is full")

// A link writes frames to one stream: at once, under a lock, so that no goroutine
// more has to wake. A reader that has stopped costs a writer at most stalled, once.
type link struct {
	c   *net.UnixConn
	raw syscall.RawConn

	mu   sync.Mutex
	buf  []byte
	dead bool
}

func newLink(c *net.UnixConn) (*link, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &link{c: c, raw: raw}, nil
}

func (l *link) close() { _ = l.c.Close() }

// keepBuf is how large a write buffer may stay between frames, in bytes.
const keepBuf = 64 << 10

// send writes a frame. Where there is another way (option), a full socket is
// errFull and nothing was written; else it is waited for.
func (l *link) send(f *frame, option bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return errBroken
	}
	l.buf = appendFrame(l.buf[:0], f)
	rest := l.buf
	if cap(l.buf) > keepBuf {
		l.buf = nil
	}
	var n int
	var werr error
	err := l.raw.Write(func(fd uintptr) bool {
		for {
			n, werr = unix.Write(int(fd), rest)
			if !errors.Is(werr, unix.EINTR) {
				return true
			}
		}
	})
	if err == nil && werr == nil && n == len(rest) {
		return nil
	}
	full := errors.Is(werr, unix.EAGAIN)
	if err == nil && full && option {
		return errFull
	}
	if err == nil && (werr == nil || full) {
		_ = l.c.SetWriteDeadline(time.Now().Add(stalled))
		if _, err = l.c.Write(rest[max(n, 0):]); err == nil {
			return l.c.SetWriteDeadline(time.Time{})
		}
	}
	l.dead = true
	l.close()
	return errBroken
}
