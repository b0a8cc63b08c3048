package media

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pion/srtp/v3"
	"github.com/pion/stun/v4"

	"callswitch/codecore"
)

// Why a secure leg has ended for good; in codecore.MediaSilent. Stable.
const (
	reasonKeysLost    = "keys-lost"     // no hot slot: how far its keys were used is not known
	reasonCut         = "handshake-cut" // this process began anew amid its DTLS handshake
	reasonFingerprint = "fingerprint"   // the party's certificate is not that of its SDP
	reasonHandshake   = "dtls-failed"   // three handshakes came to nothing
	reasonConsent     = "ice-consent"   // no valid check for 30 s (RFC 7675)
	reasonNoKeys      = "no-keys"       // refusal: the order's keys cannot be used
)

var errSecure = errors.New("media: leg cannot be protected as ordered")

// secure is what protects a leg's packets: SDES keys, or ICE and DTLS. slot.go has
// the part of it that outlives the process. It is allocated for legs that need it.
type secure struct {
	want  codecore.Secure
	place int // of the slot, 0: on the heap
	slot  slot
	gen   uint16  // of this process
	tx    *sealer // nil: no keys yet
	rx    *opener
	wait  []parked // sealed packets that were faster than their keys

	// Another process had the leg, and its slot is lost: no keys of SDES are used, for
	// those that an order names may be in use since before, whatever the record says.
	orphan bool

	// DTLS.
	ice    *ice
	assoc  uint64   // the association wanted
	due    bool     // a handshake is to begin
	pipe   *pipe    // one is under way
	tries  int      // that failed
	last   [][]byte // our last flight: repeated when the party repeats its own
	lastAt int64

	why  string // it has ended, and why
	told bool   // reported
}

// guard is an order for a leg's protection with all secrets found.
type guard struct {
	want   codecore.Secure
	tx, rx *keys // SDES; nil: not known yet
	cred   credentials
}

// guardOf finds the secrets of an order; nil, nil for a plain leg.
func (m *Media) guardOf(call codecore.CallID, w codecore.MediaLeg) (*guard, error) {
	s := w.Secure
	if s == nil {
		return nil, nil
	}
	if m.cfg.Secrets == nil || w.Opaque {
		return nil, fmt.Errorf("%w: no secrets here", errSecure)
	}
	d := &guard{want: *s}
	switch s.Kind {
	case codecore.SecureDTLS:
		d.cred = m.credentials(call, s.Own, s.Ufrag)
		return d, nil
	case codecore.SecureSDES:
	default:
		return nil, fmt.Errorf("%w: kind %q", errSecure, s.Kind)
	}
	if s.Suite == "" {
		return d, nil // offered, not chosen yet
	}
	profile, ok := suites[s.Suite]
	if !ok {
		return nil, fmt.Errorf("%w: suite %q", errSecure, s.Suite)
	}
	key := m.cfg.Secrets.SRTP(string(call), s.Own, s.Suite)
	made, _ := hash2("tx", s.Suite, s.Own)
	d.tx = &keys{profile: profile, key: key, made: made}
	if s.Key == "" {
		return d, nil
	}
	text, err := m.cfg.Secrets.Reveal(string(call), s.Key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSecure, err)
	}
	theirs, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(theirs) != len(key) {
		return nil, fmt.Errorf("%w: the party's key has another length", errSecure)
	}
	made, _ = hash2("rx", s.Suite, text)
	d.rx = &keys{profile: profile, key: theirs, made: made}
	return d, nil
}

// credentials are ours under a label, and what the party's checks say to them.
func (m *Media) credentials(call codecore.CallID, own, theirs string) credentials {
	ufrag, pwd := m.cfg.Secrets.ICE(string(call), own)
	return credentials{own: own, ufrag: ufrag, theirs: theirs, key: stun.NewShortTermIntegrity(pwd)}
}

// protect brings a leg's protection to what is ordered. Both locks are held, and
// g.program has not been called yet.
func (m *Media) protect(g *leg, d *guard, now int64) error {
	if g.sec != nil && (d == nil || g.sec.want.Kind != d.want.Kind) {
		m.unprotect(g)
	}
	if d == nil {
		return nil
	}
	s := g.sec
	if s == nil {
		s = &secure{}
		var had bool
		s.place, s.slot, had = m.hot.take(g.call.id, g.id)
		s.gen, m.loop.fence, m.loop.gen = m.hot.gen, m.hot.fence(), uint64(m.hot.gen)
		s.orphan = !had && !g.fresh
		g.sec = s
		if d.want.Kind == codecore.SecureDTLS {
			g.latch = latch{} // checks tell where the party is
		}
	}
	s.want = d.want
	if d.want.Kind == codecore.SecureSDES {
		if err := s.setTx(d.tx); err != nil {
			return err
		}
		if err := s.setRx(d.rx); err != nil {
			return err
		}
		m.loop.resume(g)
		return nil
	}
	s.setICE(d.cred, now)
	if at := s.slot.addr(); g.latch.addr.isZero() && !at.isZero() && at.family() == family(m.v6) {
		g.latch.pin(at)
		s.ice.note(&at)
	}
	return m.associate(g, now)
}

// own makes a leg's counters those of a generation.
func (s *secure) own(gen uint16) {
	s.gen = gen
	if s.tx != nil {
		s.tx.gen = gen
		s.slot.own(wordTxNext, gen)
		s.slot.own(wordTxRTCP, gen)
	}
}

// setTx takes up our keys of SDES: where they were left, or from the beginning if
// nobody can have used them.
func (s *secure) setTx(k *keys) (err error) {
	if k == nil || s.tx != nil && s.tx.keys.made == k.made {
		return nil
	}
	if s.orphan {
		if s.why == "" {
			s.end(reasonKeysLost)
		}
		return nil
	}
	if s.slot.load(wordTxMade) != k.made {
		s.slot.store(wordTxMade, 0)
		s.slot.forgetTx()
		s.slot.store(wordTxMade, k.made)
	}
	s.slot.store(wordState, slotKeyed)
	s.why, s.told = "", false
	s.tx, err = newSealer(*k, s.slot, s.gen)
	return err
}

func (s *secure) setRx(k *keys) (err error) {
	if k == nil || s.orphan || s.rx != nil && s.rx.keys.made == k.made {
		return nil
	}
	if s.slot.load(wordRxMade) != k.made {
		s.slot.store(wordRxMade, 0)
		s.slot.forgetRx()
		s.slot.store(wordRxMade, k.made)
	}
	s.rx, err = newOpener(*k, s.slot)
	return err
}

// restoreICE has the credentials of before an ICE restart hold until it is over.
func (m *Media) restoreICE(g *leg, old *oldICE) {
	if old == nil || g.sec == nil || g.sec.ice == nil {
		return
	}
	if c := g.sec.ice; !c.nominated && c.prev.own == "" && c.cur.own != old.Own {
		c.prev = m.credentials(g.call.id, old.Own, old.Theirs)
	}
}

// setICE takes up credentials; others than before are an ICE restart.
func (s *secure) setICE(c credentials, now int64) {
	switch {
	case s.ice == nil:
		s.ice = &ice{cur: c, checked: now}
	case s.ice.cur.ufrag != c.ufrag:
		if s.ice.nominated || s.ice.prev.ufrag == "" {
			s.ice.prev = s.ice.cur
		}
		s.ice.cur, s.ice.nominated, s.ice.checked = c, false, now
	case s.ice.cur.theirs != c.theirs:
		s.ice.cur, s.ice.checked = c, now
	}
}

// associate finds the DTLS association that is wanted: it stands, the slot has
// it, or its handshake is due.
func (m *Media) associate(g *leg, now int64) error {
	s := g.sec
	if s.want.Fingerprint == "" {
		return nil
	}
	a := association(s.want)
	if a == s.assoc {
		return nil
	}
	first := s.assoc == 0
	s.assoc, s.tries = a, 0
	if s.pipe != nil {
		_ = s.pipe.Close()
		s.pipe = nil
	}
	state, same := s.slot.load(wordState), s.slot.load(wordRxMade) == a
	switch {
	case first && s.orphan:
		s.end(reasonKeysLost)
		return nil
	case first && same && state == slotShakes:
		s.end(reasonCut)
		return nil
	case first && same && state == slotKeyed:
		profile := srtp.ProtectionProfile(s.slot.load(wordSuite))
		tx := keys{profile: profile, key: s.slot.key(wordTxKey), made: a}
		rx := keys{profile: profile, key: s.slot.key(wordRxKey), made: a}
		var err error
		if s.tx, err = newSealer(tx, s.slot, s.gen); err != nil {
			return err
		}
		if s.rx, err = newOpener(rx, s.slot); err != nil {
			return err
		}
		if d := s.slot.flight(); len(d) > 0 {
			s.last = [][]byte{d}
		}
		m.loop.resume(g)
		return nil
	}
	s.begin()
	m.loop.greet(g)
	return nil
}

// begin has the leg's handshake begin when it can.
func (s *secure) begin() { s.why, s.told, s.due = "", false, true }

// keyed takes up the keys of a handshake. They are in the slot before their use.
func (s *secure) keyed(tx, rx keys, last [][]byte) (err error) {
	s.slot.store(wordState, slotShakes)
	s.slot.forgetTx()
	s.slot.forgetRx()
	s.slot.store(wordSuite, uint64(tx.profile))
	s.slot.putKey(wordTxKey, tx.key)
	s.slot.putKey(wordRxKey, rx.key)
	s.slot.putFlight(last)
	s.slot.store(wordTxMade, tx.made)
	s.slot.store(wordRxMade, rx.made)
	s.slot.store(wordState, slotKeyed)
	s.last = last
	if s.tx, err = newSealer(tx, s.slot, s.gen); err != nil {
		return err
	}
	s.rx, err = newOpener(rx, s.slot)
	return err
}

// end says that the leg's protection has come to an end.
func (s *secure) end(why string) {
	s.tx, s.rx, s.due, s.wait = nil, nil, false, nil
	s.why, s.told = why, false
}

// ended returns once why a leg's protection has come to an end.
func (s *secure) ended(now int64) (why string) {
	if s == nil {
		return ""
	}
	if s.why == "" && s.ice != nil && s.ice.cur.theirs != "" && now-s.ice.checked > consentFor {
		s.why, s.told = reasonConsent, false
	}
	if s.why == "" || s.told {
		return ""
	}
	s.told = true
	return s.why
}

// unprotect ends a leg's protection: nothing of its keys stays. Both locks are held.
func (m *Media) unprotect(g *leg) {
	s := g.sec
	if s == nil {
		return
	}
	if s.pipe != nil {
		_ = s.pipe.Close()
	}
	if s.ice != nil {
		g.latch = latch{}
	}
	if s.place != 0 {
		m.hot.giveBack(s.place)
	}
	g.sec = nil
}

// resume has the stream towards a leg go on where its slot says.
func (l *loop) resume(g *leg) {
	s := g.sec
	if s == nil || s.tx == nil || !s.tx.sent.any || g.out.started {
		return
	}
	in, at := s.slot.load(wordIn), s.slot.load(wordTime)
	g.out = stream{
		in: uint32(in >> 16), out: s.tx.ssrc, seqOff: uint16(in), tsOff: uint32(at >> 32), started: true, shifted: true,
		seq: uint16(s.tx.sent.top), ts: uint32(at), at: l.now(),
	}
}

// open authenticates a packet of a leg and opens it in place; newest tells that
// none before it was as young.
func (l *loop) open(g *leg, b []byte, control bool, from *sockaddr, now int64) (plain []byte, newest, ok bool) {
	s := g.sec
	if s.rx == nil {
		if s.why == "" && len(s.wait) < parkMost && (s.ice == nil || s.ice.knows(from)) {
			s.wait = append(s.wait, parked{b: append([]byte(nil), b...), from: *from, at: now})
		} else {
			l.drop(g, dropKeys)
		}
		return nil, false, false
	}
	var err error
	if control {
		plain, err = s.rx.control(b)
	} else {
		plain, newest, err = s.rx.rtp(b, &l.header)
	}
	switch {
	case err == nil:
		return plain, newest, true
	case errors.Is(err, errUsed):
		l.drop(g, dropReplay)
	default:
		l.drop(g, dropForged)
	}
	return nil, false, false
}

// unlock treats the packets that came before their keys.
func (l *loop) unlock(g *leg) {
	waiting := g.sec.wait
	g.sec.wait = nil
	for i := range waiting {
		if w := &waiting[i]; l.now()-w.at < 10*l.parkFor {
			l.packet(g.rtp, w.b, &w.from, w.at)
		}
	}
}

// seal protects a packet to a leg in place; nil: it may not go.
func (l *loop) seal(g *leg, b []byte, control bool) []byte {
	s := g.sec
	if s.tx == nil || s.why != "" {
		l.drop(g, dropKeys)
		return nil
	}
	var err error
	if control {
		b, err = s.tx.control(b)
	} else {
		s.slot[wordIn] = uint64(g.out.in)<<16 | uint64(g.out.seqOff)
		s.slot[wordTime] = uint64(g.out.tsOff)<<32 | uint64(g.out.ts)
		b, err = s.tx.rtp(b, &l.header)
	}
	switch {
	case err == nil:
		if l.sealed != nil {
			l.sealed(g, control)
		}
		return b
	case errors.Is(err, errMoved):
		// Nothing may be sent any more, to nobody: this process was replaced.
		l.ousted = true
	}
	l.drop(g, dropReplay)
	return nil
}

// strip takes the header extension out of an RTP packet (RFC 8285): what it means
// was agreed with one party only.
func strip(b []byte) []byte {
	head := 12 + 4*int(b[0]&15)
	ext := 4 + 4*int(binary.BigEndian.Uint16(b[head+2:]))
	b[0] &^= 0x10
	return b[:head+copy(b[head:], b[head+ext:])]
}
