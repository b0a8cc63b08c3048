package edge

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"callswitch/codecore"
	"callswitch/sessions"
)

// sixth is a rig whose edge listens on ::1 and whose phone is there.
func sixth(t *testing.T) (*rig, *net.UDPConn) {
	t.Helper()
	far, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		t.Skip("no IPv6 here: ", err)
	}
	t.Cleanup(func() { far.Close() })
	r := newRig(t, patient())
	r.stop()
	r.start("b2", "udp:[::1]:0", patient())
	r.plan.Store(&codecore.Plan{Peers: []codecore.PlanPeer{{Name: "phone", Kind: "phone", Sources: []string{"::1"}}}})
	old := r.far
	r.far = far
	t.Cleanup(func() { old.Close() })
	return r, far
}

func sixRequest(r *rig, method, branch string) string {
	return strings.ReplaceAll(r.request(method, branch, ""), "127.0.0.1", "[::1]")
}

func TestIPv6EverywhereInACall(t *testing.T) {
	r, _ := sixth(t)
	r.says(func(d sessions.Delivery) *sessions.Answer {
		if q, is := d.Event.Event().(codecore.SIPRequest); is && q.Msg.Method == "INVITE" {
			return ok(d, action(1, response(q, 180)), action(2, r.outgoing(q.Token, "INVITE")))
		}
		return ok(d)
	})
	r.send(sixRequest(r, "INVITE", "1"))
	at := r.edge.Addrs()[0].String() // "[::1]:port"
	ringing := r.hear("180")
	for _, want := range []string{"Contact: <sip:", "@" + at + ">", ";received=::1", ";rport="} {
		if !strings.Contains(ringing, want) {
			t.Errorf("no %q in\n%s", want, ringing)
		}
	}
	inv := r.hear("INVITE sip:2@")
	if !strings.Contains(inv, "Via: SIP/2.0/UDP "+at+";branch=") {
		t.Error(inv)
	}
	if q := event[codecore.SIPRequest](r, nil); !strings.HasPrefix(q.Flow, "udp/[::1]:") || !strings.HasPrefix(q.Source, "[::1]:") || q.Peer != "phone" {
		t.Errorf("%+v", q)
	}
	if f, ok := r.edge.flowByVia("SIP/2.0/UDP [2001:db8::9:1];received=[::1];rport=5070;branch=x"); !ok || f.remote.String() != "[::1]:5070" {
		t.Errorf("received in brackets: %v %v", f.remote, ok)
	}
}

// A datagram to a zone goes the way of all others, which never waits for room.
func TestAZoneIsAnInterface(t *testing.T) {
	r := newRig(t, patient())
	u := *r.edge.udp[0]
	u.v6 = true
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skip("no loopback by that name: ", err)
	}
	for addr, want := range map[string]int{"[fe80::1]:5060": 0, "[fe80::1%lo]:5060": lo.Index, "[fe80::1%77]:5060": 77} {
		to := netip.MustParseAddrPort(addr)
		s, err := u.sockaddr(to)
		six, is := s.(*unix.SockaddrInet6)
		if err != nil || !is || six.ZoneId != uint32(want) || six.Addr != to.Addr().As16() || six.Port != 5060 {
			t.Errorf("%s: %+v %v", addr, s, err)
		}
	}
	for _, addr := range []string{"[fe80::1%none]:5060", "[fe80::1%a-name-that-is-too-long-for-one]:5060", "192.0.2.1:5060"} {
		if err := u.sendUDP([]byte("x"), netip.MustParseAddrPort(addr)); err == nil {
			t.Errorf("%s is sent to", addr)
		}
	}
}

func TestIPv6DatagramToAZoneArrives(t *testing.T) {
	r, far := sixth(t)
	at := far.LocalAddr().(*net.UDPAddr).AddrPort()
	if err := r.edge.udp[0].send(netip.AddrPortFrom(at.Addr().WithZone("lo"), at.Port()), []byte("SIP/2.0 200 OK\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	r.hear("200 OK")
}

func TestMappedAddressesAreIPv4(t *testing.T) {
	r := newRig(t, patient())
	r.stop()
	r.start("b2", "udp:[::ffff:127.0.0.1]:0", patient())
	r.send(strings.ReplaceAll(r.request("OPTIONS", "1", ""), "UDP 127.0.0.1", "UDP [::ffff:127.0.0.1]"))
	if msg := r.hear("200"); !strings.Contains(msg, "received=127.0.0.1") {
		t.Error(msg)
	}
	if a := r.edge.Addrs()[0].Addr(); !a.Is4() {
		t.Errorf("listens on %v", a)
	}
}

func TestSignallingIsMarkedCS3(t *testing.T) {
	r := newRig(t, patient())
	conn, err := net.Dial("tcp", r.edge.Addrs()[1].String())
	f := newTCPFar(t, conn, err)
	f.send(r.viaTCP("OPTIONS", "1", "1"))
	f.hear("200")
	raw, err := r.far.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1) })
	r.send(r.request("OPTIONS", "2", ""))
	buf, oob := make([]byte, 4096), make([]byte, 128)
	_ = r.far.SetReadDeadline(time.Now().Add(guard))
	_, n, _, _, err := r.far.ReadMsgUDP(buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) == 0 || msgs[0].Header.Type != unix.IP_TOS || msgs[0].Data[0] != classSelector3 {
		t.Errorf("not marked: %v %v", msgs, err)
	}
}
