package edge

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// order has the edge perform an action, as a worker would.
func (r *rig) order(effect codecore.Effect) {
	r.t.Helper()
	r.ordered++
	a := action(r.ordered, effect)
	a.First = true
	data, err := wire.Seal(sessions.Do{Call: "0123456789abcdef01234567", Actions: []codecore.Action{a}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.edge.onDo(sessions.Msg{Data: data})
}

// A next hop is reached by TLS when its URI asks for that, and only if it proves
// to be the host of the URI.
func TestTLSToANextHopIsVerified(t *testing.T) {
	for _, c := range []struct {
		target  string
		trusted bool
	}{
		{"sips:2@localhost:PORT", true},
		{"sip:2@127.0.0.1:PORT;transport=tls", true},
		{"sip:2@127.0.0.2:PORT;transport=tls", false}, // not a name of the certificate
	} {
		t.Run(c.target, func(t *testing.T) {
			r, _ := withTransports(t, nil)
			ln, err := tls.Listen("tcp", "0.0.0.0:0", &tls.Config{GetCertificate: r.edge.cfg.Certificate.get})
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			e := r.outgoing(r.edge.ids.token("0123456789abcdef01234567"), "INVITE")
			e.Request.Target = strings.Replace(c.target, "PORT", port, 1)
			r.order(e)
			conn, err := ln.Accept()
			if !c.trusted {
				if err == nil {
					_ = conn.(*tls.Conn).HandshakeContext(context.Background())
					defer conn.Close()
				}
				if e := event[codecore.SIPTimeout](r, nil); e.Code != 503 || r.edge.stats.Reasons()["tls"] != 1 {
					t.Errorf("%+v, %v", e, r.edge.stats.Reasons())
				}
				return
			}
			inv := newTCPFar(t, conn, err).hear("INVITE")
			if !strings.Contains(inv, "Via: SIP/2.0/TLS 127.0.0.1:"+fmt.Sprint(r.edge.Addrs()[atTLS].Port())) || !strings.Contains(inv, ";transport=tls>") {
				t.Errorf("Via or Contact:\n%s", inv)
			}
		})
	}
}

func TestACertificateIsReadAgainWhenItChanges(t *testing.T) {
	dir := t.TempDir()
	writeCertificate(t, dir)
	c, err := LoadCertificate(filepath.Join(dir, "cert"), filepath.Join(dir, "key"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	serial := func() string { now = now.Add(2 * lookAgain); return c.current(now).Leaf.SerialNumber.String() }
	first := serial()
	if err := os.WriteFile(filepath.Join(dir, "cert"), []byte("half a cert"), 0o600); err != nil {
		t.Fatal(err)
	}
	if serial() != first {
		t.Error("a broken file took the certificate away")
	}
	writeCertificate(t, dir)
	second := serial()
	if second == first || serial() != second {
		t.Error("the new one is not shown")
	}
	if _, err := LoadCertificate(filepath.Join(dir, "none"), filepath.Join(dir, "key"), nil); err == nil {
		t.Error("no file, no error")
	}
}

func TestSTUNOnTheSIPPort(t *testing.T) {
	r := newRig(t, patient())
	request := make([]byte, 20)
	binary.BigEndian.PutUint16(request, stunRequest)
	binary.BigEndian.PutUint32(request[4:], stunCookie)
	copy(request[8:], "transaction!")
	r.send(string(request))
	buf := make([]byte, 100)
	_ = r.far.SetReadDeadline(time.Now().Add(guard))
	n, err := r.far.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	own := r.far.LocalAddr().(*net.UDPAddr).AddrPort()
	port := binary.BigEndian.Uint16(buf[26:]) ^ stunCookie>>16
	addr := binary.BigEndian.Uint32(buf[28:]) ^ stunCookie
	if n != 32 || binary.BigEndian.Uint16(buf) != stunSuccess || string(buf[8:20]) != "transaction!" || port != own.Port() || addr != 0x7f000001 {
		t.Errorf("%x", buf[:n])
	}
	six := netip.MustParseAddrPort("[2001:db8::1]:9")
	if b := stunAnswer(request, six); len(b) != 44 || b[25] != stunFamily6 {
		t.Errorf("%x", b)
	}
	for _, bad := range [][]byte{append(request[:20:20], 0, 6, 0, 0), append(request[:20:20], 1), append([]byte{1, 1}, request[2:]...)} {
		if b := stunAnswer(bad, own); b != nil {
			t.Errorf("%x is answered with %x", bad, b)
		}
	}
	r.plan.Store(&codecore.Plan{}) // now nobody knows us: what is longer than it was asked for is not sent
	r.send(string(request))
	r.await(func() bool { return r.edge.stats.Reasons()["stun"] == 1 })
}

func TestASlowHandshakeIsCutOff(t *testing.T) {
	r, _ := withTransports(t, func(c *Config) { c.Limits.Shake = 100 * time.Millisecond })
	for _, at := range []int{atTLS, atWS, atWSS} {
		conn, err := dialFrom("", r.edge.Addrs()[at].String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("G")) // and no more
		_ = conn.SetReadDeadline(time.Now().Add(guard))
		for err == nil {
			_, err = conn.Read(make([]byte, 100))
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("listener %d waits", at)
		}
	}
	r.await(func() bool { return r.edge.stats.Connections.Load() == 0 })
	for _, name := range []string{"TLS", "WS", "WSS"} {
		if n := r.edge.stats.of(name).Failed.Load(); n != 1 {
			t.Errorf("%s: %d handshakes failed", name, n)
		}
	}
}

// Behind a trusted address there may be a browser with anybody's page in it.
func TestAnAddressAloneIsNobodyOnAWebSocket(t *testing.T) {
	r, _ := withTransports(t, func(c *Config) {
		c.Plan = func() *codecore.Plan {
			return &codecore.Plan{Peers: []codecore.PlanPeer{{Name: "phone", Kind: "phone", Sources: []string{"127.0.0.1"}}}}
		}
	})
	b, err := browse(t, r.edge.Addrs()[atWS].String(), "", nil, "", "sip")
	if err != nil {
		t.Fatal(err)
	}
	b.send(strings.Replace(r.request("INVITE", "1", ""), "SIP/2.0/UDP", "SIP/2.0/WS", 1))
	b.hear("407")
	r.send(r.request("INVITE", "2", "")) // by UDP it is the peer
	if ev := event[codecore.SIPRequest](r, nil); ev.Peer != "phone" {
		t.Errorf("%+v", ev)
	}
}

func TestAPingFloodCostsOneConnection(t *testing.T) {
	r, _ := withTransports(t, nil)
	b, err := browse(t, r.edge.Addrs()[atWS].String(), "127.0.3.1", nil, "", "sip")
	if err != nil {
		t.Fatal(err)
	}
	for range 50 { // a stranger has 10 a second
		if ws.WriteFrame(b.conn, ws.MaskFrame(ws.NewPingFrame(nil))) != nil {
			break
		}
	}
	if code := b.closed(); code != ws.StatusPolicyViolation {
		t.Errorf("closed with %d", code)
	}
}

func TestABrowserIsToldThatTheEdgeGoes(t *testing.T) {
	r, pool := withTransports(t, nil)
	b, err := browse(t, r.edge.Addrs()[atWSS].String(), "", pool, "", "sip")
	if err != nil {
		t.Fatal(err)
	}
	signUp(b, "WSS", "gone")
	for idle := false; !idle; { // who is still writing is not waited for
		idle = true
		r.edge.conns.mu.Lock()
		for _, c := range r.edge.conns.byID {
			c.mu.Lock()
			idle = idle && !c.writing
			c.mu.Unlock()
		}
		r.edge.conns.mu.Unlock()
		runtime.Gosched()
	}
	r.stop()
	f := b.frame()
	if code, _ := ws.ParseCloseFrameData(f.Payload); f.Header.OpCode != ws.OpClose || code != ws.StatusGoingAway {
		t.Errorf("%v %d", f.Header.OpCode, code)
	}
}

// A reader that reads nothing is closed; those beside it hear all.
func TestASlowReaderOnAWebSocket(t *testing.T) {
	r, _ := withTransports(t, nil)
	to := r.edge.Addrs()[atWS].String()
	var open [2]*browser
	for i := range open {
		b, err := browse(t, to, "", nil, "", "sip")
		if err != nil {
			t.Fatal(err)
		}
		signUp(b, "WS", fmt.Sprint("reader", i))
		open[i] = b
	}
	r.edge.mu.Lock()
	slow := r.edge.footholds[client{"1", "reader0@reader0.invalid:0"}].flow
	r.edge.mu.Unlock()
	big := make([]byte, 60_000)
	for i := 0; slow.link.alive(); i++ {
		if i > 10_000 {
			t.Fatal("600 MB wait for a slow reader")
		}
		_ = slow.link.send(slow.remote, big)
	}
	if n := r.edge.stats.Reasons()["slow-reader"]; n != 1 {
		t.Errorf("%d slow readers", n)
	}
	open[1].send("\r\n\r\n")
	if f := open[1].frame(); string(f.Payload) != "\r\n" {
		t.Errorf("%q", f.Payload)
	}
	_, _ = io.Copy(io.Discard, open[0].conn)
}

// A phone behind NAT that comes back over another connection is called by that
// one: its contact's address is not its own.
func TestATLSPhoneThatComesBack(t *testing.T) {
	r, pool := withTransports(t, nil)
	register := func() *tcpFar {
		conn, err := dialFrom("", r.edge.Addrs()[atTLS].String())
		if err != nil {
			t.Fatal(err)
		}
		f := newTCPFar(t, tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: "localhost"}), nil)
		line := func(extra string) string {
			n := cseqs.Add(1)
			m := strings.Replace(r.registerLine(fmt.Sprint("tls", n), extra), "SIP/2.0/UDP", "SIP/2.0/TLS", 1)
			return strings.Replace(m, "CSeq: 7 ", fmt.Sprintf("CSeq: %d ", n), 1)
		}
		f.send(line(""))
		f.send(line(answerTo(f.hear("401"), "REGISTER", "sesame", 1)))
		f.hear("200")
		return f
	}
	f := register()
	r.edge.mu.Lock()
	var h *foothold
	for _, h = range r.edge.footholds {
	}
	id := h.flow.id()
	r.edge.mu.Unlock()
	f.conn.Close()
	f = register()
	e := r.outgoing(r.edge.ids.token("0123456789abcdef01234567"), "INVITE")
	e.Request.Target, e.Request.Flow, e.Request.Account = "sip:"+strings.TrimSuffix(h.contact, ":0"), id, h.account
	r.order(e)
	f.hear("INVITE")
}
