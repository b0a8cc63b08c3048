package media

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/pion/dtls/v3"
	"github.com/pion/webrtc/v4"

	"callswitch/secrets"
)

// killed ends a node by kill -9 and starts its successor on what the keeper has;
// without its hot slots if so wished.
func (n *node) killed(cfg *Config, keep *memKeeper, slots bool, change func(*Media)) *node {
	n.t.Helper()
	legs := cfg.Legs.(*memLegs)
	n.await("in step, and kept", func() bool {
		r, _ := legs.count()
		return r > 0 && n.inStep() && keep.count() == n.Stats().Sockets+1
	})
	n.crash()
	cfg.Boot += "+"
	cfg.Inherited = keep.hand()
	if !slots {
		_ = cfg.Inherited[hotName].Close()
		delete(cfg.Inherited, hotName)
		keep.Drop(hotName)
	}
	return start(n.t, *cfg, change)
}

func keptConfig(t testing.TB) (Config, *secrets.Key, *memKeeper) {
	cfg, key := secureConfig(t)
	keep := &memKeeper{}
	t.Cleanup(keep.close)
	cfg.Keep, cfg.Legs = keep, &memLegs{}
	return cfg, key, keep
}

// Three processes die under a browser's call, once as its numbers wrap: the same
// ICE and DTLS session, no packet lost, and no index sealed twice.
func TestBrowserLegOutlivesItsProcess(t *testing.T) {
	for name, c := range map[string]struct {
		active  bool
		profile dtls.SRTPProtectionProfile
	}{
		"gcm": {false, dtls.SRTP_AEAD_AES_128_GCM}, "cm": {true, dtls.SRTP_AES128_CM_HMAC_SHA1_80},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, key, keep := keptConfig(t)
			var r ledger
			n := start(t, cfg, r.audit)
			_, a, b, _ := n.dialled("c1", key, c.active, c.profile)
			a.seq, b.seq = 65500, 65500
			at := 1
			talk := func(packets int) {
				t.Helper()
				for range packets {
					at++
					a.send(at)
					b.must(at)
					b.send(at)
					a.must(at)
				}
			}
			at++
			b.send(at) // a jump of its numbers is believed at the second packet
			a.send(at)
			b.must(at)
			at++
			b.send(at)
			a.must(at)
			talk(30)
			first := a.seq
			for range 3 {
				n = n.killed(&cfg, keep, true, r.audit)
				talk(20)
			}
			if a.seq > first {
				t.Error("the numbers did not wrap")
			}
			if len(r.repeats) > 0 {
				t.Errorf("sealed twice: %v", r.repeats)
			}
			if s := n.Stats(); s.Handshakes+s.HandshakesFailed != 0 || s.Dropped["forged"]+s.Dropped["keys"] != 0 {
				t.Errorf("the successor's stats: %+v", s)
			}
			n.await("checks answered by the successor", func() bool { return n.Stats().Checks > 0 })
			if !a.state(webrtc.PeerConnectionStateConnected) || len(a.states) != 2 {
				t.Errorf("the browser saw %v", a.states)
			}
			// A replay from before the crash is none of the party's.
			n.do("c1", 1, 9)
			n.await("slots wiped", func() bool {
				n.mu.Lock()
				defer n.mu.Unlock()
				return len(n.hot.free) == n.hot.most && len(n.hot.left) == 0
			})
		})
	}
}

func TestSDESLegOutlivesItsProcess(t *testing.T) {
	cfg, key, keep := keptConfig(t)
	var r ledger
	n := start(t, cfg, r.audit)
	ports, a, b, legs := n.pairSDES("c1", "AEAD_AES_256_GCM", key)
	n = n.killed(&cfg, keep, true, r.audit)
	a.write(a.sent[0], ports[0]) // a replay from before
	b.silent()
	for i := 2; i < 20; i++ {
		a.send(i)
		b.must(i)
		b.send(i)
		a.must(i)
	}
	if n.Stats().Dropped["replay"] != 1 || len(r.repeats) > 0 {
		t.Errorf("dropped %v, sealed twice %v", n.Stats().Dropped, r.repeats)
	}
	// The owner repeats its order; then new keys: they begin at their beginning.
	n.do("c1", 1, 1, legs[:]...)
	a2 := newSDES(t, key, "c1", "a.2", "AES_CM_128_HMAC_SHA1_80", ports[0], 1000)
	a2.conn, a2.seq = a.conn, a.seq
	legs[0] = a2.leg(key, "c1", "a.2", legs[0])
	n.do("c1", 1, 2, legs[:]...)
	for i := 20; i < 25; i++ {
		a2.send(i)
		b.must(i)
		b.send(i)
		a2.must(i)
	}
}

// Without its slot nobody knows how far the keys were used.
func TestLegWithoutItsSlotEnds(t *testing.T) {
	cfg, key, keep := keptConfig(t)
	var r ledger
	n := start(t, cfg, r.audit)
	_, _, b, _ := n.dialled("c1", key, false)
	ports, c, d, legs := n.pairSDES("c2", "AES_CM_128_HMAC_SHA1_80", key)
	got1, got2 := n.ends("c1"), n.ends("c2")
	n = n.killed(&cfg, keep, false, r.audit)
	n.endsWith(got1, "a", "keys-lost")
	n.endsWith(got2, "a", "keys-lost")
	uses := len(r.uses)
	b.send(2)
	d.send(2)
	c.silent()
	if len(r.uses) != uses {
		t.Error("old keys were used")
	}
	n.do("c2", 1, 1, legs[:]...) // the owner says the same again
	d.send(3)
	c.silent()
	// New keys do not bring it back: nobody here knows that they are new.
	c2 := newSDES(t, key, "c2", "a.2", "AES_CM_128_HMAC_SHA1_80", ports[0], 1000)
	c2.conn = c.conn
	legs[0] = c2.leg(key, "c2", "a.2", legs[0])
	n.do("c2", 1, 2, legs[:]...)
	d.send(5)
	c2.silent()
}

// All processes and the slots with them are gone, and the record of before does not
// know of the new keys that the call has been given since. Whoever sends an old packet
// again then, the party or somebody who spoofs it, must not have it sealed again.
func TestKeysThatTheRecordDoesNotKnowAreNotUsedAnew(t *testing.T) {
	for name, record := range map[string]bool{"with the record": true, "without it": false} {
		t.Run(name, func(t *testing.T) {
			cfg, key, keep := keptConfig(t)
			var r ledger
			n := start(t, cfg, r.audit)
			ports, a, b, legs := n.pairSDES("c1", "AEAD_AES_128_GCM", key)
			store := cfg.Legs.(*memLegs)
			n.await("record in step", func() bool { k, _ := store.count(); return k > 0 && n.Stats().Unsaved == 0 })
			store.reach(false)
			a2 := newSDES(t, key, "c1", "a.2", a.suite, ports[0], 1000)
			a2.conn, a2.seq = a.conn, a.seq
			legs[0] = a2.leg(key, "c1", "a.2", legs[0])
			n.do("c1", 1, 2, legs[:]...)
			for i := 2; i < 10; i++ {
				b.send(i)
				a2.must(i)
			}
			n.crash()
			keep.close()
			store.reach(true)
			cfg.Boot = "m-2"
			if !record {
				cfg.Legs = nil
			}
			n = start(t, cfg, r.audit)
			got := n.ends("c1")
			n.do("c1", 1, 2, legs[:]...) // to an incarnation that it has not told yet
			n.endsWith(got, "a", "keys-lost")
			b.seq -= 3
			for i := 10; i < 13; i++ {
				b.send(i)
			}
			a2.silent()
			n.do("c1", 1, 3, legs[:]...) // a move to another owner
			b.send(13)
			a2.silent()
			if len(r.repeats) > 0 {
				t.Errorf("sealed twice: %v", r.repeats)
			}
		})
	}
}

func TestHandshakeCutByACrashEndsTheLeg(t *testing.T) {
	cfg, key, keep := keptConfig(t)
	n := start(t, cfg, nil)
	ports := n.alloc("c1")
	a := newBrowser(t)
	offer := a.offer(nil)
	n.do("c1", 1, 1, a.secured(talk("a", ports[0], "", 1), key, "c1", "a.1", offer, false))
	n.loop.mu.Lock()
	s := n.calls["c1"].legs[0].sec
	s.slot.store(wordRxMade, s.assoc)
	s.slot.store(wordState, slotShakes) // amid it
	n.loop.mu.Unlock()
	got := n.ends("c1")
	n.killed(&cfg, keep, true, nil)
	n.endsWith(got, "a", "handshake-cut")
}

// The same before it began: it begins with the successor.
func TestHandshakeAfterACrash(t *testing.T) {
	cfg, key, keep := keptConfig(t)
	n := start(t, cfg, nil)
	ports := n.alloc("c1")
	a, b := newBrowser(t), newPhone(t, ports[1], 2000)
	offer := a.offer(nil)
	n.do("c1", 1, 1, a.secured(talk("a", ports[0], "", 1), key, "c1", "a.1", offer, false), talk("b", ports[1], b.addr(), 1))
	n = n.killed(&cfg, keep, true, nil)
	a.answer(ours(key, "c1", "a.1", "passive", ports[0]))
	n.await("connected", func() bool { return a.state(webrtc.PeerConnectionStateConnected) })
	a.send(1)
	b.must(1)
}

// An old process that was stopped, and wakes after its successor took over, says
// nothing more.
func TestWokenProcessSendsNothing(t *testing.T) {
	cfg, key, keep := keptConfig(t)
	n := start(t, cfg, nil)
	_, a, b, _ := n.pairSDES("c1", "AEAD_AES_128_GCM", key)
	n.await("kept", func() bool { return keep.count() == n.Stats().Sockets+1 && n.Stats().Unsaved == 0 })
	n.loop.mu.Lock() // stopped
	old := n.calls["c1"].legs[0]
	had := keep.hand()
	h := openHot(had[hotName], 8, newKeepers(nil, n.log)) // another takes over
	for name, f := range had {
		if name != hotName {
			_ = f.Close()
		}
	}
	i, s, ok := h.take("c1", "a")
	if !ok || i == 0 {
		t.Fatal("no slot was left")
	}
	e, err := newSealer(old.sec.tx.keys, s, h.gen)
	if err != nil || e.sent.top != old.sec.tx.sent.top {
		t.Fatalf("%v: successor at %d, the old one at %d", err, e.sent.top, old.sec.tx.sent.top)
	}
	out := n.loop.total.packetsOut
	pkt := make([]byte, 12, 80)
	pkt[0] = 0x80
	pkt[2], pkt[3] = byte(b.seq>>8), byte(b.seq)
	pkt[10], pkt[11] = byte(b.ssrc>>8), byte(b.ssrc)
	n.loop.transmit(old, pkt)
	if n.loop.total.packetsOut != out || !n.loop.ousted {
		t.Error("it was heard")
	}
	n.loop.ousted = false
	n.loop.fence = nil
	n.loop.mu.Unlock()
	h.close()
	a.silent()
}

// Who reads the store, or a log of it, learns no key and no password.
func TestRecordHoldsNoSecret(t *testing.T) {
	cfg, key, keep := keptConfig(t)
	n := start(t, cfg, nil)
	_, a, _, _ := n.dialled("c1", key, false)
	n.await("stored", func() bool { r, _ := cfg.Legs.(*memLegs).count(); return r == 1 && keep.count() > 0 })
	body, err := json.Marshal(n.recordOf("c1"))
	if err != nil {
		t.Fatal(err)
	}
	n.loop.mu.Lock()
	s := n.calls["c1"].legs[0].sec
	tx, rx := s.tx.keys.key, s.rx.keys.key
	n.loop.mu.Unlock()
	_, pwd := key.ICE("c1", "a.1")
	for what, secret := range map[string]string{
		"our password": pwd, "the party's password": line(a.pc.LocalDescription().SDP, "ice-pwd"),
		"our key": base64.StdEncoding.EncodeToString(tx[:15]), "the party's key": base64.StdEncoding.EncodeToString(rx[:15]),
	} {
		if secret == "" || strings.Contains(string(body), secret) {
			t.Errorf("%s %q stands in the record", what, secret)
		}
	}
}
