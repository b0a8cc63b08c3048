package edge

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A host that has nobody on a port says so by ICMP, with the head of the datagram
// that it could not deliver. A socket that is bound but not connected hears of it
// only through its error queue (ip(7), IP_RECVERR). Anybody can forge an ICMP
// message: one is believed if it quotes a branch of ours, with its MAC, and goes
// for a request that waits at that address.

// hearErrors has the errors of a UDP socket kept.
func hearErrors(c syscall.RawConn, v6 bool) {
	_ = c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1)
		if v6 {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
		}
	})
}

// sendUDP sends one datagram. An error that an earlier one met is told to the
// next call of any kind, which has nothing to do with it: that one is made again.
//
// It never waits for room: datagrams to a neighbour that does not answer ARP lie in
// the socket's buffer for 3 s, and with some such neighbours it is full. What does not
// fit is lost, and sent again by its transaction, as on any network.
func (u *udpLink) sendUDP(b []byte, to netip.AddrPort) (err error) {
	dst, err := u.sockaddr(to)
	if err != nil {
		return err
	}
	for range 4 {
		closed := u.raw.Write(func(fd uintptr) bool {
			err = unix.Sendto(int(fd), b, 0, dst)
			return true
		})
		if closed != nil {
			return closed
		}
		if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.EINTR) {
			return err
		}
		u.troubled()
	}
	return err
}

// sockaddr is an address as the socket's family has it.
func (u *udpLink) sockaddr(to netip.AddrPort) (unix.Sockaddr, error) {
	switch a := to.Addr(); {
	case !u.v6 && a.Unmap().Is4():
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: a.Unmap().As4()}, nil
	case u.v6 && a.Is6():
		zone, err := u.zone(a.Zone())
		return &unix.SockaddrInet6{Port: int(to.Port()), Addr: a.As16(), ZoneId: zone}, err
	}
	return nil, fmt.Errorf("edge: %s is of another family than %s", to.Addr(), u.bound.Addr())
}

// zone is the number of a zone (RFC 4007 11): of an interface, by its name as net
// tells it, or by the number itself.
func (u *udpLink) zone(name string) (uint32, error) {
	if name == "" {
		return 0, nil
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		closed := u.raw.Control(func(fd uintptr) { err = unix.IoctlIfreq(int(fd), unix.SIOCGIFINDEX, ifr) })
		err = errors.Join(closed, err)
	}
	if err == nil {
		return ifr.Uint32(), nil
	}
	if n, bad := strconv.ParseUint(name, 10, 32); bad == nil {
		return uint32(n), nil
	}
	return 0, fmt.Errorf("edge: zone %q: %w", name, err)
}

// troubled has the error queue read, once for all who ask meanwhile.
func (u *udpLink) troubled() {
	select {
	case u.errs <- struct{}{}:
	default:
	}
}

// readErrors empties the error queue of a socket whenever it is told to.
func (e *Edge) readErrors(u *udpLink) {
	defer e.wg.Done()
	quote, control := make([]byte, 2048), make([]byte, 512)
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-u.errs:
		}
		for more := true; more; {
			n, to := 0, netip.AddrPort{}
			more = false // and so it stays when the socket is closed: nothing is called then
			_ = u.raw.Control(func(fd uintptr) {
				got, _, _, from, err := unix.Recvmsg(int(fd), quote, control, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
				if more = err == nil; more {
					n, to = got, addressOf(from)
				}
			})
			if more && n > 0 {
				e.undelivered(quote[:n], to, time.Now())
			}
		}
	}
}

func addressOf(s unix.Sockaddr) netip.AddrPort {
	switch s := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(s.Addr).Unmap(), uint16(s.Port))
	}
	return netip.AddrPort{}
}

// undelivered takes the head of a request that found nobody. Only who has an
// alternative hears of it at once: a phone that starts again is back before its
// INVITE is given up.
func (e *Edge) undelivered(head []byte, to netip.AddrPort, now time.Time) {
	if r, ok := e.pingIn(head, trunkBranch); ok {
		e.stats.count(portClosed)
		e.refusedPing(r, now)
		return
	}
	method, _, _ := strings.Cut(string(head[:min(len(head), 16)]), " ")
	_, rest, ok := bytes.Cut(head, []byte(";branch="))
	if !ok {
		return
	}
	if end := bytes.IndexAny(rest, ";\r\n"); end >= 0 {
		rest = rest[:end]
	}
	if _, _, ok := e.ids.verify(string(rest)); !ok {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	tx := e.client[clientKey(string(rest), method)]
	if tx == nil || tx.state != calling || tx.left || tx.flow.remote != to || tx.req == nil || !tx.others && !tx.req.Hurry {
		return
	}
	e.stats.count(portClosed)
	tx.fail(e, 503, portClosed, now)
}
