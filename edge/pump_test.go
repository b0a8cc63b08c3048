package edge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	"callswitch/codecore"
)

// tlsPhone connects by TLS.
func (r *rig) tlsPhone(pool *x509.CertPool) *tcpFar {
	r.t.Helper()
	conn, err := dialFrom("", r.edge.Addrs()[atTLS].String())
	if err != nil {
		r.t.Fatal(err)
	}
	return newTCPFar(r.t, tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: "localhost"}), nil)
}

// ended waits until the far end closes a connection.
func ended(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(guard))
	for {
		if _, err := conn.Read(make([]byte, 1000)); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is open")
			}
			return
		}
	}
}

// halves waits until the edge has read so many messages that are not whole.
func (r *rig) halves(want int) {
	r.t.Helper()
	r.await(func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), guard)
		defer cancel()
		state, files, err := r.edge.Freeze(ctx)
		if err != nil {
			r.t.Fatal(err)
		}
		r.edge.Thaw()
		closeFiles(files, nil)
		time.Sleep(5 * time.Millisecond) // thawed long enough to read
		var h handed
		_ = json.Unmarshal(state, &h)
		n := 0
		for _, c := range h.Conns {
			if len(c.Half.Raw) > 0 {
				n++
			}
		}
		return n == want
	})
}

// Clients by TLS and WSS speak and are called through two generations, with messages
// that are cut in two by each change. The third change ends their connections, and
// no younger one's.
func TestConnectionsInTLSStayForTwoGenerations(t *testing.T) {
	r, pool := withTransports(t, nil)
	phone := r.tlsPhone(pool)
	signUp(phone, "TLS", "t1")
	web, err := browse(t, r.edge.Addrs()[atWSS].String(), "", pool, "http://localhost:8080", "sip")
	if err != nil {
		t.Fatal(err)
	}
	signUp(web, "WSS", "w1")
	var young *tcpFar
	for i := range maxCarried {
		one, two, _ := strings.Cut(webRegister("TLS", fmt.Sprint("t", i), "t1", "t1", ""), "Max-Forwards")
		phone.send(one)
		msg := webRegister("WSS", fmt.Sprint("w", i), "w1", "w1", "")
		web.put(ws.NewFrame(ws.OpText, false, []byte(msg[:40])))
		rest := ws.MustCompileFrame(ws.MaskFrame(ws.NewFrame(ws.OpContinuation, true, []byte(msg[40:]))))
		if _, err := web.conn.Write(rest[:9]); err != nil {
			t.Fatal(err)
		}
		r.halves(2)
		r.inherit(func() { phone.send("Max-Forwards" + two) }) // waits in the kernel
		if _, err := web.conn.Write(rest[9:]); err != nil {
			t.Fatal(err)
		}
		phone.hear("401")
		web.hear("401")
		if n := r.edge.stats.Carried.Load(); n != 2+int64(i) {
			t.Errorf("%d connections are carried", n)
		}
		for _, c := range []struct {
			talk
			user string
		}{{phone, "t1"}, {web, "w1"}} { // and the other way
			e := r.outgoing(r.edge.ids.token("0123456789abcdef01234567"), "INVITE")
			e.Request.Target = "sip:" + c.user + "@" + c.user + ".invalid;transport=ws"
			e.Request.Account = "1"
			e.Request.Branch += fmt.Sprint(i, c.user)
			r.order(e)
			c.hear("INVITE")
		}
		if young == nil {
			young = r.tlsPhone(pool)
			signUp(young, "TLS", "t2")
		}
	}
	third := r.tlsPhone(pool) // so that this generation is a third one to carry
	signUp(third, "TLS", "t3")
	r.inherit(nil)
	ended(t, phone.conn)
	if code := web.closed(); code != ws.StatusGoingAway {
		t.Errorf("the browser is told %d", code)
	}
	if n := r.edge.stats.Reasons()["generation-over"]; n != 2 {
		t.Errorf("%d connections are over", n)
	}
	young.send(webRegister("TLS", "y", "t2", "t2", ""))
	young.hear("401")
	for range 3 { // generations that carry nothing do not count
		r.inherit(nil)
	}
	for i, c := range []*tcpFar{young, third} {
		c.send(webRegister("TLS", fmt.Sprint("z", i), "t2", "t2", ""))
		c.hear("401")
	}
	if n := r.edge.stats.Carried.Load(); n != 2 {
		t.Errorf("%d connections are carried", n)
	}
}

// holding holds back what is written to it behind a number of bytes.
type holding struct {
	net.Conn
	mu    sync.Mutex
	free  int // bytes; negative: all
	held  []byte
	stuck chan struct{} // closed when something is held back
}

func hold(conn net.Conn, free int) *holding {
	return &holding{Conn: conn, free: free, stuck: make(chan struct{})}
}

func (h *holding) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.free < 0 {
		return h.Conn.Write(b)
	}
	n := min(h.free, len(b))
	if h.free -= n; n < len(b) && len(h.held) == 0 {
		close(h.stuck)
	}
	h.held = append(h.held, b[n:]...)
	_, err := h.Conn.Write(b[:n])
	return len(b), err
}

func (h *holding) release(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.free = -1; len(h.held) == 0 {
		t.Error("nothing was held back")
	}
	if _, err := h.Conn.Write(h.held); err != nil {
		t.Error(err)
	}
}

// Hands that are being shaken, in TLS and for a WebSocket, at any byte, are shaken
// to the end across a change of generation; so is a record of TLS cut in two.
func TestHandshakesGoOn(t *testing.T) {
	r, pool := withTransports(t, func(c *Config) { c.Limits.Shake = guard })
	at := func(i int) string { return r.edge.Addrs()[i].String() }
	type shaker struct {
		name  string
		holds bool
		*holding
		c talk
	}
	var all []*shaker
	var made sync.WaitGroup
	add := func(name string, at string, free int, begin func(conn net.Conn) talk) *shaker {
		conn, err := dialFrom("", at)
		if err != nil {
			t.Fatal(err)
		}
		c := &shaker{name: name, holds: free >= 0, holding: hold(conn, free)}
		made.Go(func() { c.c = begin(c.holding) })
		t.Cleanup(func() { conn.Close() })
		all = append(all, c)
		return c
	}
	shake := func(conn net.Conn) net.Conn {
		return tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: "localhost"})
	}
	upgrade := func(conn net.Conn) talk {
		d := ws.Dialer{Protocols: []string{"sip"}, NetDial: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
		_, br, _, err := d.Dial(context.Background(), "ws://"+at(atWS))
		if err != nil {
			t.Error(err)
			return nil
		}
		b := &browser{t: t, conn: conn, in: conn}
		if br != nil {
			b.in = br
		}
		return b
	}
	phone := func(conn net.Conn) talk {
		if err := shake(conn).(*tls.Conn).HandshakeContext(context.Background()); err != nil {
			t.Error(err)
		}
		return nil
	}
	add("TLS, nothing said", at(atTLS), 0, phone)
	add("TLS, half a hello", at(atTLS), 100, phone)
	var inner []*holding
	mu := sync.Mutex{}
	for i, free := range []int{0, 30} { // of the request inside TLS
		add(fmt.Sprint("WSS ", i), at(atWSS), -1, func(conn net.Conn) talk {
			h := hold(shake(conn), free)
			mu.Lock()
			inner = append(inner, h)
			mu.Unlock()
			return upgrade(h)
		})
		add(fmt.Sprint("WS ", i), at(atWS), free, upgrade)
	}
	r.await(func() bool { mu.Lock(); defer mu.Unlock(); return len(inner) == 2 })
	for _, c := range all {
		if c.holds {
			<-c.stuck
		}
	}
	for _, h := range inner {
		<-h.stuck
	}
	r.await(func() bool { return r.edge.stats.Connections.Load() == int64(len(all)) })
	r.halves(2)
	r.inherit(nil)
	for _, c := range all {
		if c.holds {
			c.release(t)
		}
	}
	for _, h := range inner {
		h.release(t)
	}
	made.Wait()
	for i, c := range all {
		if b, is := c.c.(*browser); is && !t.Failed() {
			user := fmt.Sprint("hs", i)
			transport, _, _ := strings.Cut(c.name, " ")
			signUp(b, transport, user)
		}
	}
	if n := r.edge.stats.of("WSS").Accepted.Load() + r.edge.stats.of("WS").Accepted.Load(); n != 4 {
		t.Errorf("%d WebSockets have come to be", n)
	}

	// A record that is cut in two.
	conn, err := dialFrom("", at(atTLS))
	if err != nil {
		t.Fatal(err)
	}
	h := hold(conn, -1)
	f := newTCPFar(t, shake(h), nil)
	signUp(f, "TLS", "rec")
	h.mu.Lock()
	h.free = 50
	h.mu.Unlock()
	f.send(webRegister("TLS", "rec", "rec", "rec", ""))
	r.inherit(nil)
	h.release(t)
	f.hear("401")
}

// A slow reader in TLS is in the middle of a message of ours when the edge is
// replaced, twice: it gets every byte, once.
func TestWhatIsBeingWrittenInTLSIsWrittenToItsEnd(t *testing.T) {
	r, pool := withTransports(t, nil)
	phone := r.tlsPhone(pool)
	_ = phone.conn.(*tls.Conn).NetConn().(*net.TCPConn).SetReadBuffer(1 << 15) // so that little fills them
	signUp(phone, "TLS", "slow")
	link := func() *streamLink {
		r.edge.mu.Lock()
		defer r.edge.mu.Unlock()
		return r.edge.footholds[client{"1", "slow@slow.invalid:0"}].flow.link.(*streamLink)
	}
	const size = 4000
	n := 0
	put := func(until func(*streamLink) bool) {
		t.Helper()
		for l := link(); ; n++ {
			for busy := true; busy; {
				l.mu.Lock()
				enough := until(l)
				busy = len(l.out) > 20
				l.mu.Unlock()
				if enough {
					return
				}
			}
			if err := l.put([]byte(strings.Repeat(string(rune('a'+n%26)), size))); err != nil {
				t.Fatal(n, err)
			}
		}
	}
	stuck := func(l *streamLink) bool { // the kernel takes no more
		if !l.under || len(l.out) < 15 {
			return false
		}
		first := &l.out[0][0]
		l.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
		l.mu.Lock()
		return l.under && first == &l.out[0][0]
	}
	_ = link().raw.(*net.TCPConn).SetWriteBuffer(1 << 15)
	for range 2 {
		put(stuck)
		r.inherit(nil)
	}
	_ = phone.conn.SetReadDeadline(time.Now().Add(guard))
	for i := range n * size {
		b, err := phone.in.ReadByte()
		if err != nil || b != byte('a'+i/size%26) {
			t.Fatalf("byte %d of %d: %q %v", i, n*size, b, err)
		}
	}
}

// The edge is killed: its clients are told at once, and their pump ends with them.
func TestAPumpEndsWithTheEdge(t *testing.T) {
	r, pool := withTransports(t, nil)
	phone := r.tlsPhone(pool)
	signUp(phone, "TLS", "t1")
	r.inherit(nil)
	for _, c := range r.edge.openConns() {
		_ = c.raw.Close() // its descriptor, as the kernel does
	}
	_ = phone.conn.SetReadDeadline(time.Now().Add(guard))
	if n, err := phone.conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%d %v", n, err)
	}
	phone.conn.Close()
	r.stop() // waits for the pump
}

// A pump is killed: the edge takes its connections for broken, and others for new.
func TestAPumpThatIsKilled(t *testing.T) {
	r, pool := withTransports(t, nil)
	phone := r.tlsPhone(pool)
	signUp(phone, "TLS", "t1")
	r.inherit(nil)
	for _, p := range r.pumps[0] {
		p.cut()
	}
	ended(t, phone.conn)
	r.await(func() bool { return r.edge.stats.Connections.Load() == 0 })
	signUp(r.tlsPhone(pool), "TLS", "t1")
}

// What is on its way when the edge is replaced comes before what its heir says.
func TestAPumpLetsThatPassWhichIsOnItsWay(t *testing.T) {
	_, pool, dir := testCertificate(t)
	cert, err := LoadCertificate(filepath.Join(dir, "cert"), filepath.Join(dir, "key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBridge()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	p := pump{tls: tls.Server(ours, cert.Server()), shake: time.Minute, near: b.near}
	before := make(chan struct{})
	p.after = before
	client := tls.Client(theirs, &tls.Config{RootCAs: pool, ServerName: "localhost"})
	var over sync.WaitGroup
	over.Go(p.run)
	if err := client.HandshakeContext(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.far.WriteString("second"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 12)
	_ = client.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := client.Read(got); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%q %v", got[:n], err)
	}
	_ = client.SetReadDeadline(time.Time{})
	over.Go(func() {
		_, _ = p.tls.Write([]byte("first "))
		close(before)
	})
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "first second" {
		t.Errorf("%q %v", got, err)
	}
	client.Close()
	_ = b.far.Close()
	over.Wait()
}

// A process that carries is told to end, and its edge is not.
func TestAPumpIsToldToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe() // its client never shakes hands
		defer far.Close()
		end, open := make(chan struct{}), 0
		close(end)
		began := time.Now()
		carryAll([]*pump{{tls: tls.Server(near, &tls.Config{}), shake: time.Hour, near: near}}, end, func(n int) { open = n })
		if took := time.Since(began); took != lastWords || open != 1 {
			t.Errorf("%v for %d connections", took, open)
		}
	})
}

// A connection that we made in TLS is not made once more: the answer to what was
// asked on it comes over it.
func TestAConnectionThatWeMadeInTLSStays(t *testing.T) {
	r, _ := withTransports(t, nil)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: r.edge.cfg.Certificate.get})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	e := r.outgoing(r.edge.ids.token("0123456789abcdef01234567"), "INVITE")
	e.Request.Target = "sip:2@" + ln.Addr().String() + ";transport=tls"
	r.order(e)
	conn, err := ln.Accept()
	far := newTCPFar(t, conn, err)
	inv := far.hear("INVITE")
	r.inherit(nil)
	far.send("SIP/2.0 200 OK\r\n" + strings.SplitN(strings.Replace(inv, "To: <sip:2@x>", "To: <sip:2@x>;tag=far", 1), "\r\n", 2)[1])
	event(r, func(e codecore.SIPResponse) bool { return e.Msg.Status == 200 })
}

// thousands of flows move, each under its own name.
func TestThousandsOfFlowsMove(t *testing.T) {
	const flows = 3000
	r, _ := withTransports(t, func(c *Config) {
		c.Limits.MaxPerSource, c.Limits.PeerRate = flows, 1e6
		c.Plan = func() *codecore.Plan {
			return &codecore.Plan{Peers: []codecore.PlanPeer{{Name: "phone", Kind: "phone", Sources: []string{"127.0.0.1"}}}}
		}
	})
	var far []*tcpFar
	for i := range flows {
		c, err := dialFrom("", r.edge.Addrs()[atTCP].String())
		far = append(far, newTCPFar(t, c, err))
		far[i].send(r.viaTCP("OPTIONS", fmt.Sprint("o", i), "1")) // who has said nothing sensible is not waited for
	}
	r.await(func() bool { return r.edge.stats.Received.Load() == flows })
	for i := range far {
		far[i].send(webRegister("TCP", fmt.Sprint("before", i), fmt.Sprint("f", i), fmt.Sprint("f", i), "")[:100])
	}
	began := time.Now()
	r.inherit(func() { t.Logf("frozen after %v", time.Since(began)) })
	t.Logf("gone on after %v", time.Since(began))
	for i := range far {
		far[i].send(webRegister("TCP", fmt.Sprint("before", i), fmt.Sprint("f", i), fmt.Sprint("f", i), "")[100:])
	}
	for i := range far {
		if m := far[i].hear("401"); !strings.Contains(m, fmt.Sprintf("Call-ID: f%d\r\n", i)) {
			t.Fatalf("flow %d hears\n%s", i, m)
		}
	}
}
