package media

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockaddr is a struct sockaddr_in or _in6 as the kernel writes it, comparable
// with ==. The family field is in host order, the port in network order.
type sockaddr [unix.SizeofSockaddrInet6]byte

// sockaddrOf returns the kernel's form of ap; an IPv4-mapped address is IPv4.
func sockaddrOf(ap netip.AddrPort) (s sockaddr) {
	addr := ap.Addr().Unmap()
	binary.BigEndian.PutUint16(s[2:], ap.Port())
	if addr.Is4() {
		binary.NativeEndian.PutUint16(s[0:], unix.AF_INET)
		a := addr.As4()
		copy(s[4:], a[:])
		return s
	}
	binary.NativeEndian.PutUint16(s[0:], unix.AF_INET6)
	a := addr.As16()
	copy(s[8:], a[:])
	return s
}

// parseSockaddr reads "ip:port". What nothing can be sent to (port 0, 0.0.0.0,
// multicast, another family than the sockets') is not ok.
func parseSockaddr(text string, v6 bool) (s sockaddr, ok bool) {
	ap, err := netip.ParseAddrPort(text)
	if err != nil {
		return s, false
	}
	addr := ap.Addr().Unmap()
	if ap.Port() == 0 || addr.IsUnspecified() || addr.IsMulticast() || addr.Is4() == v6 || addr.Zone() != "" {
		return s, false
	}
	return sockaddrOf(ap), true
}

func (s *sockaddr) family() uint16 { return binary.NativeEndian.Uint16(s[0:]) }

// family is that of all sockets of a node.
func family(v6 bool) uint16 {
	if v6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func (s *sockaddr) isZero() bool { return s.family() == 0 }

func (s *sockaddr) size() uintptr {
	if s.family() == unix.AF_INET {
		return unix.SizeofSockaddrInet4
	}
	return unix.SizeofSockaddrInet6
}

func (s *sockaddr) port() uint16 { return binary.BigEndian.Uint16(s[2:]) }

// sameHost reports whether both are the same IP address.
func (s *sockaddr) sameHost(o *sockaddr) bool {
	a, b := *s, *o
	a[2], a[3], b[2], b[3] = 0, 0, 0, 0
	return a == b
}

// withPort returns the address with another port.
func (s sockaddr) withPort(port uint16) sockaddr {
	binary.BigEndian.PutUint16(s[2:], port)
	return s
}

// String writes "ip:port", "" for no address.
func (s *sockaddr) String() string {
	switch s.family() {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s[4:8])), s.port()).String()
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(s[8:24])), s.port()).String()
	}
	return ""
}

// expedited is the mark of voice (RFC 3246, RFC 4594 4.1): EF in the upper six
// bits of the old TOS byte. It is a wish, like the edge's.
const expedited = 46 << 2

// mark sets the TOS byte, or IPv6's traffic class, of what f sends. It is said of
// inherited sockets too: the generation before may have been told otherwise.
func mark(f *os.File, v6 bool, class int) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if v6 {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TCLASS, class)
			return
		}
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, class)
	})
}

// openUDP binds a UDP socket that is closed on exec.
func openUDP(ip netip.Addr, port int) (*os.File, error) {
	family := unix.AF_INET
	if ip.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("media: socket: %w", err)
	}
	var at unix.Sockaddr
	if family == unix.AF_INET {
		at = &unix.SockaddrInet4{Port: port, Addr: ip.As4()}
	} else {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
		at = &unix.SockaddrInet6{Port: port, Addr: ip.As16()}
	}
	if err := unix.Bind(fd, at); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("media: bind %s: %w", netip.AddrPortFrom(ip, uint16(port)), err)
	}
	return os.NewFile(uintptr(fd), keepName(port)), nil
}

// adoptUDP takes over a socket that another process bound, if it is what its
// name says: a UDP socket of this address and port. It consumes f.
func adoptUDP(f *os.File, ip netip.Addr, port int) (*os.File, error) {
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("media: inherited socket: %w", err)
	}
	fd := -1
	ctrlErr := raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3)
	})
	if ctrlErr != nil || err != nil {
		return nil, fmt.Errorf("media: inherited socket: %w", firstError(ctrlErr, err))
	}
	if err := checkUDP(fd, ip, port); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	// The flag is shared with every duplicate; see the package comment.
	_ = unix.SetNonblock(fd, false)
	return os.NewFile(uintptr(fd), keepName(port)), nil
}

func checkUDP(fd int, ip netip.Addr, port int) error {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return fmt.Errorf("media: inherited socket: %w", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("media: inherited socket: %w", err)
	}
	var at netip.AddrPort
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		at = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		at = netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	if want := netip.AddrPortFrom(ip, uint16(port)); kind != unix.SOCK_DGRAM || at != want {
		return fmt.Errorf("media: inherited socket is %s (type %d), not %s", at, kind, want)
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// recvFrom reads one datagram without waiting. n is its true length, which may
// be more than the buffer's. The raw call spares the scheduler's bookkeeping: it
// cannot block.
func recvFrom(fd int, b []byte, from *sockaddr) (n int, errno unix.Errno) {
	size := uint32(len(from))
	r, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_TRUNC, uintptr(unsafe.Pointer(from)), uintptr(unsafe.Pointer(&size)))
	if e != 0 {
		return 0, e
	}
	if from.family() == unix.AF_INET6 {
		clear(from[4:8]) // flow label: no part of the address
	}
	return int(r), 0
}

// sendTo sends one datagram without waiting.
func sendTo(fd int, b []byte, to *sockaddr) unix.Errno {
	_, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, uintptr(unsafe.Pointer(to)), to.size())
	return e
}
