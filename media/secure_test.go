package media

import (
	"encoding/base64"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"
	"github.com/pion/stun/v4"
	"github.com/pion/webrtc/v4"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/secrets"
	"callswitch/sessions"
)

// sdesPhone is a phone with keys from the SDP.
type sdesPhone struct {
	*phone
	tx, rx *srtp.Context
	theirs string // its key, as in a=crypto
	suite  string
	sent   [][]byte
}

func newSDES(t testing.TB, key *secrets.Key, call, label, suite string, to int, ssrc uint32) *sdesPhone {
	t.Helper()
	p := &sdesPhone{phone: newPhone(t, to, ssrc), suite: suite}
	mine := make([]byte, secrets.SuiteBytes[suite])
	for i := range mine {
		mine[i] = byte(i) + byte(ssrc)
	}
	p.theirs = base64.StdEncoding.EncodeToString(mine)
	n, _ := suites[suite].KeyLen()
	ours := key.SRTP(call, label, suite)
	var err error
	if p.tx, err = srtp.CreateContext(mine[:n], mine[n:], suites[suite]); err != nil {
		t.Fatal(err)
	}
	if p.rx, err = srtp.CreateContext(ours[:n], ours[n:], suites[suite], srtp.SRTPReplayProtection(128)); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *sdesPhone) leg(key *secrets.Key, call, label string, w codecore.MediaLeg) codecore.MediaLeg {
	w.Secure = &codecore.Secure{Kind: codecore.SecureSDES, Own: label, Suite: p.suite, Key: key.Hide(call, p.theirs)}
	return w
}

func (p *sdesPhone) send(n int) {
	p.t.Helper()
	b, err := (&rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: p.pt, SequenceNumber: p.seq, Timestamp: p.ts, SSRC: p.ssrc}, Payload: []byte{0, 0, byte(n >> 8), byte(n), 5, 6, 7, 8}}).Marshal()
	if err != nil {
		p.t.Fatal(err)
	}
	p.seq++
	p.ts += 160
	if b, err = p.tx.EncryptRTP(nil, b, nil); err != nil {
		p.t.Fatal(err)
	}
	p.sent = append(p.sent, b)
	p.write(b, p.to)
}

func (p *sdesPhone) must(n int) *rtp.Packet {
	p.t.Helper()
	buf := make([]byte, 2048)
	p.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	k, _, err := p.conn.ReadFromUDP(buf)
	if err != nil {
		p.t.Fatalf("packet %d did not come", n)
	}
	plain, err := p.rx.DecryptRTP(nil, buf[:k], nil)
	if err != nil {
		p.t.Fatalf("packet %d: %v", n, err)
	}
	g := &rtp.Packet{}
	if err := g.Unmarshal(plain); err != nil {
		p.t.Fatal(err)
	}
	if got := int(g.Payload[2])<<8 | int(g.Payload[3]); got != n {
		p.t.Fatalf("packet %d came, not %d", got, n)
	}
	return g
}

// pairSDES is a phone with SDES on leg a and one without on leg b.
func (n *node) pairSDES(call, suite string, key *secrets.Key) (ports [2]int, a *sdesPhone, b *phone, legs [2]codecore.MediaLeg) {
	n.t.Helper()
	ports = n.alloc(call)
	a, b = newSDES(n.t, key, call, "a.1", suite, ports[0], 1000), newPhone(n.t, ports[1], 2000)
	legs = [2]codecore.MediaLeg{a.leg(key, call, "a.1", talk("a", ports[0], a.addr(), 1)), talk("b", ports[1], b.addr(), 1)}
	if d := n.do(call, 1, 1, legs[:]...); d.Reason != "" {
		n.t.Fatalf("order: %+v", d)
	}
	a.send(1)
	b.must(1)
	b.send(1)
	a.must(1)
	return ports, a, b, legs
}

func TestSDESOfEachSuite(t *testing.T) {
	for suite := range secrets.SuiteBytes {
		t.Run(suite, func(t *testing.T) {
			cfg, key := secureConfig(t)
			n := start(t, cfg, nil)
			_, a, b, _ := n.pairSDES("c1", suite, key)
			for i := 2; i < 6; i++ {
				a.send(i)
				b.must(i)
				b.send(i)
				a.must(i)
			}
		})
	}
}

func TestBrowserToSDES(t *testing.T) {
	cfg, key := secureConfig(t)
	n := start(t, cfg, nil)
	ports := n.alloc("c1")
	a := newBrowser(t)
	b := newSDES(t, key, "c1", "b.1", "AES_CM_128_HMAC_SHA1_80", ports[1], 2000)
	offer := a.offer(nil)
	n.do("c1", 1, 1, a.secured(talk("a", ports[0], "", 1), key, "c1", "a.1", offer, false), b.leg(key, "c1", "b.1", talk("b", ports[1], b.addr(), 1)))
	a.answer(ours(key, "c1", "a.1", "passive", ports[0]))
	n.await("connected", func() bool { return a.state(webrtc.PeerConnectionStateConnected) })
	for i := 1; i < 6; i++ {
		a.send(i)
		b.must(i)
		b.send(i)
		a.must(i)
	}
}

// Nothing of a third party passes, and nothing of the party twice.
func TestOnlyThePartyIsHeard(t *testing.T) {
	cfg, key := secureConfig(t)
	n := start(t, cfg, nil)
	ports, a, b, _ := n.pairSDES("c1", "AEAD_AES_128_GCM", key)
	evil := newPhone(t, ports[0], 1000)
	evil.seq = a.seq
	evil.send(2)                    // in clear
	evil.write(a.sent[0], ports[0]) // the party's own, again, from elsewhere
	a.write(a.sent[0], ports[0])    // and from where it is
	forged := append([]byte(nil), a.sent[0]...)
	forged[3] += 7
	evil.write(forged, ports[0])
	n.await("two forged, two replayed", func() bool { d := n.Stats().Dropped; return d["forged"] == 2 && d["replay"] == 2 })
	b.silent()
	b.send(2)
	a.must(2)
	evil.silent()
	// The party itself may move: who can seal is the party.
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	a.conn = conn
	a.send(3)
	b.must(3)
	b.send(3)
	a.must(3)
}

// A plain party's numbers cannot make us seal an index twice, and cannot end the call.
func TestSpoofedNumbersAreNotSealed(t *testing.T) {
	cfg, key := secureConfig(t)
	n := start(t, cfg, nil)
	_, a, b, _ := n.pairSDES("c1", "AEAD_AES_128_GCM", key)
	for i := 2; i < 300; i++ {
		b.send(i)
		a.must(i)
	}
	at := b.seq
	for _, old := range []uint16{at - 1, at - 40, at - 250, at - 20000, at + 20000} { // each once
		b.seq = old
		b.send(900)
	}
	b.seq = at
	b.send(300)
	if g := a.must(300); g.SequenceNumber != at {
		t.Errorf("sequence number %d, want %d", g.SequenceNumber, at)
	}
	b.seq = at - 20000 // a party that begins anew is heard from its second packet on
	b.send(301)
	b.send(302)
	if g := a.must(302); g.SequenceNumber != at+1 {
		t.Errorf("sequence number %d, want %d", g.SequenceNumber, at+1)
	}
	b.send(303)
	a.must(303)
}

func TestSequenceWraps(t *testing.T) {
	cfg, key := secureConfig(t)
	n := start(t, cfg, nil)
	ports := n.alloc("c1")
	a, b := newSDES(t, key, "c1", "a.1", "AES_CM_128_HMAC_SHA1_80", ports[0], 1000), newPhone(t, ports[1], 2000)
	a.seq, b.seq = 65530, 65530
	n.do("c1", 1, 1, a.leg(key, "c1", "a.1", talk("a", ports[0], a.addr(), 1)), talk("b", ports[1], b.addr(), 1))
	for i := 1; i < 20; i++ {
		a.send(i)
		b.must(i)
		b.send(i)
		a.must(i)
	}
}

var nominates = stun.RawAttribute{Type: stun.AttrUseCandidate}

// checkBy is a connectivity check as a party sends it.
func checkBy(user, pwd string, more ...stun.Setter) *stun.Message {
	return stun.MustBuild(append([]stun.Setter{stun.TransactionID, stun.BindingRequest, stun.NewUsername(user)},
		append(more, stun.NewShortTermIntegrity(pwd), stun.Fingerprint)...)...)
}

// asks has a phone send a check, and returns the answer once the check has been
// treated; nil: there is none.
func (n *node) asks(p *phone, user, pwd string, more ...stun.Setter) *stun.Message {
	n.t.Helper()
	was, m := n.Stats(), checkBy(user, pwd, more...)
	p.write(m.Raw, p.to)
	var now Stats
	n.await("a check treated", func() bool {
		now = n.Stats()
		return now.Checks+now.Dropped["check"] > was.Checks+was.Dropped["check"]
	})
	if now.Checks == was.Checks {
		return nil
	}
	buf := make([]byte, 2048)
	p.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	k, _, err := p.conn.ReadFromUDP(buf)
	r := &stun.Message{Raw: buf[:k]}
	if err == nil {
		err = r.Decode()
	}
	if err != nil || r.TransactionID != m.TransactionID || stun.NewShortTermIntegrity(pwd).Check(r) != nil || stun.Fingerprint.Check(r) != nil {
		n.t.Fatalf("answer %v: %v", r, err)
	}
	return r
}

func TestStunIsAnsweredToThePartyAlone(t *testing.T) {
	cfg, key := secureConfig(t)
	n := start(t, cfg, nil)
	ports := n.alloc("c1")
	n.do("c1", 1, 1, checked(ports[0], "a.1", "them"))
	ufrag, pwd := key.ICE("c1", "a.1")
	p := newPhone(t, ports[0], 1)
	ask := func(user, pwd string, more ...stun.Setter) *stun.Message {
		t.Helper()
		return n.asks(p, user, pwd, more...)
	}
	for name, r := range map[string]*stun.Message{
		"wrong password": ask(ufrag+":them", "wrong"), "no name": ask("", pwd), "another's": ask(ufrag+":they", pwd), "not ours": ask("x:them", pwd),
	} {
		if r != nil {
			t.Errorf("%s: answered %s", name, r)
		}
	}
	r := ask(ufrag+":them", pwd, nominates)
	var addr stun.XORMappedAddress
	if r == nil || r.Type != stun.BindingSuccess || addr.GetFrom(r) != nil || addr.Port != p.conn.LocalAddr().(*net.UDPAddr).Port {
		t.Fatalf("answer %v", r)
	}
	if q := n.quality("c1", "a"); q.Remote != p.addr() {
		t.Errorf("sends to %s, not %s", q.Remote, p.addr())
	}
	r = ask(ufrag+":them", pwd, stun.RawAttribute{Type: stun.AttrICEControlled, Value: make([]byte, 8)})
	var code stun.ErrorCodeAttribute
	if r == nil || code.GetFrom(r) != nil || code.Code != stun.CodeRoleConflict {
		t.Errorf("role conflict: %v", r)
	}
	// A restart: both are good until the new one nominates.
	n.do("c1", 1, 2, checked(ports[0], "a.2", "new"))
	ufrag2, pwd2 := key.ICE("c1", "a.2")
	if ask(ufrag+":them", pwd) == nil || ask(ufrag2+":new", pwd2) == nil {
		t.Error("amid a restart one of both is not heard")
	}
	if ask(ufrag2+":new", pwd2, nominates) == nil || ask(ufrag+":them", pwd) != nil {
		t.Error("the old ones outlive the new nomination")
	}
	was, many := n.Stats(), uint64(3*checksAtOnce/2)
	n.loop.mu.Lock() // so that they are read in a row, and at one time
	c := n.calls["c1"].legs[0].sec.ice
	c.filled, c.tokens = n.loop.now()+int64(time.Hour), checksAtOnce
	for range many {
		p.write(checkBy(ufrag2+":new", pwd2).Raw, ports[0])
	}
	n.loop.mu.Unlock()
	var s Stats
	n.await("checks treated", func() bool {
		s = n.Stats()
		return s.Checks+s.Dropped["check"] == was.Checks+was.Dropped["check"]+many
	})
	if got := s.Checks - was.Checks; got != checksAtOnce {
		t.Errorf("%d checks at once are answered, want %d", got, checksAtOnce)
	}
}

// ends collects why legs ended, as a call's owner would hear it.
func (n *node) ends(call string) chan codecore.MediaSilent {
	n.t.Helper()
	got := make(chan codecore.MediaSilent, 10)
	_, err := n.bus.Subscribe(sessions.SubjectCall(codecore.CallID(call)), "", func(msg sessions.Msg) {
		var d sessions.Delivery
		if err := wire.Open(msg.Data, &d); err == nil && d.Event.Silent != nil {
			got <- *d.Event.Silent
		}
		answer, _ := wire.Seal(sessions.Answer{Status: sessions.StatusOK})
		_ = n.bus.Publish(msg.Reply, answer)
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return got
}

func (n *node) endsWith(got chan codecore.MediaSilent, leg codecore.LegID, reason string) {
	n.t.Helper()
	select {
	case e := <-got:
		if e.Leg != leg || e.Reason != reason {
			n.t.Errorf("leg %s ended with %q, want %q", e.Leg, e.Reason, reason)
		}
	case <-time.After(20 * time.Second):
		n.t.Fatalf("the leg does not end; %+v", n.Stats())
	}
}

func TestWrongFingerprintEndsTheLeg(t *testing.T) {
	for _, active := range []bool{false, true} {
		cfg, key := secureConfig(t)
		n := start(t, cfg, nil)
		got := n.ends("c1")
		ports := n.alloc("c1")
		a := newBrowser(t)
		offer := a.offer(nil)
		w := a.secured(talk("a", ports[0], "", 1), key, "c1", "a.1", offer, active)
		w.Secure.Fingerprint = "sha-256 " + strings.Repeat("AB:", 31) + "AB"
		n.do("c1", 1, 1, w)
		setup := "passive"
		if active {
			setup = "active"
		}
		a.answer(ours(key, "c1", "a.1", setup, ports[0]))
		n.endsWith(got, "a", "fingerprint")
	}
}

func TestConsentIsLost(t *testing.T) {
	cfg, key := secureConfig(t)
	n := start(t, cfg, nil)
	got := n.ends("c1")
	_, a, _, _ := n.dialled("c1", key, false)
	a.close()
	n.await("an end", func() bool { // its last check may be on its way
		n.loop.mu.Lock()
		defer n.loop.mu.Unlock()
		n.calls["c1"].legs[0].sec.ice.checked -= consentFor
		return len(got) > 0
	})
	n.endsWith(got, "a", "ice-consent")
}

func TestKeysThatCannotBeUsedAreRefused(t *testing.T) {
	cfg, key := secureConfig(t)
	n := start(t, cfg, nil)
	ports := n.alloc("c1")
	for name, s := range map[string]codecore.Secure{
		"suite":  {Kind: codecore.SecureSDES, Own: "a.1", Suite: "F8_128_HMAC_SHA1_80"},
		"kind":   {Kind: "zrtp", Own: "a.1"},
		"length": {Kind: codecore.SecureSDES, Own: "a.1", Suite: "AEAD_AES_128_GCM", Key: key.Hide("c1", "AAAA")},
		"call":   {Kind: codecore.SecureSDES, Own: "a.1", Suite: "AEAD_AES_128_GCM", Key: key.Hide("c2", "AAAA")},
	} {
		w := talk("a", ports[0], "", 1)
		w.Secure = &s
		if d := n.do("c1", 1, 1, w); d.Reason != "no-keys" {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestICERestartKeepsTheKeys(t *testing.T) {
	cfg, key := secureConfig(t)
	n := start(t, cfg, nil)
	ports, a, b, legs := n.dialled("c1", key, false)
	offer := a.offer(&webrtc.OfferOptions{ICERestart: true})
	legs[0].Secure = a.secured(legs[0], key, "c1", "a.2", offer, false).Secure
	n.do("c1", 1, 2, legs[:]...)
	a.answer(ours(key, "c1", "a.2", "passive", ports[0]))
	checks := n.Stats().Checks
	n.await("checks under the new credentials", func() bool {
		n.loop.mu.Lock()
		defer n.loop.mu.Unlock()
		return n.loop.total.checks > checks && n.calls["c1"].legs[0].sec.ice.nominated
	})
	for i := 2; i < 10; i++ {
		a.send(i)
		b.must(i)
		b.send(i)
		a.must(i)
	}
	if s := n.Stats(); s.Handshakes != 1 {
		t.Errorf("%d handshakes", s.Handshakes)
	}
}
