package media

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSockaddr(t *testing.T) {
	for _, text := range []string{"192.0.2.1:4000", "[2001:db8::1]:65535"} {
		s := sockaddrOf(netip.MustParseAddrPort(text))
		if s.String() != text {
			t.Errorf("%s became %s", text, s.String())
		}
		other := s.withPort(7)
		if !s.sameHost(&other) || s == other || other.port() != 7 {
			t.Errorf("%s and %s", s.String(), other.String())
		}
	}
	for _, text := range []string{"", "x", "0.0.0.0:4000", "192.0.2.1:0", "224.0.0.1:4000", "[2001:db8::1]:4000", "example.org:4000"} {
		if s, ok := parseSockaddr(text, false); ok {
			t.Errorf("%q is an address to send to: %s", text, s.String())
		}
	}
}

func TestIPv6(t *testing.T) {
	probe, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here:", err)
	}
	probe.Close()
	cfg := config(&memBus{})
	cfg.Listen = netip.MustParseAddr("::1")
	n := start(t, cfg, nil)
	ports := n.alloc("c1")
	a, b := dial6(t, ports[0]), dial6(t, ports[1])
	n.do("c1", 1, 1, talk("a", ports[0], a.LocalAddr().String(), 1), talk("b", ports[1], b.LocalAddr().String(), 1))
	packet := append([]byte{0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1}, "sound"...)
	if _, err := a.Write(packet); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if k, err := b.Read(buf); err != nil || string(buf[:k]) != string(packet) {
		t.Errorf("%q, %v", buf[:k], err)
	}
}

// tosOf is the TOS byte, or traffic class, of the next packet.
func tosOf(t *testing.T, c *net.UDPConn) (tos int) {
	t.Helper()
	buf, oob := make([]byte, 100), make([]byte, 128)
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, n, _, _, err := c.ReadMsgUDP(buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range msgs {
		if m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TOS || m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_TCLASS {
			return int(m.Data[0])
		}
	}
	t.Fatalf("no TOS among %v", msgs)
	return 0
}

// Sound is marked EF unless configured otherwise, RTP and RTCP, also on sockets of
// a generation that did as it was told before.
func TestSoundIsMarkedEF(t *testing.T) {
	for _, at := range []string{"127.0.0.1", "::1"} {
		far, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(at)})
		if err != nil {
			t.Skip("no IPv6 here:", err)
		}
		defer far.Close()
		raw, err := far.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			if at == "::1" {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
				return
			}
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
		})
		to := sockaddrOf(far.LocalAddr().(*net.UDPAddr).AddrPort())
		cfg := config(&memBus{})
		cfg.Listen = netip.MustParseAddr(at)
		keep := &memKeeper{}
		t.Cleanup(keep.close)
		cfg.Keep = keep
		marked := func(n *node, want int) {
			t.Helper()
			n.mu.Lock()
			defer n.mu.Unlock()
			for _, p := range n.pool.pairs {
				if p == nil {
					continue
				}
				for _, q := range []*port{p.rtp, p.rtcp} {
					if errno := sendTo(q.fd, []byte("x"), &to); errno != 0 {
						t.Fatal(errno)
					}
					if tos := tosOf(t, far); tos != want {
						t.Errorf("%s: port %d is marked %#x, not %#x", at, q.num, tos, want)
					}
				}
			}
		}
		n := start(t, cfg, nil)
		marked(n, 46<<2)
		n.crash()
		cfg.Boot, cfg.Inherited, cfg.Unmarked = "m-2", keep.hand(), true
		marked(start(t, cfg, nil), 0)
	}
}

func dial6(t *testing.T, port int) *net.UDPConn {
	c, err := net.DialUDP("udp6", nil, &net.UDPAddr{IP: net.IPv6loopback, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestInheritedSocketIsChecked(t *testing.T) {
	f, err := openUDP(loopback, 0)
	if err != nil {
		t.Fatal(err)
	}
	if g, err := adoptUDP(f, loopback, 29998); err == nil {
		g.Close()
		t.Error("a socket of another port was adopted")
	}
	if _, err := f.Write(nil); err == nil {
		t.Error("what was refused is still open")
	}
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"odd first port": func(c *Config) { c.PortMin++ },
		"even last port": func(c *Config) { c.PortMax-- },
		"no address":     func(c *Config) { c.Listen = netip.Addr{} },
		"two families":   func(c *Config) { c.Advertise = netip.IPv6Loopback() },
		"any address":    func(c *Config) { c.Listen = netip.IPv4Unspecified() },
		"no bus":         func(c *Config) { c.Bus = nil },
	} {
		cfg := config(&memBus{})
		change(&cfg)
		if m, err := New(cfg); err == nil {
			m.loop.close()
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestMappedAddressOfEachFamily(t *testing.T) {
	for _, text := range []string{"192.0.2.7:4000", "[2001:db8::7]:4000"} {
		a, ok := parseSockaddr(text, strings.HasPrefix(text, "["))
		if m := mapped(&a); !ok || net.JoinHostPort(m.IP.String(), "4000") != text || m.Port != 4000 {
			t.Errorf("%s: %v", text, m)
		}
	}
}
