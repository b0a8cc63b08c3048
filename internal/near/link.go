package near

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stalled is how long a stream may take nothing while more waits; then it is closed.
	stalled = time.Second
	// maxWaiting bounds what waits for a full socket, in bytes; one frame is taken whatever its size.
	maxWaiting = 256 << 10
	// keepBuf is how large a write buffer may stay between frames, in bytes.
	keepBuf = 64 << 10
)

// errFull reports a stream whose reader is behind: the frame was not taken.
var errFull = errors.New("near: stream is full")

// A link writes frames to one stream. Who finds nobody writing lets the other
// goroutines run that are ready, and writes what all of them have sent by then:
// at low rates a frame leaves at once, without a wake-up more; at high rates many
// leave in one system call. No sender waits for the reader at the other end.
type link struct {
	c   *net.UnixConn
	raw syscall.RawConn

	mu      sync.Mutex
	buf     []byte // not yet written
	spare   []byte
	writing bool // somebody will write buf
	dead    bool
}

func newLink(c *net.UnixConn) (*link, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &link{c: c, raw: raw}, nil
}

func (l *link) close() { _ = l.c.Close() }

// send takes a frame. When too much waits it is refused with errFull where there
// is another way (option); else the stream is closed: its reader has stopped.
func (l *link) send(f *frame, option bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return errBroken
	}
	if len(l.buf) > 0 && len(l.buf)+len(f.data) > maxWaiting {
		if option {
			return errFull
		}
		return l.broken()
	}
	l.buf = appendFrame(l.buf, f)
	if l.writing {
		return nil
	}
	l.writing = true
	l.mu.Unlock()
	runtime.Gosched()
	l.mu.Lock()
	return l.flush()
}

// broken ends the stream. mu is held.
func (l *link) broken() error {
	l.dead, l.buf, l.spare = true, nil, nil
	l.close()
	return errBroken
}

// flush writes what waits, as far as the socket takes it; the rest is left to a
// goroutine. mu is held, but not during the write.
func (l *link) flush() error {
	for len(l.buf) > 0 && !l.dead {
		out := l.buf
		l.buf, l.spare = l.spare[:0], nil
		l.mu.Unlock()
		n, err := l.write(out)
		l.mu.Lock()
		switch {
		case err != nil:
			return l.broken()
		case n < len(out):
			go l.finish(out[n:])
			return nil
		case cap(out) <= keepBuf:
			l.spare = out
		}
	}
	l.writing = false
	return nil
}

// write writes what the socket takes now; 0 and no error when it is full.
func (l *link) write(p []byte) (n int, err error) {
	var werr error
	err = l.raw.Write(func(fd uintptr) bool {
		for {
			n, werr = unix.Write(int(fd), p)
			if !errors.Is(werr, unix.EINTR) {
				return true
			}
		}
	})
	if errors.Is(werr, unix.EAGAIN) {
		return 0, err
	}
	return max(n, 0), errors.Join(err, werr)
}

// finish waits until a full socket has taken rest, and goes on.
func (l *link) finish(rest []byte) {
	_ = l.c.SetWriteDeadline(time.Now().Add(stalled))
	_, err := l.c.Write(rest)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || l.dead {
		_ = l.broken()
		return
	}
	_ = l.c.SetWriteDeadline(time.Time{})
	_ = l.flush()
}
