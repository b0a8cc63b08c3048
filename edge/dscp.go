package edge

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// classSelector3 is the mark of signalling (RFC 4594 4.2, RFC 2474): CS3 in the
// upper six bits of the old TOS byte. It is a wish: a system that refuses it, or
// a network that ignores it, changes nothing for us.
const classSelector3 = 24 << 2

// mark sets it on a socket; accepted connections inherit their listener's.
func (e *Edge) mark(c syscall.RawConn, v6 bool) {
	if e.cfg.Unmarked || c == nil {
		return
	}
	_ = c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, classSelector3) // of an IPv6 socket: its v4-mapped peers
		if v6 {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TCLASS, classSelector3)
		}
	})
}
