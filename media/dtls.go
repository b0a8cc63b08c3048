package media

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/logging"
	"github.com/pion/srtp/v3"

	"callswitch/codecore"
)

// shakesMost is how many DTLS handshakes run at once; a further ClientHello is
// not heard, and will be repeated.
const shakesMost = 32

// shakeFor bounds one handshake. After shakeLong no heir waits for its end, and it gives
// way where there are shakesMost: an honest one has lost four flights in a row by then.
const (
	shakeFor  = 20 * time.Second
	shakeLong = 4 * time.Second
)

var errFingerprint = errors.New("media: the party's certificate is not that of its SDP")

// pipe is what pion/dtls takes for a connection: the relay feeds it, and it
// sends on the leg's socket. It lives as long as a handshake.
type pipe struct {
	l    *loop
	g    *leg
	in   chan []byte
	done chan struct{}
	once sync.Once
	mute atomic.Bool
	deep bool // the party has answered us, so it cannot begin anew; behind loop.mu

	began int64 // ns

	mu     sync.Mutex
	flight [][]byte // what we said last
	turn   bool     // the party has been heard since
}

func newPipe(l *loop, g *leg) *pipe {
	return &pipe{l: l, g: g, in: make(chan []byte, 16), done: make(chan struct{}), began: l.now()}
}

// feed gives it a datagram; the relay does not wait.
func (p *pipe) feed(b []byte) bool {
	p.deep = p.deep || !isClientHello(b)
	select {
	case p.in <- append([]byte(nil), b...):
		return true
	default:
		return false
	}
}

func (p *pipe) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-p.in:
		p.mu.Lock()
		p.turn = true
		p.mu.Unlock()
		return copy(b, d), p.LocalAddr(), nil
	case <-p.done:
		return 0, nil, net.ErrClosed
	}
}

// WriteTo sends where the leg's checks come from. Muted, it says nothing: the end
// of a handshake is not the end of its association.
func (p *pipe) WriteTo(b []byte, _ net.Addr) (int, error) {
	p.l.mu.Lock()
	defer p.l.mu.Unlock()
	if s := p.g.sec; p.mute.Load() || s == nil || s.pipe != p {
		return len(b), nil
	}
	p.mu.Lock()
	if p.turn {
		p.flight, p.turn = nil, false
	}
	if len(p.flight) < 16 {
		p.flight = append(p.flight, append([]byte(nil), b...))
	}
	p.mu.Unlock()
	if dest := p.g.latch.dest(); !dest.isZero() {
		if errno := sendTo(p.g.rtp.fd, b, dest); errno != 0 {
			p.l.drop(p.g, dropSend)
		}
	}
	return len(b), nil
}

func (p *pipe) Close() error { p.once.Do(func() { close(p.done) }); return nil }

// LocalAddr has no use: the leg knows where to send.
func (p *pipe) LocalAddr() net.Addr { return &net.UDPAddr{} }

// SetReadDeadline is how pion ends a read.
func (p *pipe) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && time.Until(t) <= 0 {
		return p.Close()
	}
	return nil
}
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }
func (p *pipe) SetDeadline(t time.Time) error    { return p.SetReadDeadline(t) }

// dtls treats a DTLS datagram for a leg (RFC 5764): part of a handshake, the
// first of one, or the repetition of a last flight whose answer was lost.
func (l *loop) dtls(g *leg, b []byte, from *sockaddr, now int64) {
	s := g.sec
	switch {
	case s == nil || s.ice == nil:
		l.drop(g, dropForeign)
	case !s.ice.knows(from):
		l.drop(g, dropStranger)
	case s.pipe != nil:
		if !s.pipe.feed(b) {
			l.drop(g, dropHandshake)
		}
	case s.due && !s.want.Active && isClientHello(b):
		if l.shake == nil || !l.shake(g) {
			l.drop(g, dropHandshake)
			return
		}
		s.pipe.feed(b)
	case len(s.last) > 0 && b[0] != 21 && now-s.lastAt > 50e6:
		s.lastAt = now
		for _, d := range s.last {
			_ = sendTo(g.rtp.fd, d, from)
		}
	default:
		l.drop(g, dropHandshake)
	}
}

// isClientHello: a handshake record of epoch 0 that begins with type 1.
func isClientHello(b []byte) bool {
	return len(b) > 25 && b[0] == 22 && b[3] == 0 && b[4] == 0 && b[13] == 1
}

// greet begins a handshake that is ours to begin.
func (l *loop) greet(g *leg) {
	s := g.sec
	if s == nil || !s.due || !s.want.Active || s.pipe != nil || s.ice == nil || l.shake == nil || g.latch.dest().isZero() {
		return
	}
	l.shake(g)
}

// greetAll begins what could not begin before. Both locks are held.
func (m *Media) greetAll() {
	for _, c := range m.calls {
		for _, g := range c.legs {
			m.loop.greet(g)
		}
	}
}

// beginShake starts the handshake of a leg on a goroutine of its own, if there
// are not too many. loop.mu is held.
func (m *Media) beginShake(g *leg) bool {
	s := g.sec
	if m.ending || m.yielding || s.want.Fingerprint == "" {
		return false
	}
	if m.shakes.Add(1) > shakesMost {
		m.shakes.Add(-1)
		return false
	}
	p := newPipe(m.loop, g)
	s.pipe, s.due = p, false
	if s.tx == nil {
		s.slot.store(wordRxMade, s.assoc)
		s.slot.store(wordState, slotShakes)
	}
	want, call, id := s.want, g.call.id, g.id
	m.shaking.Go(func() {
		defer m.shakes.Add(-1)
		tx, rx, last, err := m.handshake(p, want)
		m.shaken(g, p, call, id, want, tx, rx, last, err)
	})
	return true
}

// handshake returns the keys of both directions, and what we said last.
func (m *Media) handshake(p *pipe, want codecore.Secure) (tx, rx keys, last [][]byte, err error) {
	defer func() { _ = p.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), shakeFor)
	defer cancel()
	opts := []dtls.Option{
		dtls.WithCertificates(m.cert),
		dtls.WithSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM, dtls.SRTP_AES128_CM_HMAC_SHA1_80),
		dtls.WithInsecureSkipVerify(true), // the fingerprint decides, not a chain
		dtls.WithVerifyPeerCertificate(func(certs [][]byte, _ [][]*x509.Certificate) error {
			return checkFingerprint(want.Fingerprint, certs)
		}),
		dtls.WithLoggerFactory(quiet),
		dtls.WithFlightInterval(250 * time.Millisecond),
	}
	var conn *dtls.Conn
	if want.Active {
		with := make([]dtls.ClientOption, len(opts))
		for i, o := range opts {
			with[i] = o
		}
		conn, err = dtls.ClientWithOptions(p, p.LocalAddr(), with...)
	} else {
		with := make([]dtls.ServerOption, len(opts), len(opts)+2)
		for i, o := range opts {
			with[i] = o
		}
		// No cookie: the address has answered for itself by a check.
		with = append(with, dtls.WithClientAuth(dtls.RequireAnyClientCert), dtls.WithInsecureSkipVerifyHello(true))
		conn, err = dtls.ServerWithOptions(p, p.LocalAddr(), with...)
	}
	if err != nil {
		return tx, rx, nil, err
	}
	defer func() {
		p.mute.Store(true)
		_ = conn.Close()
	}()
	if err = conn.HandshakeContext(ctx); err != nil {
		return tx, rx, nil, err
	}
	p.mu.Lock()
	last = p.flight
	p.mu.Unlock()
	profile, ok := conn.SelectedSRTPProtectionProfile()
	state, have := conn.ConnectionState()
	if !ok || !have || len(state.PeerCertificates) == 0 {
		return tx, rx, nil, errors.New("media: no SRTP was agreed")
	}
	cfg := srtp.Config{Profile: srtp.ProtectionProfile(profile)}
	if err = cfg.ExtractSessionKeysFromDTLS(&state, want.Active); err != nil {
		return tx, rx, nil, err
	}
	join := func(key, salt []byte) keys {
		return keys{profile: cfg.Profile, key: append(append([]byte(nil), key...), salt...), made: association(want)}
	}
	return join(cfg.Keys.LocalMasterKey, cfg.Keys.LocalMasterSalt), join(cfg.Keys.RemoteMasterKey, cfg.Keys.RemoteMasterSalt), last, nil
}

// endShakes breaks off what is under way and waits for it. A party that is in the
// middle of one repeats itself to nobody.
func (m *Media) endShakes() {
	m.mu.Lock()
	m.loop.mu.Lock()
	m.ending = true
	for _, c := range m.calls {
		for _, g := range c.legs {
			if g.sec != nil && g.sec.pipe != nil {
				_ = g.sec.pipe.Close()
			}
		}
	}
	m.loop.mu.Unlock()
	m.mu.Unlock()
	m.shaking.Wait()
}

// shaken brings the end of a handshake to its leg.
func (m *Media) shaken(g *leg, p *pipe, call codecore.CallID, id codecore.LegID, want codecore.Secure, tx, rx keys, last [][]byte, err error) {
	m.loop.mu.Lock()
	defer m.loop.mu.Unlock()
	s := g.sec
	if s == nil || s.pipe != p || m.ending {
		return // the leg has ended, or wants another
	}
	s.pipe = nil
	if err == nil {
		if want.Active {
			last = nil // the party repeats nothing that we have not
		}
		err = s.keyed(tx, rx, last)
	}
	if err != nil {
		m.loop.total.shakesFailed++
		m.log.Info("media: DTLS handshake failed", "call", call, "leg", id, "err", err)
		s.tries++
		switch {
		case errors.Is(err, errFingerprint):
			s.end(reasonFingerprint)
		case s.tries >= 3:
			s.end(reasonHandshake)
		default:
			s.due = true
			m.loop.greet(g)
		}
		return
	}
	m.loop.total.shakes++
	m.loop.unlock(g)
	m.loop.markDirty(g.call)
}

// checkFingerprint compares a certificate with a=fingerprint (RFC 8122), whose
// hash must be one that is still good.
func checkFingerprint(said string, certs [][]byte) error {
	hash, digits, _ := strings.Cut(said, " ")
	want, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(digits), ":", ""))
	if err != nil || len(certs) == 0 {
		return errFingerprint
	}
	var got []byte
	switch strings.ToLower(hash) {
	case "sha-256":
		sum := sha256.Sum256(certs[0])
		got = sum[:]
	case "sha-384":
		sum := sha512.Sum384(certs[0])
		got = sum[:]
	case "sha-512":
		sum := sha512.Sum512(certs[0])
		got = sum[:]
	default:
		return fmt.Errorf("%w: hash %q", errFingerprint, hash)
	}
	if subtle.ConstantTimeCompare(got, want) != 1 {
		return errFingerprint
	}
	return nil
}

// association tells a DTLS association from others: another name, fingerprint or
// role is another one (RFC 8842 section 4).
func association(w codecore.Secure) uint64 {
	role := "passive"
	if w.Active {
		role = "active"
	}
	a, _ := hash2("dtls", w.Assoc, strings.ToLower(w.Fingerprint), role)
	return a
}

// quiet has pion say nothing: what matters is told by its errors.
var quiet = func() logging.LoggerFactory {
	f := logging.NewDefaultLoggerFactory()
	f.DefaultLogLevel = logging.LogLevelDisabled
	f.ScopeLevels = map[string]logging.LogLevel{}
	return f
}()
