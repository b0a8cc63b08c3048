package media

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/selfsign"
	"github.com/pion/srtp/v3"
	"golang.org/x/sys/unix"

	"callswitch/codecore"
	"callswitch/secrets"
)

// benchKey is what the far end of a bench seals with.
func benchKey(kind string) (keys, bool) {
	suite, ok := map[string]string{"sdes": "AES_CM_128_HMAC_SHA1_80", "webrtc": "AEAD_AES_128_GCM"}[kind]
	return keys{profile: suites[suite], key: bytes.Repeat([]byte{3}, secrets.SuiteBytes[suite])}, ok
}

// benchLeg makes leg a of a call one of a kind: as ordered, and for a browser with
// its handshake over.
func (n *node) benchLeg(kind, call string, key *secrets.Key, w codecore.MediaLeg, other codecore.MediaLeg) {
	k, _ := benchKey(kind)
	switch kind {
	case "sdes":
		w.Secure = &codecore.Secure{Kind: codecore.SecureSDES, Own: "a.1", Suite: "AES_CM_128_HMAC_SHA1_80", Key: key.Hide(call, base64.StdEncoding.EncodeToString(k.key))}
	case "webrtc":
		w.Mux, w.Secure = true, &codecore.Secure{Kind: codecore.SecureDTLS, Own: "a.1", Ufrag: "x", Fingerprint: "sha-256 00"}
	}
	n.do(call, 1, 1, w, other)
	if kind != "webrtc" {
		return
	}
	n.loop.mu.Lock()
	defer n.loop.mu.Unlock()
	g := n.calls[codecore.CallID(call)].legs[0]
	if err := g.sec.keyed(k, k, nil); err != nil {
		n.t.Fatal(err)
	}
	addr, _ := parseSockaddr(w.Remote, false)
	g.latch.pin(addr)
}

// benchSealer seals as the far end of leg i of a bench does; nil: in clear.
func benchSealer(kind string, i int) func(b []byte) []byte {
	k, ok := benchKey(kind)
	if !ok || i%2 != 0 {
		return func(b []byte) []byte { return b }
	}
	n, _ := k.profile.KeyLen()
	c, err := srtp.CreateContext(k.key[:n], k.key[n:], k.profile)
	if err != nil {
		panic(err)
	}
	room := make([]byte, 0, 256)
	return func(b []byte) []byte {
		out, err := c.EncryptRTP(room, b, nil)
		if err != nil {
			panic(err)
		}
		return out
	}
}

// client is the least a browser can be: a check that nominates, and a handshake.
// It stays until over: a farewell can overtake the end of the handshake at the
// other side.
func client(over <-chan struct{}, done func(), t testing.TB, key *secrets.Key, call string, port int, cert tls.Certificate) {
	conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	ufrag, pwd := key.ICE(call, "a.1")
	if _, err = conn.Write(checkBy(ufrag+":x", pwd, nominates).Raw); err == nil {
		_, err = conn.Read(make([]byte, 1500))
	}
	if err != nil {
		t.Error(err)
		return
	}
	c, err := dtls.ClientWithOptions(packets{conn}, conn.RemoteAddr(), dtls.WithCertificates(cert), dtls.WithInsecureSkipVerify(true),
		dtls.WithSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM), dtls.WithLoggerFactory(quiet))
	if err == nil {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		err = c.HandshakeContext(ctx)
	}
	if err != nil {
		t.Error(err)
		return
	}
	done()
	<-over
	_ = c.Close()
}

// packets makes a connected socket a packet connection.
type packets struct{ *net.UDPConn }

func (p packets) WriteTo(b []byte, _ net.Addr) (int, error) { return p.Write(b) }

// BenchmarkSecureLeg is what an idle leg of a browser costs once its handshake is
// over, and the CPU of setting it up (both ends together). The bar is 100 KiB.
func BenchmarkSecureLeg(b *testing.B) {
	const legs = 300
	cert, err := selfsign.GenerateSelfSigned()
	if err != nil {
		b.Fatal(err)
	}
	print := fingerprintOf(cert)
	cfg, key := secureConfig(b)
	cfg.PortMin, cfg.PortMax, cfg.Ahead = 30000, 31999, legs
	n := start(b, cfg, nil)
	ports := make([]int, legs)
	for i := range ports {
		call := fmt.Sprint("c", i)
		ports[i] = n.alloc(call)[0]
	}
	rest := func() (memory uint64, routines int) {
		for range 3 {
			runtime.GC()
		}
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc + s.StackInuse, runtime.NumGoroutine()
	}
	memory, routines := rest()
	var from, to unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &from)
	b.ResetTimer()
	var wait, shaken sync.WaitGroup
	turn, over := make(chan struct{}, 8), make(chan struct{})
	for i, port := range ports {
		call := fmt.Sprint("c", i)
		w := talk("a", port, "", 1)
		w.Mux, w.Secure = true, &codecore.Secure{Kind: codecore.SecureDTLS, Own: "a.1", Ufrag: "x", Fingerprint: print}
		n.do(call, 1, 1, w)
		turn <- struct{}{}
		shaken.Add(1)
		wait.Go(func() {
			client(over, func() { shaken.Done(); <-turn }, b, key, call, port, cert)
		})
	}
	shaken.Wait()
	n.await("keys", func() bool { return n.Stats().Handshakes == legs })
	b.StopTimer()
	_ = unix.Getrusage(unix.RUSAGE_SELF, &to)
	close(over)
	wait.Wait()
	var after uint64
	var left int
	n.await("rest", func() bool { after, left = rest(); return left <= routines })
	b.ReportMetric(float64(int64(after-memory))/legs/1024, "KiB/leg")
	b.ReportMetric(float64(left-routines)/legs, "goroutines/leg")
	b.ReportMetric(float64(to.Utime.Nano()+to.Stime.Nano()-from.Utime.Nano()-from.Stime.Nano())/legs/1e6, "ms-CPU/handshake")
}

func fingerprintOf(c tls.Certificate) string {
	return "sha-256 " + strings.ToUpper(fmt.Sprintf("%x", sha256.Sum256(c.Certificate[0])))
}
