package loadtest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// deafSocket is a browser's, which loses all DTLS that comes while it is deaf.
type deafSocket struct {
	*net.UDPConn
	deaf atomic.Bool
	lost atomic.Int32
}

func (s *deafSocket) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := s.UDPConn.ReadFrom(b)
		if err != nil || n == 0 || b[0] < 20 || b[0] > 63 || !s.deaf.Load() { // RFC 7983
			return n, from, err
		}
		s.lost.Add(1)
	}
}

// losing waits until more datagrams were lost.
func (s *deafSocket) losing(t *testing.T, more int32) {
	t.Helper()
	for ctx, was := patient(t, time.Minute), s.lost.Load(); s.lost.Load() < was+more; {
		if !pause(ctx, 10*time.Millisecond) {
			t.Fatal("nothing of a handshake comes")
		}
	}
}

// shaking is a call of a browser that does not hear our part of the handshake.
func (p *couples) shaking(t *testing.T) (*couple, *deafSocket) {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(mustAddr("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	s := &deafSocket{UDPConn: c}
	s.deaf.Store(true)
	p.socket = s
	defer func() { p.socket = nil }()
	call := p.call(t, legGCM, legPlain)
	s.losing(t, 1)
	return call, s
}

// refresh is a REGISTER of a phone over TCP; challenge is what it answers.
func refresh(local net.Addr, cseq int, challenge string) string {
	auth := ""
	if challenge != "" {
		_, nonce, _ := strings.Cut(challenge, `nonce="`)
		nonce, _, _ = strings.Cut(nonce, `"`)
		auth = (&crowdPhone{name: crowdName(1), nonce: nonce, nc: 1}).answer(registerPassword)
	}
	return fmt.Sprintf("REGISTER sip:switch SIP/2.0\r\nVia: SIP/2.0/TCP %s;branch=z9hG4bKcut%d\r\nMax-Forwards: 70\r\n"+
		"From: <sip:%[3]s@switch>;tag=f\r\nTo: <sip:%[3]s@switch>\r\nCall-ID: cut\r\nCSeq: %[2]d REGISTER\r\n"+
		"Contact: <sip:%[3]s@%[1]s;transport=tcp>\r\nExpires: 60\r\n%[4]sContent-Length: 0\r\n\r\n", local, cseq, crowdName(1), auth)
}

// The process that carries sound, and the one that carries signalling, are replaced
// in the middle of a DTLS handshake whose flights get lost, of REGISTER refreshes and
// of a message over TCP: the handshake comes to its end, the phone is registered, the
// rest of the message is read. (Calls that ring, are held or have an INVITE under way:
// TestEveryKindThroughEveryEvent.)
func TestInheritInTheMiddle(t *testing.T) {
	b, _ := realSwitchAs(t, 0, nil, func(s Site) []byte {
		accounts := filepath.Join(s.StateDir, "accounts.yaml")
		if err := os.WriteFile(accounts, crowdAccounts(2), 0o600); err != nil {
			t.Fatal(err)
		}
		return fmt.Appendf(DefaultConfig(s), "registrar:\n  accounts: %q\n", accounts)
	})
	p, all := newCouples(t, b, packetTime), t
	crowd, err := newCrowd(1, "127.0.0.8", b.sw.cfg.Site.SIP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = crowd.conn.Close() })
	for _, c := range []struct {
		role string
		late bool // the browser hears again when all is over
	}{{"edge", true}, {"media", false}, {"media", true}} {
		name := c.role
		if c.role == "media" && !c.late {
			name += ", which waits"
		}
		t.Run(name, func(t *testing.T) {
			call, ear := p.shaking(all) // whose sound is asked for at the end
			conn, err := net.Dial("tcp", b.sw.cfg.Site.SIP.String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			in := bufio.NewReader(conn)
			answer := func() string {
				t.Helper()
				_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
				m, err := readFramed(in)
				if err != nil {
					t.Fatal(err)
				}
				return string(m)
			}
			say := func(s string) {
				t.Helper()
				if _, err := conn.Write([]byte(s)); err != nil {
					t.Fatal(err)
				}
			}
			say(refresh(conn.LocalAddr(), 1, ""))
			first, rest, _ := strings.Cut(refresh(conn.LocalAddr(), 2, answer()), "Max-Forwards")
			say(first)

			stop := make(chan struct{})
			var refreshes, failed atomic.Int32
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						pause(t.Context(), 5*time.Millisecond)
						if refreshes.Add(1); !crowd.register(t.Context(), 0) {
							failed.Add(1)
						}
					}
				}
			})
			over := make(chan struct{})
			go func() {
				defer close(over)
				if err := b.sw.API.Inherit(t.Context(), c.role, ""); err != nil {
					t.Error(err)
				}
			}()
			if !c.late {
				ear.losing(t, 2) // said again and again
				select {
				case <-over:
					t.Error("it was replaced amid a handshake")
				default:
				}
				ear.deaf.Store(false)
			}
			<-over
			ear.deaf.Store(false)
			close(stop)
			wg.Wait()
			if failed.Load() > 0 {
				t.Errorf("%d of %d refreshes failed", failed.Load(), refreshes.Load())
			}
			say("Max-Forwards" + rest)
			m := answer()
			if strings.Contains(m, "stale=true") { // its nonce was of before
				say(refresh(conn.LocalAddr(), 3, m))
				m = answer()
			}
			if !strings.HasPrefix(m, "SIP/2.0 200") {
				t.Error(m)
			}
			if err := await(patient(t, time.Minute), call.far[0].medium.(*browserMedium).ready, "connection"); err != nil {
				t.Error(err)
			}
			t.Logf("%d flights lost, %d refreshes", ear.lost.Load(), refreshes.Load())
		})
	}
	p.talk()
	begin := time.Now()
	pause(t.Context(), time.Second)
	end := time.Now()
	p.hush(t)
	for _, c := range p.all {
		for i, f := range c.far {
			if d := between(f, c.far[1-i], begin, end); d.Sent == 0 || d.Lost+d.Doubled != 0 {
				t.Errorf("%v: %+v", c, d)
			}
		}
	}
	p.verdict(t)
}
