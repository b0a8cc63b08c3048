package loadtest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	packetTime = 20 * time.Millisecond // RFC 3551 section 4.2
	slots      = 20                    // of one millisecond each
	rtpHeader  = 12
	payloadLen = 160
	mark       = 0x53574c54 // opens every payload of the rig
)

// Sound sends and receives the RTP of all legs: one goroutine paces every
// sender, one reads every socket. It does not keep the samples: payloads carry
// call, direction, sequence number and send time instead.
type Sound struct {
	epoll int
	wg    sync.WaitGroup
	done  atomic.Bool

	mu      sync.Mutex
	byFD    map[int32]*Stream
	sending [slots][]*Stream
	next    int
}

// NewSound starts the two goroutines; Close ends them and closes all sockets.
func NewSound() (*Sound, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("loadtest: epoll: %w", err)
	}
	s := &Sound{epoll: ep, byFD: map[int32]*Stream{}}
	s.wg.Go(s.pace)
	s.wg.Go(s.read)
	return s, nil
}

// Stream is one leg's sound: a socket, what it sends and what it hears.
type Stream struct {
	sound *Sound
	fd    int
	addr  netip.AddrPort
	slot  int

	remote atomic.Pointer[unix.Sockaddr]
	guard  atomic.Pointer[guard] // nil: plain RTP
	on     atomic.Bool           // paced
	muted  atomic.Bool           // no packet leaves, no number is used
	sent   atomic.Uint32         // payload numbers used: 0 … sent-1
	events atomic.Uint32         // DTMF events left to send, as digit+1

	call  uint32
	dir   byte // 'a': what the caller sends, 'b': what the callee sends
	ssrc  uint32
	seq   uint16
	stamp uint32
	out   [rtpHeader + payloadLen]byte

	acct Account
}

// Open binds a socket on ip, port chosen by the kernel. dir is 'a' for the
// caller's leg and 'b' for the callee's; a leg hears the other direction.
func (s *Sound) Open(ip netip.Addr, call uint32, dir byte) (*Stream, error) {
	family := unix.AF_INET
	if ip.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("loadtest: rtp socket: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	if err := stampArrivals(fd); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	if err := unix.Bind(fd, sockaddrOf(netip.AddrPortFrom(ip, 0))); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("loadtest: rtp bind: %w", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("loadtest: rtp: %w", err)
	}
	st := &Stream{
		sound: s, fd: fd, call: call, dir: dir,
		addr: netip.AddrPortFrom(ip, addressOf(name).Port()),
		ssrc: call<<1 | uint32(dir&1) | 0x40000000, seq: uint16(call * 7919), stamp: call * 104729,
	}
	hear := byte('a')
	if dir == 'a' {
		hear = 'b'
	}
	st.acct.init(call, hear)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byFD[int32(fd)] = st
	st.slot = s.next % slots
	s.next++
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	return st, unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &ev)
}

// Addr is the address for our SDP.
func (t *Stream) Addr() netip.AddrPort { return t.addr }

// SetRemote is where sound goes to, and from now on must come from.
func (t *Stream) SetRemote(at netip.AddrPort) {
	to := sockaddrOf(at)
	t.remote.Store(&to)
	t.acct.expect(at)
}

// Talk begins or resumes sending.
func (t *Stream) Talk() {
	t.muted.Store(false)
	if t.on.Swap(true) {
		return
	}
	t.sound.mu.Lock()
	defer t.sound.mu.Unlock()
	t.sound.sending[t.slot] = append(t.sound.sending[t.slot], t)
}

// Hush stops sending; what is under way may still arrive (give it Drain).
func (t *Stream) Hush() { t.muted.Store(true) }

// Digit sends one telephone-event (RFC 4733): 8 packets, the last 3 marked end. Another
// one may follow when it is Pressed.
func (t *Stream) Digit(d byte) { t.events.Store(uint32(d) + 1) }

// Pressed reports whether the last digit has been sent.
func (t *Stream) Pressed() bool { return t.events.Load() == 0 }

// Sent is how many numbered packets have left.
func (t *Stream) Sent() uint32 { return t.sent.Load() }

// Heard sums up what arrived; sent is what the other leg's stream has sent.
func (t *Stream) Heard(sent uint32) Hearing { return t.acct.hearing(sent) }

// Pause tells the account that silence from now on is meant.
func (t *Stream) Pause() { t.acct.pause() }

// Close closes the socket.
func (t *Stream) Close() {
	s := t.sound
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byFD[int32(t.fd)] != t {
		return
	}
	delete(s.byFD, int32(t.fd))
	if g := t.guard.Load(); g != nil {
		g.over.set()
	}
	l := s.sending[t.slot]
	for i, o := range l {
		if o == t {
			s.sending[t.slot] = append(append([]*Stream(nil), l[:i]...), l[i+1:]...)
			break
		}
	}
	_ = unix.Close(t.fd)
}

// Close stops all sound.
func (s *Sound) Close() {
	s.mu.Lock()
	all := make([]*Stream, 0, len(s.byFD))
	for _, t := range s.byFD {
		all = append(all, t)
	}
	s.mu.Unlock()
	for _, t := range all {
		t.Close()
	}
	s.done.Store(true)
	s.wg.Wait()
	_ = unix.Close(s.epoll)
}

// pace sends one slot's packets every millisecond; when it was held up it
// catches up, so that 50 packets a second hold on average.
func (s *Sound) pace() {
	start := time.Now()
	for n := 0; !s.done.Load(); n++ {
		due := start.Add(time.Duration(n) * packetTime / slots)
		if d := time.Until(due); d > 0 {
			time.Sleep(d)
		}
		s.mu.Lock()
		for _, t := range s.sending[n%slots] {
			t.emit()
		}
		s.mu.Unlock()
	}
}

// emit sends the packet that is due; Sound.mu is held (Close waits for it).
func (t *Stream) emit() {
	to := t.remote.Load()
	if t.muted.Load() || to == nil {
		t.stamp += payloadLen
		return
	}
	if d := t.events.Swap(0); d != 0 {
		t.dtmf(*to, byte(d-1))
	}
	n := t.sent.Load()
	b := t.out[:]
	b[0], b[1] = 0x80, 0
	binary.BigEndian.PutUint16(b[2:], t.seq)
	binary.BigEndian.PutUint32(b[4:], t.stamp)
	binary.BigEndian.PutUint32(b[8:], t.ssrc)
	p := b[rtpHeader:]
	binary.BigEndian.PutUint32(p, mark)
	binary.BigEndian.PutUint32(p[4:], t.call)
	p[8] = t.dir
	binary.BigEndian.PutUint32(p[9:], n)
	binary.BigEndian.PutUint64(p[13:], uint64(time.Now().UnixNano()))
	t.seq++
	t.stamp += payloadLen
	if g := t.guard.Load(); g != nil {
		if b = g.seal(b); b == nil {
			return
		}
	}
	if unix.Sendto(t.fd, b, 0, *to) == nil {
		t.sent.Store(n + 1)
	}
}

func (t *Stream) dtmf(to unix.Sockaddr, digit byte) {
	for i := range 8 {
		var b [rtpHeader + 4]byte
		b[0], b[1] = 0x80, dtmfType
		if i == 0 {
			b[1] |= 0x80
		}
		binary.BigEndian.PutUint16(b[2:], t.seq)
		binary.BigEndian.PutUint32(b[4:], t.stamp)
		binary.BigEndian.PutUint32(b[8:], t.ssrc)
		b[rtpHeader], b[rtpHeader+1] = digit, 10
		if i >= 5 {
			b[rtpHeader+1] |= 0x80
		}
		binary.BigEndian.PutUint16(b[rtpHeader+2:], uint16(min(i+1, 6)*payloadLen))
		t.seq++
		_ = unix.Sendto(t.fd, b[:], 0, to)
	}
}

// read takes packets from every socket; it looks once a millisecond, which
// costs far less than a wake-up per packet.
func (s *Sound) read() {
	events := make([]unix.EpollEvent, 512)
	buf, oob := make([]byte, 2048), make([]byte, oobLen)
	for !s.done.Load() {
		n, _ := unix.EpollWait(s.epoll, events, 20)
		now := time.Now()
		for _, ev := range events[:max(n, 0)] {
			s.mu.Lock() // while it is read: a socket that is closed leaves its number to the next
			t := s.byFD[ev.Fd]
			if t == nil {
				s.mu.Unlock()
				continue
			}
			size, said, _, from, err := unix.Recvmsg(t.fd, buf, oob, unix.MSG_DONTWAIT)
			s.mu.Unlock()
			if err != nil {
				continue
			}
			b := buf[:size]
			if g := t.guard.Load(); g != nil {
				if b = g.open(b); b == nil {
					continue
				}
			}
			t.acct.packet(b, addressOf(from), arrival(oob[:said], now))
		}
		time.Sleep(time.Millisecond)
	}
}

func sockaddrOf(at netip.AddrPort) unix.Sockaddr {
	if at.Addr().Is6() {
		return &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}
	}
	return &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
}

func addressOf(s unix.Sockaddr) netip.AddrPort {
	switch a := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}
