package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// testCertificate is one for loopback, and a pool that trusts it.
func testCertificate(t *testing.T) (*Certificate, *x509.CertPool, string) {
	t.Helper()
	dir := t.TempDir()
	pool := writeCertificate(t, dir)
	c, err := LoadCertificate(filepath.Join(dir, "cert"), filepath.Join(dir, "key"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c, pool, dir
}

func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	cert, key, err := SelfSigned([]string{"localhost", "127.0.0.1"}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "cert"), cert, 0o600), os.WriteFile(filepath.Join(dir, "key"), key, 0o600)); err != nil {
		t.Fatal(err)
	}
	return pool
}

// await waits for what the edge does by itself.
func (r *rig) await(ok func() bool) {
	r.t.Helper()
	late := time.Now().Add(guard)
	for !ok() {
		if time.Now().After(late) {
			r.t.Fatalf("it did not come: %v", r.edge.stats.Reasons())
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// The transports of the rig that withTransports starts, by their
// place in Edge.Addrs.
const (
	atUDP = iota
	atTCP
	atTLS
	atWS
	atWSS
)

// withTransports starts an edge with account 1 that listens on all transports.
func withTransports(t *testing.T, more func(*Config)) (*rig, *x509.CertPool) {
	r := withAccount(t, &oneShelf{values: map[string][]byte{}})
	cert, pool, _ := testCertificate(t)
	own := r.own
	r.own = func(c *Config) {
		own(c)
		c.Listen = append(c.Listen, "tls:127.0.0.1:0", "ws:127.0.0.1:0", "wss:127.0.0.1:0")
		c.Certificate, c.Roots = cert, pool
		if more != nil {
			more(c)
		}
	}
	r.stop()
	r.start("b3", "udp:127.0.0.1:0", patient())
	return r, pool
}

// browser is the far end of a WebSocket.
type browser struct {
	t    *testing.T
	conn net.Conn
	in   io.Reader
}

// dialFrom connects from an address of loopback.
func dialFrom(from, to string) (net.Conn, error) {
	d := net.Dialer{Timeout: guard}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	return d.Dial("tcp", to)
}

// browse opens a WebSocket; pool nil: without TLS.
func browse(t *testing.T, to, from string, pool *x509.CertPool, header, protocol string) (*browser, error) {
	t.Helper()
	d := ws.Dialer{
		Timeout:   guard,
		NetDial:   func(_ context.Context, _, addr string) (net.Conn, error) { return dialFrom(from, addr) },
		TLSConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"},
	}
	if protocol != "" {
		d.Protocols = []string{protocol}
	}
	if header != "" {
		d.Header = ws.HandshakeHeaderString("Origin: " + header + "\r\n")
	}
	scheme := "ws://"
	if pool != nil {
		scheme = "wss://"
	}
	conn, br, _, err := d.Dial(context.Background(), scheme+to)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	b := &browser{t: t, conn: conn, in: conn}
	if br != nil {
		b.in = br
	}
	return b, nil
}

func (b *browser) put(f ws.Frame) {
	b.t.Helper()
	if err := ws.WriteFrame(b.conn, ws.MaskFrame(f)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) send(msg string) { b.t.Helper(); b.put(ws.NewTextFrame([]byte(msg))) }

func (b *browser) frame() ws.Frame {
	b.t.Helper()
	_ = b.conn.SetReadDeadline(time.Now().Add(guard))
	h, err := ws.ReadHeader(b.in)
	if err != nil {
		b.t.Fatal(err)
	}
	p := make([]byte, h.Length)
	if _, err := io.ReadFull(b.in, p); err != nil {
		b.t.Fatal(err)
	}
	return ws.Frame{Header: h, Payload: p}
}

func (b *browser) hear(want string) string {
	b.t.Helper()
	for {
		f := b.frame()
		if f.Header.OpCode == ws.OpText && begins(string(f.Payload), want) {
			return string(f.Payload)
		}
		if f.Header.OpCode == ws.OpClose {
			code, _ := ws.ParseCloseFrameData(f.Payload)
			b.t.Fatalf("closed with %d while waiting for %q", code, want)
		}
	}
}

// closed reads to the close frame and the end behind it.
func (b *browser) closed() ws.StatusCode {
	b.t.Helper()
	for {
		f := b.frame()
		if f.Header.OpCode != ws.OpClose {
			continue
		}
		code, _ := ws.ParseCloseFrameData(f.Payload)
		if n, err := b.conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			b.t.Fatalf("after goodbye: %d bytes, %v", n, err)
		}
		return code
	}
}

var cseqs atomic.Uint32

// webRegister is a REGISTER as a browser sends it.
func webRegister(transport, branch, callID, user, extra string) string {
	return fmt.Sprintf("REGISTER sip:switch SIP/2.0\r\nVia: SIP/2.0/%s %s.invalid;branch=z9hG4bK%s\r\nFrom: <sip:1@x>;tag=w1\r\nTo: <sip:1@x>\r\nCall-ID: %s\r\nCSeq: %d REGISTER\r\nMax-Forwards: 70\r\nSupported: path, gruu, outbound\r\nContact: <sip:%s@%s.invalid;transport=ws>;+sip.instance=\"<urn:uuid:%s>\";reg-id=1;expires=600\r\n%sContent-Length: 0\r\n\r\n",
		transport, user, branch, callID, cseqs.Add(1), user, user, user, extra)
}

// talk is what a client of any transport can do.
type talk interface {
	send(string)
	hear(string) string
}

// signUp registers a browser and returns the 200.
func signUp(c talk, transport, user string) string {
	branch := fmt.Sprint(user, cseqs.Add(1), "r")
	c.send(webRegister(transport, branch+"1", user, user, ""))
	challenge := c.hear("401")
	c.send(webRegister(transport, branch+"2", user, user, answerTo(challenge, "REGISTER", "sesame", 1)))
	return c.hear("200")
}

func TestABrowserRegistersOverWSAndWSS(t *testing.T) {
	r, pool := withTransports(t, nil)
	for i, c := range []struct {
		transport string
		at        int
		pool      *x509.CertPool
	}{{"WS", atWS, nil}, {"WSS", atWSS, pool}} {
		b, err := browse(t, r.edge.Addrs()[c.at].String(), "", c.pool, "http://localhost:8080", "sip")
		if err != nil {
			t.Fatal(err)
		}
		user := fmt.Sprint("u", i)
		b.send(webRegister(c.transport, user+"x", user, user, ""))
		challenge := b.hear("401")
		if strings.LastIndex(challenge, "algorithm=") != strings.Index(challenge, "algorithm=MD5") {
			t.Errorf("%s: MD5 is not last:\n%s", c.transport, challenge)
		}
		b.send(webRegister(c.transport, user+"y", user, user, answerTo(challenge, "REGISTER", "sesame", 1)))
		m := b.hear("200")
		for _, want := range []string{"Require: outbound", "Flow-Timer: 120", "reg-id=1"} {
			if !strings.Contains(m, want) {
				t.Errorf("%s: no %s in\n%s", c.transport, want, m)
			}
		}
		b.send("\r\n\r\n")
		if f := b.frame(); string(f.Payload) != "\r\n" {
			t.Errorf("%s: keep-alive answered with %q", c.transport, f.Payload)
		}
		b.put(ws.NewPingFrame([]byte("are you there")))
		if f := b.frame(); f.Header.OpCode != ws.OpPong || string(f.Payload) != "are you there" {
			t.Errorf("%s: ping answered with %v %q", c.transport, f.Header.OpCode, f.Payload)
		}
		b.put(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, "bye")))
		if code := b.closed(); code != ws.StatusNormalClosure {
			t.Errorf("%s: closed with %d", c.transport, code)
		}
	}
}

// A call to a browser goes by its flow alone, and by the next one when it has
// come back; one that stays away is nobody's waiting for long.
func TestABrowserIsReachedByItsFlowAlone(t *testing.T) {
	r, _ := withTransports(t, nil)
	open := func() *browser {
		b, err := browse(t, r.edge.Addrs()[atWS].String(), "", nil, "", "sip")
		if err != nil {
			t.Fatal(err)
		}
		signUp(b, "WS", "kiki")
		return b
	}
	b := open()
	contact := client{"1", "kiki@kiki.invalid:0"}
	r.edge.mu.Lock()
	id := r.edge.footholds[contact].flow.id()
	r.edge.mu.Unlock()
	call := codecore.CallID("0123456789abcdef01234567")
	seq := uint64(0)
	invite := func(branch, to string) {
		e := r.outgoing(r.edge.ids.token(call), "INVITE")
		e.Request.Branch, e.Request.Flow, e.Request.Target = e.Request.Branch+branch, id, "sip:kiki@kiki.invalid;transport=ws"
		e.Request.Account = "1"
		for i := range e.Request.Msg.Headers {
			if h := &e.Request.Msg.Headers[i]; h.Name == "To" {
				h.Value += to
			}
		}
		seq++
		a := action(seq, e)
		a.First = true // the edge may have forgotten the call
		data, err := wire.Seal(sessions.Do{Call: call, Actions: []codecore.Action{a}})
		if err != nil {
			t.Fatal(err)
		}
		r.edge.onDo(sessions.Msg{Data: data})
	}
	away := func() {
		b.conn.Close()
		r.await(func() bool {
			r.edge.mu.Lock()
			defer r.edge.mu.Unlock()
			return !r.edge.footholds[contact].lost.IsZero()
		})
	}

	invite("1", "")
	if m := b.hear("INVITE"); !strings.Contains(m, "Via: SIP/2.0/WS ") || !strings.Contains(m, ";transport=ws>") {
		t.Errorf("Via or Contact:\n%s", m)
	}
	away()
	if e := event[codecore.SIPTimeout](r, nil); e.Code != 503 { // what was on the connection broke with it
		t.Errorf("%+v", e)
	}
	invite("2", "") // it went just now: it may come back
	b = open()
	b.hear("INVITE")
	away()
	event[codecore.SIPTimeout](r, nil)
	r.edge.mu.Lock()
	r.edge.footholds[contact].lost = time.Now().Add(-comesBack)
	r.edge.mu.Unlock()
	invite("3", ";tag=far") // in a dialog it is waited for
	b = open()
	b.hear("INVITE")
	away()
	event[codecore.SIPTimeout](r, nil)
	r.edge.mu.Lock()
	r.edge.footholds[contact].lost = time.Now().Add(-comesBack)
	r.edge.mu.Unlock()
	invite("4", "") // it stays away, and its name is never looked up
	if e := event[codecore.SIPTimeout](r, nil); e.Code != 480 || r.edge.stats.Reasons()["no-flow"] != 1 {
		t.Errorf("%+v, %v", e, r.edge.stats.Reasons())
	}
}

// A client that registers one contact after another of the same instance leaves
// nothing behind.
func TestAFootholdGoesWithItsBinding(t *testing.T) {
	r, _ := withTransports(t, nil)
	b, err := browse(t, r.edge.Addrs()[atWS].String(), "", nil, "", "sip")
	if err != nil {
		t.Fatal(err)
	}
	signUp(b, "WS", "kiki")
	another := strings.NewReplacer("Contact: <sip:kiki@", "Contact: <sip:koko@").Replace
	b.send(another(webRegister("WS", "again1", "kiki", "kiki", "")))
	challenge := b.hear("401")
	b.send(another(webRegister("WS", "again2", "kiki", "kiki", answerTo(challenge, "REGISTER", "sesame", 1))))
	b.hear("200")
	r.edge.mu.Lock()
	defer r.edge.mu.Unlock()
	if len(r.edge.footholds) != 1 || r.edge.footholds[client{"1", "koko@kiki.invalid:0"}] == nil {
		t.Errorf("%v", r.edge.footholds)
	}
}

func TestOriginsAndSubprotocol(t *testing.T) {
	r, _ := withTransports(t, nil)
	to := r.edge.Addrs()[atWS].String()
	for _, c := range []struct {
		origin, protocol string
		why              reason
	}{
		{"", "sip", okay},
		{"http://localhost:9000", "sip", okay},
		{"https://127.0.0.1", "SIP", okay},
		{"https://evil.example", "sip", badOrigin},
		{"null", "sip", badOrigin},
		{"http://localhost.evil.example", "sip", badOrigin},
		{"", "", badProtocol},
		{"", "chat", badProtocol},
	} {
		before := r.edge.stats.Reasons()[c.why.String()]
		_, err := browse(t, to, "", nil, c.origin, c.protocol)
		if (err == nil) != (c.why == okay) {
			t.Errorf("%+v: %v", c, err)
		}
		if c.why != okay {
			r.await(func() bool { return r.edge.stats.Reasons()[c.why.String()] == before+1 })
		}
	}
	r.edge.cfg.Origins = []string{"https://phone.example"}
	if !r.edge.allows("https://phone.example", r.edge.Addrs()[0].Addr()) || r.edge.allows("http://localhost", r.edge.Addrs()[0].Addr()) {
		t.Error("the list is not what counts")
	}
}

func TestBadFramesCostOneConnection(t *testing.T) {
	r, _ := withTransports(t, nil)
	to := r.edge.Addrs()[atWS].String()
	honest, err := browse(t, to, "", nil, "", "sip")
	if err != nil {
		t.Fatal(err)
	}
	unmasked := ws.NewTextFrame([]byte("x"))
	reserved := ws.MaskFrame(ws.Frame{Header: ws.Header{Fin: true, OpCode: 5}})
	big := ws.Frame{Header: ws.Header{Fin: true, OpCode: ws.OpText, Masked: true, Length: 65536}, Payload: make([]byte, 65536)}
	for name, c := range map[string]struct {
		frames []ws.Frame
		code   ws.StatusCode
	}{
		"unmasked":      {[]ws.Frame{unmasked}, ws.StatusProtocolError},
		"reserved":      {[]ws.Frame{reserved}, ws.StatusProtocolError},
		"oversize":      {[]ws.Frame{big}, ws.StatusMessageTooBig},
		"not UTF-8":     {[]ws.Frame{ws.MaskFrame(ws.NewTextFrame([]byte{0xff}))}, ws.StatusInvalidFramePayloadData},
		"continuation":  {[]ws.Frame{ws.MaskFrame(ws.NewFrame(ws.OpContinuation, true, nil))}, ws.StatusProtocolError},
		"fragments":     {[]ws.Frame{ws.MaskFrame(ws.NewFrame(ws.OpText, false, make([]byte, 40_000))), ws.MaskFrame(ws.NewFrame(ws.OpContinuation, false, make([]byte, 40_000)))}, ws.StatusMessageTooBig},
		"two at a time": {[]ws.Frame{ws.MaskFrame(ws.NewFrame(ws.OpText, false, []byte("a"))), ws.MaskFrame(ws.NewTextFrame([]byte("b")))}, ws.StatusProtocolError},
	} {
		b, err := browse(t, to, "", nil, "", "sip")
		if err != nil {
			t.Fatal(name, err)
		}
		for _, f := range c.frames {
			if err := ws.WriteFrame(b.conn, f); err != nil {
				t.Fatal(name, err)
			}
		}
		if code := b.closed(); code != c.code {
			t.Errorf("%s: closed with %d", name, code)
		}
	}
	signUp(honest, "WS", "honest")
	// A message in three fragments with a ping between them, byte by byte.
	whole := []byte(webRegister("WS", "frag", "frag", "frag", ""))
	var wire bytes.Buffer
	for i, f := range []ws.Frame{
		ws.NewFrame(ws.OpText, false, whole[:10]), ws.NewPingFrame([]byte("p")), ws.NewFrame(ws.OpContinuation, false, whole[10:100]), ws.NewFrame(ws.OpContinuation, true, whole[100:]),
	} {
		if err := ws.WriteFrame(&wire, ws.MaskFrame(f)); err != nil {
			t.Fatal(i, err)
		}
	}
	for _, c := range wire.Bytes() {
		if _, err := honest.conn.Write([]byte{c}); err != nil {
			t.Fatal(err)
		}
	}
	honest.hear("401")
}

func TestSilentConnectionsCostTheListenerNothing(t *testing.T) {
	r, pool := withTransports(t, func(c *Config) { c.Limits.Shake = time.Minute })
	for name, at := range map[string]int{"ws": atWS, "wss": atWSS, "tls": atTLS} {
		t.Run(name, func(t *testing.T) {
			to := r.edge.Addrs()[at].String()
			for i := range 1000 {
				c, err := dialFrom(fmt.Sprintf("127.0.%d.%d", 1+i/200, 1+i%200), to)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
			}
			begin := time.Now()
			for i := range 5 {
				user := fmt.Sprint(name, i)
				if at == atTLS {
					conn, err := dialFrom("127.0.9.1", to)
					if err != nil {
						t.Fatal(err)
					}
					f := newTCPFar(t, tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: "localhost"}), nil)
					signUp(f, "TLS", user)
					continue
				}
				p := pool
				if at == atWS {
					p = nil
				}
				b, err := browse(t, to, "127.0.9.1", p, "", "sip")
				if err != nil {
					t.Fatal(err)
				}
				signUp(b, strings.ToUpper(name), user)
			}
			if d := time.Since(begin); d > guard { // whoever waited for a silent one's time-out took three times as long
				t.Errorf("five honest clients took %s", d)
			}
			t.Logf("five registered in %s, %d connections open", time.Since(begin), r.edge.stats.Connections.Load())
		})
	}
}

func TestMoreSilentConnectionsThanThereMayBeAreReplaced(t *testing.T) {
	r, _ := withTransports(t, func(c *Config) { c.Limits.MaxConns = 64 })
	to := r.edge.Addrs()[atWS].String()
	for i := range 200 {
		c, err := dialFrom(fmt.Sprintf("127.0.1.%d", 1+i), to)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	b, err := browse(t, to, "127.0.9.1", nil, "", "sip")
	if err != nil {
		t.Fatal(err)
	}
	signUp(b, "WS", "late")
	if n := r.edge.stats.Connections.Load(); n > 64 {
		t.Errorf("%d connections", n)
	}
}

// FuzzWS: nothing panics, what a cut of the bytes gives does not depend on where
// it is cut, and no more is kept than a message may have.
func FuzzWS(f *testing.F) {
	add := func(frames ...ws.Frame) {
		var b bytes.Buffer
		for _, fr := range frames {
			_ = ws.WriteFrame(&b, ws.MaskFrameWith(fr, [4]byte{1, 2, 3, 4}))
		}
		f.Add(b.Bytes(), uint8(3))
	}
	add(ws.NewTextFrame([]byte("OPTIONS sip:a SIP/2.0\r\n\r\n")))
	add(ws.NewFrame(ws.OpText, false, []byte("a")), ws.NewPingFrame([]byte("b")), ws.NewFrame(ws.OpContinuation, true, []byte("c")), ws.NewCloseFrame(nil))
	add(ws.NewBinaryFrame(make([]byte, 300)), ws.NewPongFrame(nil), ws.NewTextFrame([]byte("\r\n\r\n")))
	f.Add([]byte{0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, cut uint8) {
		whole, why := unframe(t, data, len(data)+1)
		parts, why2 := unframe(t, data, int(cut)+1)
		if why != why2 || len(whole) != len(parts) {
			t.Fatalf("%q %v, in pieces %q %v", whole, why, parts, why2)
		}
		for i := range whole {
			if whole[i] != parts[i] {
				t.Fatalf("%q, in pieces %q", whole[i], parts[i])
			}
		}
	})
}

func unframe(t *testing.T, data []byte, n int) (out []string, why reason) {
	lim := Limits{MaxMessage: 2000}.withDefaults()
	h := half{}
	for len(data) > 0 {
		k := min(n, len(data))
		h.Raw, data = append(h.Raw, data[:k]...), data[k:]
		for {
			p, why := nextInFrames(&h, &lim)
			if len(h.Part) > lim.MaxMessage || len(p.msg) > lim.MaxMessage {
				t.Fatalf("%d and %d bytes are kept", len(h.Part), len(p.msg))
			}
			if why != okay {
				return out, why
			}
			if p.none() {
				break
			}
			out = append(out, fmt.Sprintf("%q %q %v %v", p.msg, p.reply, p.noted, p.over))
			if p.over {
				return out, okay
			}
		}
	}
	return out, okay
}
