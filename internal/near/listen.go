package near

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	suffix  = ".sock"
	newMark = ".new" // a socket that does not listen yet
)

// path names a socket by way of its directory's descriptor, for a sockaddr_un
// holds 108 bytes only.
func (b *Bus) path(file string) string {
	if p := filepath.Join(b.cfg.Dir, file); len(p) < 100 {
		return p
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", b.dir.Fd(), file)
}

// listen opens this process's socket. It gets its name when it listens already,
// so that nobody takes it for a dead one's.
func (b *Bus) listen() (err error) {
	if err := os.MkdirAll(b.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("near: %w", err)
	}
	if b.dir, err = os.Open(b.cfg.Dir); err != nil {
		return fmt.Errorf("near: %w", err)
	}
	defer func() {
		if err != nil {
			_ = b.dir.Close()
			err = fmt.Errorf("near: %w", err)
		}
	}()
	b.sweep()
	path := b.path(b.cfg.Name + newMark)
	_ = os.Remove(path)
	if b.l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
		return err
	}
	b.l.SetUnlinkOnClose(false)
	if err = os.Chmod(path, 0o600); err == nil {
		err = os.Rename(path, b.path(b.cfg.Name+suffix))
	}
	if err != nil {
		_ = b.l.Close()
	}
	return err
}

// hush ends listening.
func (b *Bus) hush() {
	_ = os.Remove(b.path(b.cfg.Name + suffix))
	_ = b.l.Close()
}

// sweep removes the sockets of processes that have died.
func (b *Bus) sweep() {
	entries, err := os.ReadDir(b.cfg.Dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		c, err := net.DialTimeout("unix", b.path(e.Name()), b.cfg.DialWait)
		if err == nil {
			_ = c.Close()
		} else if errors.Is(err, unix.ECONNREFUSED) {
			_ = os.Remove(b.path(e.Name()))
		}
	}
}

// dial opens a stream to another process of this host and greets it.
func (b *Bus) dial(name string) (*net.UnixConn, *link, error) {
	c, err := net.DialTimeout("unix", b.path(name+suffix), b.cfg.DialWait)
	if err != nil {
		return nil, nil, err
	}
	uc, _ := c.(*net.UnixConn)
	l, err := ours(uc)
	if err == nil {
		err = l.send(&frame{kind: kindHello}, true)
	}
	if err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	return uc, l, nil
}

// ours checks that the other end belongs to our user.
func ours(c *net.UnixConn) (*link, error) {
	l, err := newLink(c)
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := l.raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil, err
	}
	if cerr != nil {
		return nil, cerr
	}
	if int(cred.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("near: the other end belongs to user %d", cred.Uid)
	}
	return l, nil
}

// accept takes streams until the listener is closed.
func (b *Bus) accept() {
	for {
		c, err := b.l.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of descriptors: not for ever
			b.log.Warn("near: no stream taken", "err", err)
			time.Sleep(b.cfg.DialWait)
			continue
		}
		l, err := ours(c)
		if err != nil {
			b.log.Warn("near: stream refused", "err", err)
			_ = c.Close()
			continue
		}
		s := &served{bus: b, link: l}
		b.mu.Lock()
		if b.closed || len(b.served) >= maxServed {
			b.mu.Unlock()
			l.close()
			continue
		}
		b.served[s] = struct{}{}
		b.tasks.Go(s.run)
		b.mu.Unlock()
	}
}
