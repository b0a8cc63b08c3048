package media

import (
	"bytes"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"
	"github.com/pion/stun/v4"

	"callswitch/codecore"
)

// sealedLegs are two bridged legs without sockets, both secure: a by DTLS whose
// handshake is over (or, open, yet to come), b by SDES. party seals what a sends.
func sealedLegs(t testing.TB, open bool) (l *loop, a *leg, from sockaddr, party *srtp.Context) {
	l, a, from = bridged(t)
	k := keys{profile: suites["AEAD_AES_128_GCM"], key: bytes.Repeat([]byte{3}, 28)}
	a.mux = true
	for _, g := range a.call.legs {
		s := &secure{slot: make(slot, slotWords), gen: 1}
		g.sec = s
		if open && g == a {
			s.due = true
			continue
		}
		var err error
		if s.tx, err = newSealer(k, s.slot, 1); err == nil {
			s.rx, err = newOpener(k, s.slot)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	a.sec.ice = &ice{cur: credentials{ufrag: "us", theirs: "them", key: stun.NewShortTermIntegrity("secret")}, checked: 1}
	a.sec.ice.note(&from)
	a.sec.want = codecore.Secure{Kind: codecore.SecureDTLS, Fingerprint: "sha-256 00"}
	a.latch.pin(from)
	party, err := srtp.CreateContext(k.key[:16], k.key[16:], k.profile)
	if err != nil {
		t.Fatal(err)
	}
	return l, a, from, party
}

// FuzzSTUN gives the responder anything, and anything of who knows the password.
func FuzzSTUN(f *testing.F) {
	m, _ := stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewUsername("us:them"), stun.NewShortTermIntegrity("secret"), stun.Fingerprint)
	f.Add(m.Raw, false)
	f.Add(m.Raw[20:], true)
	f.Add([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, false)
	f.Add([]byte{0, 0x25, 0, 0}, true)
	l, a, from, _ := sealedLegs(f, true)
	now := int64(1)
	f.Fuzz(func(t *testing.T, b []byte, knows bool) {
		now += 20e6
		if knows {
			m, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewUsername("us:them"), stun.RawAttribute{Type: stun.AttrType(len(b)), Value: b}, stun.NewShortTermIntegrity("secret"))
			if err != nil {
				return
			}
			b = m.Raw
		}
		if len(b) > readMost {
			return
		}
		checks := l.total.checks
		l.packet(a.rtp, append([]byte(nil), b...), &from, now)
		if knows && l.total.checks == checks && len(b) < 1000 {
			// An attribute of ours again, of another value, may be taken for the first.
			if m := (&stun.Message{Raw: b}); m.Decode() == nil && len(m.Attributes) == 3 && m.Attributes[1].Type > stun.AttrMessageIntegrity {
				t.Fatal("a valid check was not answered")
			}
		}
	})
}

// FuzzSRTP gives the relay packets that nobody sealed, and any packet that the
// party did: it must not panic, and what was sealed must come out as it was.
func FuzzSRTP(f *testing.F) {
	b, _ := (&rtp.Packet{Header: rtp.Header{Version: 2, SSRC: 9}, Payload: []byte("sound")}).Marshal()
	f.Add(b, true)
	f.Add(b, false)
	f.Add([]byte{0x80, 200, 0, 1, 0, 0, 0, 9}, true)
	f.Add([]byte{0x90, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 9, 0xbe, 0xde, 0, 1, 1, 2, 3, 4, 5}, true)
	l, a, from, party := sealedLegs(f, false)
	now := int64(1)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		now += 20e6
		if len(b) < 12 || len(b) > 1500 || b[0]>>6 != 2 {
			sealed = false
		}
		if len(b) > readMost {
			return
		}
		room := make([]byte, 0, readMost+64)
		if !sealed {
			l.packet(a.rtp, append(room, b...), &from, now)
			return
		}
		control := b[1] >= 192 && b[1] <= 223
		var c []byte
		var err error
		if control {
			c, err = party.EncryptRTCP(nil, b, nil)
		} else {
			c, err = party.EncryptRTP(nil, b, nil)
		}
		if err != nil {
			return
		}
		var plain []byte
		if control {
			plain, err = a.sec.rx.control(append(room, c...))
		} else {
			plain, _, err = a.sec.rx.rtp(append(room, c...), &l.header)
		}
		if err == nil && !bytes.Equal(plain, b) {
			t.Fatalf("%x came out as %x", b, plain)
		}
		l.packet(a.rtp, append(room, c...), &from, now) // a replay now
		if control {
			l.control(a, append([]byte(nil), b...), &from, now)
		} else {
			l.rtp(a, append(room, b...), &from, now)
		}
	})
}

// FuzzDTLS gives a handshake anything for its first two datagrams.
func FuzzDTLS(f *testing.F) {
	cfg, _ := secureConfig(f)
	m, err := New(cfg)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { m.pool.shut(); m.loop.close() })
	hello := []byte{22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 13, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 254}
	f.Add(hello, []byte{20, 254, 253, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1}, false)
	f.Add([]byte{21, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 40}, hello, true)
	l, a, from, _ := sealedLegs(f, true)
	f.Fuzz(func(t *testing.T, one, two []byte, active bool) {
		if len(one) > readMost || len(two) > readMost {
			return
		}
		p := newPipe(l, a)
		l.shake = func(*leg) bool { a.sec.pipe = p; return true }
		a.sec.want.Active = active
		if active {
			a.sec.pipe = p
		}
		l.mu.Lock()
		l.packet(a.rtp, append([]byte(nil), one...), &from, 1)
		l.packet(a.rtp, append([]byte(nil), two...), &from, 1)
		l.mu.Unlock()
		stop := time.AfterFunc(2*time.Millisecond, func() { _ = p.Close() })
		defer stop.Stop()
		if _, _, _, err := m.handshake(p, a.sec.want); err == nil {
			t.Fatal("a handshake with nobody")
		}
		l.mu.Lock()
		a.sec.pipe = nil
		l.mu.Unlock()
	})
}

func TestSecureRelayPathAllocatesNothing(t *testing.T) {
	l, a, from, party := sealedLegs(t, false)
	var sent [][]byte
	for i := range 1200 {
		b, _ := (&rtp.Packet{Header: rtp.Header{Version: 2, SSRC: 9, SequenceNumber: uint16(65000 + i)}, Payload: make([]byte, 160)}).Marshal()
		b, err := party.EncryptRTP(nil, b, nil)
		if err != nil {
			t.Fatal(err)
		}
		sent = append(sent, append(make([]byte, 0, len(b)+64), b...))
	}
	i := 0
	next := func() { l.packet(a.rtp, sent[i], &from, int64(i)*20e6+1); i++ }
	for range 10 {
		next()
	}
	if n := testing.AllocsPerRun(1000, next); n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
	if l.total.dropped[dropSend] < 1000 {
		t.Errorf("the packets did not reach the end of the path: %v", l.total.dropped)
	}
}
