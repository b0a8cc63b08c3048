package edge

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A rekeyer is a client of TLS 1.3 that asks for new keys, which crypto/tls cannot.
// It says nothing else after its handshake.
type rekeyer struct {
	*tls.Conn
	raw    net.Conn
	secret []byte // that its records are sealed with
}

// rekeys shakes hands with a server that stands on near as the edge's do.
func rekeys(t *testing.T, cert *Certificate) (*tls.Conn, *rekeyer) {
	t.Helper()
	near, far := net.Pipe() // whose Write waits for its reader
	t.Cleanup(func() { near.Close(); far.Close() })
	server := tls.Server(&underTLS{Conn: near}, &tls.Config{GetCertificate: cert.get, SessionTicketsDisabled: true})
	var keys bytes.Buffer
	client := tls.Client(far, &tls.Config{InsecureSkipVerify: true, KeyLogWriter: &keys, MinVersion: tls.VersionTLS13}) //nolint:gosec // its clock is another one
	var shaken sync.WaitGroup
	shaken.Go(func() {
		if err := server.HandshakeContext(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := client.HandshakeContext(context.Background()); err != nil {
		t.Fatal(err)
	}
	shaken.Wait()
	if s := client.ConnectionState().CipherSuite; s != tls.TLS_AES_128_GCM_SHA256 {
		t.Skip("another cipher: ", tls.CipherSuiteName(s))
	}
	_, line, _ := strings.Cut(keys.String(), "CLIENT_TRAFFIC_SECRET_0 ")
	secret, err := hex.DecodeString(strings.Fields(line)[1])
	if err != nil {
		t.Fatal(err)
	}
	return server, &rekeyer{client, far, secret}
}

// expand is HKDF-Expand-Label (RFC 8446 7.1).
func (r *rekeyer) expand(label string, size int) []byte {
	label = "tls13 " + label
	key, err := hkdf.Expand(sha256.New, r.secret, string([]byte{0, byte(size), byte(len(label))})+label+"\x00", size)
	if err != nil {
		panic(err)
	}
	return key
}

// ask sends a KeyUpdate with update_requested (RFC 8446 4.6.3), the first record
// under its secret.
func (r *rekeyer) ask() error {
	block, err := aes.NewCipher(r.expand("key", 16))
	if err != nil {
		return err
	}
	seal, err := cipher.NewGCM(block)
	if err != nil {
		return err
	}
	message := []byte{24, 0, 0, 1, 1, 22} // and that it is a handshake message
	head := []byte{23, 3, 3, 0, byte(len(message) + seal.Overhead())}
	record := seal.Seal(head, r.expand("iv", 12), message, head)
	r.secret = r.expand("traffic upd", sha256.Size)
	_, err = r.raw.Write(record)
	return err
}

// Who asks for new keys over and over and reads no answer does not hold the reader.
func TestAReadThatWritesEnds(t *testing.T) {
	cert, _, _ := testCertificate(t)
	synctest.Test(t, func(t *testing.T) {
		server, client := rekeys(t, cert)
		began := time.Now()
		go func() {
			for client.ask() == nil { // the reader's connection is open
			}
		}()
		n, err := server.Read(make([]byte, 1))
		if took := time.Since(began); n != 0 || err == nil || took != writeWithin {
			t.Errorf("%d bytes, %v after %v", n, err, took)
		}
	})
}

// New keys are asked for when the time for our last message is long over: they
// come, and so does our next message.
func TestNewKeysLongAfterOurLastMessage(t *testing.T) {
	cert, _, _ := testCertificate(t)
	synctest.Test(t, func(t *testing.T) {
		server, client := rekeys(t, cert)
		e := new(Edge)
		c := &streamLink{e: e, proto: overTLS, conn: server, raw: server.NetConn(), stage: connOpen}
		hears := func(want string) {
			t.Helper()
			if err := c.put([]byte(want)); err != nil {
				t.Error(err)
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(client, got); err != nil || string(got) != want {
				t.Fatalf("%q %v", got, err)
			}
		}
		hears("first")
		time.Sleep(2 * writeWithin)
		go func() { _, _ = server.Read(make([]byte, 1)) }()
		if err := client.ask(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the reader writes
		hears("second")
		c.close()
		e.wg.Wait()
	})
}

// What time a write under TLS has.
func TestATimeThatIsSetStandsUntilItIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		u := &underTLS{Conn: near}
		writes := func(within time.Duration) {
			t.Helper()
			began := time.Now()
			if _, err := u.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != within {
				t.Errorf("%v after %v, not %v", err, time.Since(began), within)
			}
		}
		_ = u.SetWriteDeadline(time.Now().Add(time.Second))
		writes(time.Second)
		writes(0)
		_ = u.SetDeadline(time.Now().Add(time.Minute))
		writes(time.Minute)
		_ = u.SetDeadline(time.Time{})
		time.AfterFunc(time.Second, func() { _ = u.SetWriteDeadline(time.Time{}) }) // of another: not of what is under way
		writes(writeWithin)
		if _, err := u.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("TLS has failed to write, and the connection is open: %v", err)
		}
	})
}

// All that the edge has in TLS stands on it, and no time is left behind.
func TestAllTLSOfTheEdgeStandsOnUnderTLS(t *testing.T) {
	r, pool := withTransports(t, nil)
	signUp(r.tlsPhone(pool), "TLS", "t1")
	web, err := browse(t, r.edge.Addrs()[atWSS].String(), "", pool, "http://localhost:8080", "sip")
	if err != nil {
		t.Fatal(err)
	}
	signUp(web, "WSS", "w1")
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: r.edge.cfg.Certificate.get})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if r.edge.dial(overTLS, ln.Addr().(*net.TCPAddr).AddrPort(), "127.0.0.1", guard).put([]byte("OPTIONS")) != nil {
		t.Fatal("not taken")
	}
	conn, err := ln.Accept()
	newTCPFar(t, conn, err)
	if _, err := io.ReadFull(conn, make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	all := r.edge.openConns()
	if len(all) != 3 {
		t.Fatalf("%d connections", len(all))
	}
	for _, c := range all {
		r.await(func() bool { c.mu.Lock(); defer c.mu.Unlock(); return !c.writing })
		u, is := c.conn.(*tls.Conn).NetConn().(*underTLS)
		if !is {
			t.Errorf("%s stands on %T", c.id, c.conn.(*tls.Conn).NetConn())
			continue
		}
		u.mu.Lock()
		if !u.until.IsZero() {
			t.Errorf("%s has a time for writing that nobody takes back", c.id)
		}
		u.mu.Unlock()
	}
}
