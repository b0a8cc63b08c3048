package media

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/selfsign"
	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"

	"callswitch/codecore"
)

// deaf is a client's socket that does not hear the end of a handshake while it is
// set: datagrams that begin with a ChangeCipherSpec.
type deaf struct {
	packets
	on atomic.Bool
}

func (d *deaf) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := d.packets.ReadFrom(b)
		if err != nil || n == 0 || b[0] != 20 || !d.on.Load() {
			return n, from, err
		}
	}
}

// The end of our handshake gets lost, and then we die: the successor says it again.
func TestLastFlightIsSaidAgain(t *testing.T) {
	cfg, key, keep := keptConfig(t)
	n := start(t, cfg, nil)
	ports := n.alloc("c1")
	cert, err := selfsign.GenerateSelfSigned()
	if err != nil {
		t.Fatal(err)
	}
	w := talk("a", ports[0], "", 1)
	w.Mux, w.Secure = true, &codecore.Secure{
		Kind: codecore.SecureDTLS, Own: "a.1", Ufrag: "x", Fingerprint: fmt.Sprintf("SHA-256 %x", sha256.Sum256(cert.Certificate[0])),
	}
	n.do("c1", 1, 1, w)
	conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: ports[0]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ufrag, pwd := key.ICE("c1", "a.1")
	if _, err = conn.Write(checkBy(ufrag+":x", pwd, nominates).Raw); err == nil {
		_, err = conn.Read(make([]byte, 1500))
	}
	if err != nil {
		t.Fatal(err)
	}
	ear := &deaf{packets: packets{conn}}
	ear.on.Store(true)
	c, err := dtls.ClientWithOptions(ear, conn.RemoteAddr(), dtls.WithCertificates(cert), dtls.WithInsecureSkipVerify(true),
		dtls.WithSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM), dtls.WithLoggerFactory(quiet), dtls.WithFlightInterval(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.HandshakeContext(ctx) }()
	n.await("our side done", func() bool { return n.Stats().Handshakes == 1 })
	n = n.killed(&cfg, keep, true, nil)
	ear.on.Store(false)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if s := n.Stats(); s.Handshakes != 0 {
		t.Errorf("%d new handshakes", s.Handshakes)
	}
}

// Another party on the same leg: another certificate, another association.
func TestNewAssociation(t *testing.T) {
	cfg, key := secureConfig(t)
	n := start(t, cfg, nil)
	ports, a, b, legs := n.dialled("c1", key, false)
	a2 := newBrowser(t)
	offer := a2.offer(nil)
	legs[0] = a2.secured(legs[0], key, "c1", "a.2", offer, false)
	n.do("c1", 1, 2, legs[:]...)
	a2.answer(ours(key, "c1", "a.2", "passive", ports[0]))
	n.await("connected", func() bool { return a2.state(webrtc.PeerConnectionStateConnected) })
	a2.send(2)
	b.must(2)
	b.send(3)
	a2.must(3)
	a.send(4) // the one before is heard no more
	b.silent()
	if s := n.Stats(); s.Handshakes != 2 {
		t.Errorf("%d handshakes", s.Handshakes)
	}
}

// Reports pass between a sealed leg on one port and a plain one on two.
func TestRTCPBetweenKindsOfLegs(t *testing.T) {
	cfg, key := secureConfig(t)
	n := start(t, cfg, nil)
	ports, a, b, legs := n.pairSDES("c1", "AEAD_AES_128_GCM", key)
	ear := newPhone(t, ports[1]+1, 0)
	legs[0].Mux, legs[1].RTCP = true, ear.addr()
	legs[1].Learn++
	n.do("c1", 1, 2, legs[:]...)
	hear := func(c *net.UDPConn) []byte {
		t.Helper()
		buf := make([]byte, 1500)
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		k, _, err := c.ReadFromUDP(buf)
		if err != nil {
			t.Fatalf("%v; %v", err, n.Stats().Dropped)
		}
		return buf[:k]
	}
	for i := range 3 {
		sr, _ := (&rtcp.SenderReport{SSRC: a.ssrc, PacketCount: uint32(i)}).Marshal()
		sealed, err := a.tx.EncryptRTCP(nil, sr, nil)
		if err != nil {
			t.Fatal(err)
		}
		a.write(sealed, ports[0])
		got, err := rtcp.Unmarshal(hear(ear.conn))
		if r, ok := got[0].(*rtcp.SenderReport); err != nil || !ok || r.SSRC != a.ssrc || r.PacketCount != uint32(i) {
			t.Fatalf("%v: %v", err, got)
		}
		a.write(sealed, ports[0]) // a replay
		rr, _ := (&rtcp.ReceiverReport{SSRC: b.ssrc}).Marshal()
		ear.write(rr, ports[1]+1)
		plain, err := a.rx.DecryptRTCP(nil, hear(a.conn), nil)
		if err != nil || plain[1] != rtcpRR {
			t.Fatalf("%v: %x", err, plain)
		}
	}
	n.await("replays", func() bool { return n.Stats().Dropped["replay"] == 3 })
	if _, ok := ear.recv(50 * time.Millisecond); ok {
		t.Error("a replayed report passed")
	}
}

func TestBrowserHearsItself(t *testing.T) {
	cfg, key, keep := keptConfig(t)
	n := start(t, cfg, nil)
	ports := n.alloc("c1")
	a := newBrowser(t)
	w := a.secured(talk("a", ports[0], "", 1), key, "c1", "a.1", a.offer(nil), false)
	w.Echo = true
	n.do("c1", 1, 1, w)
	a.answer(ours(key, "c1", "a.1", "passive", ports[0]))
	n.await("connected", func() bool { return a.state(webrtc.PeerConnectionStateConnected) })
	a.send(1)
	last := a.must(1)
	for i := 2; i < 6; i++ {
		if i == 4 {
			n = n.killed(&cfg, keep, true, nil)
		}
		a.send(i)
		if g := a.must(i); g.SSRC != last.SSRC || g.SequenceNumber != last.SequenceNumber+1 || g.Timestamp-last.Timestamp != 160 {
			t.Fatalf("packet %d: %v after %v", i, g.Header, last.Header)
		} else {
			last = g
		}
	}
}

// The record of before is not needed for the leg to go on: it may be late, or of
// another moment.
func TestSlotKnowsTheAddress(t *testing.T) {
	cfg, key, keep := keptConfig(t)
	n := start(t, cfg, nil)
	_, a, b, legs := n.dialled("c1", key, false)
	n.await("kept", func() bool { return keep.count() == n.Stats().Sockets+1 && n.Stats().Unsaved == 0 })
	cfg.Legs.(*memLegs).reach(false)
	n.crash()
	cfg.Boot, cfg.Inherited = "m-2", keep.hand()
	cfg.Legs = nil // the owner's order alone
	n = start(t, cfg, nil)
	n.do("c1", 1, 1, legs[:]...)
	b.send(2)
	a.must(2)
	a.send(3)
	b.must(3)
}

// A datagram of the party's that comes late does not make us forget what we said last.
func TestLastFlightIsKept(t *testing.T) {
	l, a, _, _ := sealedLegs(t, true)
	p := newPipe(l, a)
	a.sec.pipe = p
	say := func(text string) {
		if _, err := p.WriteTo([]byte(text), nil); err != nil {
			t.Fatal(err)
		}
	}
	hear := func() {
		p.feed([]byte{22})
		if _, _, err := p.ReadFrom(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
	}
	say("first")
	hear()
	say("last, ")
	say("in two")
	hear()
	if got := string(bytes.Join(p.flight, nil)); got != "last, in two" {
		t.Errorf("%q", got)
	}
}
