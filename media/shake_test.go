package media

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/pion/webrtc/v4"

	"callswitch/codecore"
	"callswitch/secrets"
)

// lossy is a browser's socket on which DTLS can be lost: in and out return what is
// left of a datagram.
type lossy struct {
	*net.UDPConn
	in, out atomic.Pointer[func([]byte) []byte]
	lost    atomic.Int32 // datagrams, or a part of them
}

func newLossy(t testing.TB) *lossy {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return &lossy{UDPConn: c}
}

func isDTLS(b []byte) bool { return len(b) > 13 && b[0] >= 20 && b[0] <= 63 }

func (l *lossy) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := l.UDPConn.ReadFrom(b)
		lose := l.in.Load()
		if err != nil || lose == nil || !isDTLS(b[:n]) {
			return n, from, err
		}
		left := len((*lose)(b[:n]))
		if left < n {
			l.lost.Add(1)
		}
		if left > 0 {
			return left, from, nil
		}
	}
}

func (l *lossy) WriteTo(b []byte, to net.Addr) (int, error) {
	whole := len(b)
	if lose := l.out.Load(); lose != nil && isDTLS(b) {
		if b = (*lose)(b); len(b) < whole {
			l.lost.Add(1)
		}
		if len(b) == 0 {
			return whole, nil
		}
	}
	if _, err := l.UDPConn.WriteTo(b, to); err != nil {
		return 0, err
	}
	return whole, nil
}

var loseAll = func([]byte) []byte { return nil }

// loseTheRest lets pass the first record of what the browser says after our first
// flight: it has answered, and not all of it came.
var loseTheRest = func(b []byte) []byte {
	if isClientHello(b) {
		return b
	}
	if b[0] != 22 {
		return nil
	}
	return b[:min(len(b), 13+int(b[11])<<8+int(b[12]))]
}

// shakingCall is a call of a browser whose handshake cannot come to its end.
func shakingCall(t *testing.T, active bool, in, out *func([]byte) []byte) (n *node, cfg Config, keep *memKeeper, line *lossy, a *browser, b *phone) {
	t.Helper()
	cfg, key, keep := keptConfig(t)
	n = start(t, cfg, nil)
	line = newLossy(t)
	line.in.Store(in)
	line.out.Store(out)
	a = newBrowserOn(t, line)
	_, b, _ = n.dials("c1", key, a, active)
	n.await("a handshake, and something of it lost", func() bool { return n.shakes.Load() == 1 && line.lost.Load() > 0 })
	return n, cfg, keep, line, a, b
}

func (n *node) deep(call codecore.CallID) bool {
	n.loop.mu.Lock()
	defer n.loop.mu.Unlock()
	p := n.calls[call].legs[0].sec.pipe
	return p != nil && p.deep
}

func sounds(n *node, a *browser, b *phone) {
	n.t.Helper()
	n.await("connected", func() bool { return a.state(webrtc.PeerConnectionStateConnected) })
	for i := 1; i < 6; i++ {
		a.send(i)
		b.must(i)
		b.send(i)
		a.must(i)
	}
}

// A media process that is to be replaced waits for a handshake whose flights get
// lost; the sound of others flows on, and its own flows in the heir.
func TestFreezeWaitsForASlowHandshake(t *testing.T) {
	for name, active := range map[string]bool{"passive": false, "active": true} {
		t.Run(name, func(t *testing.T) {
			n, cfg, keep, line, a, b := shakingCall(t, active, &loseAll, nil)
			_, c, d := n.pairOfPhones("c2")
			frozen := make(chan error, 1)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var state []byte
			go func() {
				var err error
				state, err = n.Freeze(ctx)
				frozen <- err
			}()
			n.await("the wait", func() bool { n.loop.mu.Lock(); defer n.loop.mu.Unlock(); return n.yielding })
			for i := 2; i < 50; i++ { // repeated and lost, again and again
				c.send(i)
				d.must(i)
				time.Sleep(5 * time.Millisecond)
			}
			select {
			case err := <-frozen:
				t.Fatal("frozen amid a handshake", err)
			default:
			}
			line.in.Store(nil)
			if err := <-frozen; err != nil {
				t.Fatal(err)
			}
			n = n.succeededBy(t, cfg, keep, "m-2", state)
			sounds(n, a, b)
			c.send(50)
			d.must(50)
			if s := n.Stats(); s.Handshakes+s.HandshakesFailed != 0 {
				t.Errorf("the heir's handshakes: %+v", s)
			}
		})
	}
}

// A party that has heard nothing of us when the patience is over is answered by the
// heir, anew.
func TestHandshakeThatHasNotBegunBeginsInTheHeir(t *testing.T) {
	for name, active := range map[string]bool{"passive": false, "active": true} {
		t.Run(name, func(t *testing.T) {
			n, cfg, keep, line, a, b := shakingCall(t, active, &loseAll, nil)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			state, err := n.Freeze(ctx)
			if err != nil {
				t.Fatal(err)
			}
			n = n.succeededBy(t, cfg, keep, "m-2", state)
			line.in.Store(nil)
			sounds(n, a, b)
			if s := n.Stats(); s.Handshakes != 1 || s.HandshakesFailed != 0 {
				t.Errorf("the heir's handshakes: %+v", s)
			}
		})
	}
}

// The same when no heir comes: it begins anew where it was.
func TestHandshakeThatWasBrokenOffBeginsAfterThaw(t *testing.T) {
	for name, active := range map[string]bool{"passive": false, "active": true} {
		t.Run(name, func(t *testing.T) {
			n, cfg, keep, line, a, b := shakingCall(t, active, &loseAll, nil)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			state, err := n.Freeze(ctx)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Boot, cfg.Inherited, cfg.Handed = "m-2", keep.hand(), state
			idle, err := New(cfg) // whose predecessor does not say the last word
			if err != nil {
				t.Fatal(err)
			}
			bury(idle)
			n.Thaw()
			line.in.Store(nil)
			sounds(n, a, b)
		})
	}
}

// A party that has nominated, and does not again, brings it about as well.
func TestAnyCheckBeginsAHandshakeThatHadToWait(t *testing.T) {
	cfg, key := secureConfig(t)
	n := start(t, cfg, nil)
	n.shakes.Add(shakesMost)
	ports := n.alloc("c1")
	w := checked(ports[0], "a.1", "x")
	w.Secure.Active = true
	n.do("c1", 1, 1, w)
	p := newPhone(t, ports[0], 1)
	n.answers(p, key, "a.1", "x", nominates)
	n.shakes.Add(-shakesMost)
	n.answers(p, key, "a.1", "x")
	n.await("a handshake", func() bool { return n.shakes.Load() == 1 })
}

// Handshakes that do not get on keep nobody out for long: where there are too many, the
// old ones give way.
func TestStalledHandshakesGiveWay(t *testing.T) {
	n, cfg, _, line, _, _ := shakingCall(t, false, &loseAll, nil)
	line.out.Store(&loseAll)
	n.shakes.Add(shakesMost - 1)
	defer n.shakes.Add(1 - shakesMost)
	n.loop.mu.Lock()
	n.calls["c1"].legs[0].sec.pipe.began -= int64(shakeLong)
	n.loop.mu.Unlock()
	began := time.Now()
	n.dialled("c2", cfg.Secrets, false)
	if took := time.Since(began); took > shakeFor*3/4 {
		t.Errorf("after %v: that is when the other had its time", took)
	}
}

// bury closes what an heir has that never came to work.
func bury(m *Media) {
	m.pool.shut()
	m.hot.close()
	m.loop.close()
}

// A handshake that is ours to begin, and could not while there were too many, begins
// at a later check, in the heir, or when no heir comes; never in an heir that is none
// yet.
func TestHandshakeThatHadToWaitBegins(t *testing.T) {
	for _, how := range []string{"later", "in the heir", "thawed"} {
		t.Run(how, func(t *testing.T) {
			cfg, key, keep := keptConfig(t)
			n := start(t, cfg, nil)
			n.shakes.Add(shakesMost)
			a := newBrowser(t)
			_, b, _ := n.dials("c1", key, a, true)
			n.await("nomination", func() bool { return n.quality("c1", "a").Remote != "" })
			n.shakes.Add(-shakesMost)
			if how != "later" {
				state, err := n.Freeze(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				idle := cfg
				idle.Boot, idle.Inherited, idle.Handed = "m-2", keep.hand(), state
				m, err := New(idle)
				if err != nil {
					t.Fatal(err)
				}
				if m.shakes.Load() != 0 {
					t.Error("an heir that is none yet begins a handshake")
				}
				bury(m)
				if how == "thawed" {
					n.Thaw()
				} else {
					n = n.succeededBy(t, cfg, keep, "m-3", state)
				}
			}
			sounds(n, a, b)
		})
	}
}

// A handshake that is half done cannot go elsewhere: the process is not replaced,
// and the handshake comes to its end.
func TestFreezeFailsAmidAHandshakeThatIsHalfDone(t *testing.T) {
	n, cfg, keep, line, a, b := shakingCall(t, false, nil, &loseTheRest)
	n.await("half of it", func() bool { return n.deep("c1") })
	n.loop.mu.Lock()
	n.calls["c1"].legs[0].sec.pipe.began = n.loop.now() + int64(time.Hour) // it stays young
	n.loop.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := n.Freeze(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("frozen: %v", err)
	}
	line.out.Store(nil)
	sounds(n, a, b)
	if s := n.Stats(); s.Handshakes != 1 || s.HandshakesFailed != 0 {
		t.Errorf("handshakes: %+v", s)
	}
	n = n.yieldTo(t, cfg, keep, "m-2")
	b.send(6)
	a.must(6)
}

// But nobody can keep a process from being replaced by leaving his handshake half done:
// one that has taken too long ends with its call, or goes on when no heir comes.
func TestHandshakeThatStaysHalfDoneIsNotWaitedFor(t *testing.T) {
	stale := func(n *node) []byte {
		n.await("half of it", func() bool { return n.deep("c1") })
		n.loop.mu.Lock()
		n.calls["c1"].legs[0].sec.pipe.began -= int64(shakeLong)
		n.loop.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		state, err := n.Freeze(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return state
	}
	t.Run("in the heir", func(t *testing.T) {
		n, cfg, keep, _, _, _ := shakingCall(t, false, nil, &loseTheRest)
		state, got := stale(n), n.ends("c1")
		n.succeededBy(t, cfg, keep, "m-2", state).endsWith(got, "a", "handshake-cut")
	})
	t.Run("thawed", func(t *testing.T) {
		n, _, _, line, a, b := shakingCall(t, false, nil, &loseTheRest)
		stale(n)
		n.Thaw()
		line.out.Store(nil)
		sounds(n, a, b)
	})
	t.Run("in the heir, of another party than before", func(t *testing.T) {
		cfg, key, keep := keptConfig(t)
		n := start(t, cfg, nil)
		ports, _, _, legs := n.dialled("c1", key, false)
		line := newLossy(t)
		line.out.Store(&loseTheRest)
		a := newBrowserOn(t, line)
		legs[0] = a.secured(legs[0], key, "c1", "a.2", a.offer(nil), false)
		n.do("c1", 1, 2, legs[:]...)
		a.answer(ours(key, "c1", "a.2", "passive", ports[0]))
		state, got := stale(n), n.ends("c1")
		n.succeededBy(t, cfg, keep, "m-2", state).endsWith(got, "a", "handshake-cut")
	})
}

// A browser restarts ICE, and the media process is replaced before it has our answer,
// and again after it.
func TestHeirAmidAnICERestart(t *testing.T) {
	cfg, key, keep := keptConfig(t)
	n := start(t, cfg, nil)
	ports, a, b, legs := n.dialled("c1", key, false)
	offer := a.offer(&webrtc.OfferOptions{ICERestart: true})
	legs[0].Secure = a.secured(legs[0], key, "c1", "a.2", offer, false).Secure
	n.do("c1", 1, 2, legs[:]...)
	n = n.yieldTo(t, cfg, keep, "m-2")
	a.answer(ours(key, "c1", "a.2", "passive", ports[0]))
	n.await("checks under the new credentials", func() bool {
		n.loop.mu.Lock()
		defer n.loop.mu.Unlock()
		return n.calls["c1"].legs[0].sec.ice.nominated
	})
	for i := 2; i < 10; i++ {
		if i == 6 {
			n = n.yieldTo(t, cfg, keep, "m-3")
		}
		a.send(i)
		b.must(i)
		b.send(i)
		a.must(i)
	}
	if s := n.Stats(); s.Handshakes+s.HandshakesFailed != 0 {
		t.Errorf("handshakes: %+v", s)
	}
	if !a.state(webrtc.PeerConnectionStateConnected) {
		t.Errorf("the browser saw %v", a.states)
	}
}

// Until it has our answer the party of an ICE restart uses its old credentials, and
// the process that goes on answers to both, after a planned change or a crash; once the
// party has nominated under the new ones, to them alone.
func TestWhoGoesOnAnswersChecksAsBefore(t *testing.T) {
	next := map[string]func(n *node, cfg *Config, keep *memKeeper) *node{
		"heir": func(n *node, cfg *Config, keep *memKeeper) *node {
			cfg.Boot += "+"
			return n.yieldTo(t, *cfg, keep, cfg.Boot)
		},
		"kill -9": func(n *node, cfg *Config, keep *memKeeper) *node { return n.killed(cfg, keep, true, nil) },
	}
	for name, next := range next {
		t.Run(name, func(t *testing.T) {
			cfg, key, keep := keptConfig(t)
			n := start(t, cfg, nil)
			ports := n.alloc("c1")
			p := newPhone(t, ports[0], 1)
			as := func(label, ufrag string) codecore.MediaLeg { return checked(ports[0], label, ufrag) }
			answered := func(label, theirs string, more ...stun.Setter) bool {
				return n.answers(p, key, label, theirs, more...)
			}
			n.do("c1", 1, 1, as("a.1", "them"))
			if !answered("a.1", "them", nominates) {
				t.Fatal("not answered at all")
			}
			n.do("c1", 1, 2, as("a.2", "new"))
			n = next(n, &cfg, keep)
			if !answered("a.1", "them") || !answered("a.2", "new") {
				t.Error("amid a restart one of both is not answered, or none")
			}
			n = next(n, &cfg, keep) // and it says so in its turn
			if !answered("a.1", "them") || !answered("a.2", "new", nominates) || answered("a.1", "them") {
				t.Error("the old credentials ended too early, or outlived the nomination")
			}
			n = next(n, &cfg, keep)
			if answered("a.1", "them") || !answered("a.2", "new") {
				t.Error("the old credentials are taken up again")
			}
		})
	}
}

// Nobody has stored yet that a party restarts ICE when the process dies, and the order
// that says so overtakes the record.
func TestRestartThatTheRecordDoesNotKnow(t *testing.T) {
	cfg, key, keep := keptConfig(t)
	n := start(t, cfg, nil)
	ports := n.alloc("c1")
	p := newPhone(t, ports[0], 1)
	n.do("c1", 1, 1, checked(ports[0], "a.1", "them"))
	if !n.answers(p, key, "a.1", "them", nominates) {
		t.Fatal("not answered at all")
	}
	n.await("in step, and kept", func() bool { return n.inStep() && keep.count() == n.Stats().Sockets+1 })
	n.crash()
	body, rev, err := cfg.Legs.Get(t.Context(), "n1", "c1")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Boot, cfg.Inherited, cfg.Legs = "m-2", keep.hand(), nil
	n = start(t, cfg, nil)
	n.do("c1", 1, 2, checked(ports[0], "a.2", "new"))
	if ok, err := n.restore("c1", body, rev); ok || err != nil {
		t.Fatalf("restored %t, %v", ok, err)
	}
	if !n.answers(p, key, "a.1", "them") || !n.answers(p, key, "a.2", "new", nominates) || n.answers(p, key, "a.1", "them") {
		t.Error("the old credentials are to hold until the new ones nominate")
	}
}

// checked is a leg of a party that sends checks and nothing else.
func checked(port int, label, ufrag string) codecore.MediaLeg {
	w := talk("a", port, "", 1)
	w.Mux, w.Secure = true, &codecore.Secure{Kind: codecore.SecureDTLS, Own: label, Ufrag: ufrag, Fingerprint: "sha-256 00"}
	return w
}

// answers reports whether a check for a leg of call c1 is answered.
func (n *node) answers(p *phone, key *secrets.Key, label, theirs string, more ...stun.Setter) bool {
	n.t.Helper()
	ufrag, pwd := key.ICE("c1", label)
	return n.asks(p, ufrag+":"+theirs, pwd, more...) != nil
}
