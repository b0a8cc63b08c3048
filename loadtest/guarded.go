package loadtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/selfsign"
	"github.com/pion/srtp/v3"
	"github.com/pion/stun/v4"
	"golang.org/x/sys/unix"
)

// How a leg's sound is protected in a bench.
const (
	SoundPlain  = "rtp"
	SoundSDES   = "sdes"   // AES_CM_128_HMAC_SHA1_80
	SoundWebRTC = "webrtc" // ICE, DTLS, AEAD_AES_128_GCM
)

const benchSuite, benchKey, benchSalt = "AES_CM_128_HMAC_SHA1_80", 16, 14

// guard protects the sound of a stream. A PeerConnection would cost the rig more
// than the switch that it measures; this is the least that a browser is: checks, a
// handshake, and the contexts that it gives.
type guard struct {
	stream *Stream
	cert   *tls.Certificate // nil: SDES

	ufrag, pwd, mid string // theirs
	handshake       chan []byte
	checked         *signal // a check of ours was answered
	over            *signal

	tx, rx atomic.Pointer[srtp.Context] // nil until there are keys
	room   []byte
	ready  *signal
	failed atomic.Pointer[error]
}

// guarded protects what a stream sends and hears, as the leg of a callee.
func guarded(t *Stream, cert *tls.Certificate) *guard {
	g := &guard{stream: t, cert: cert, handshake: make(chan []byte, 16), checked: newSignal(), over: newSignal(), ready: newSignal(), room: make([]byte, 0, 512)}
	t.guard.Store(g)
	return g
}

func (g *guard) offer() []byte   { return nil } // it is a callee's
func (g *guard) answered([]byte) {}

var offeredKey = regexp.MustCompile(`a=crypto:(\d+) ` + benchSuite + ` inline:([^|\s]+)`)

func attribute(sdp []byte, name string) string {
	_, rest, _ := strings.Cut(string(sdp), "\r\na="+name+":")
	value, _, _ := strings.Cut(rest, "\r\n")
	return value
}

// answer describes us, and begins what the offer asks for.
func (g *guard) answer(offer []byte) []byte {
	s, ok := readSDP(offer)
	if !ok {
		return nil
	}
	at := g.stream.Addr()
	var w builder
	for _, l := range []string{"v=0", fmt.Sprintf("o=rig %d 1 IN IP4 %s", at.Port(), at.Addr()), "s=-", "c=IN IP4 " + at.Addr().String(), "t=0 0"} {
		w.line(l)
	}
	if g.cert == nil {
		return g.answerSDES(&w, offer)
	}
	g.ufrag, g.pwd, g.mid = attribute(offer, "ice-ufrag"), attribute(offer, "ice-pwd"), attribute(offer, "mid")
	print := sha256.Sum256(g.cert.Certificate[0])
	w.line("a=group:BUNDLE ", g.mid)
	w.line(fmt.Sprintf("m=audio %d UDP/TLS/RTP/SAVPF 0", at.Port()))
	for _, l := range []string{
		"rtpmap:0 PCMU/8000", "rtcp-mux", "mid:" + g.mid, "sendrecv", "ice-ufrag:rigs", "ice-pwd:0123456789012345678901",
		"fingerprint:sha-256 " + strings.TrimSuffix(strings.ReplaceAll(fmt.Sprintf("% X:", print[:]), " ", ":"), ":"), "setup:active",
		fmt.Sprintf("candidate:1 1 udp 2130706431 %s %d typ host", at.Addr(), at.Port()),
	} {
		w.line("a=", l)
	}
	go func() {
		if err := g.connect(s.addr); err != nil {
			g.failed.Store(&err)
		}
		g.ready.set()
	}()
	return w.b.Bytes()
}

func (g *guard) answerSDES(w *builder, offer []byte) []byte {
	found := offeredKey.FindSubmatch(offer)
	if found == nil {
		return nil
	}
	theirs, err := base64.StdEncoding.DecodeString(string(found[2]))
	ours := make([]byte, benchKey+benchSalt)
	_, _ = rand.Read(ours)
	if err != nil || len(theirs) != len(ours) || g.keys(srtp.ProtectionProfileAes128CmHmacSha1_80, ours, theirs) != nil {
		return nil
	}
	g.ready.set()
	w.line(fmt.Sprintf("m=audio %d RTP/SAVP 0", g.stream.Addr().Port()))
	for _, l := range []string{"a=rtpmap:0 PCMU/8000", "a=rtcp-mux", "a=sendrecv"} {
		w.line(l)
	}
	w.line("a=crypto:", string(found[1]), " ", benchSuite, " inline:", base64.StdEncoding.EncodeToString(ours))
	return w.b.Bytes()
}

func (g *guard) keys(profile srtp.ProtectionProfile, ours, theirs []byte) error {
	n, err := profile.KeyLen()
	if err != nil {
		return err
	}
	tx, err := srtp.CreateContext(ours[:n], ours[n:], profile)
	if err != nil {
		return err
	}
	rx, err := srtp.CreateContext(theirs[:n], theirs[n:], profile, srtp.SRTPReplayProtection(128))
	if err != nil {
		return err
	}
	g.tx.Store(tx)
	g.rx.Store(rx)
	return nil
}

// seal protects a packet; nil: there are no keys yet.
func (g *guard) seal(b []byte) []byte {
	tx := g.tx.Load()
	if tx == nil {
		return nil
	}
	out, err := tx.EncryptRTP(g.room, b, nil)
	if err != nil {
		return nil
	}
	return out
}

// open takes what has come; nil: it is no sound.
func (g *guard) open(b []byte) []byte {
	switch {
	case len(b) == 0:
	case b[0] < 4: // RFC 7983
		g.checked.set()
	case b[0] >= 20 && b[0] <= 63:
		select {
		case g.handshake <- append([]byte(nil), b...):
		default:
		}
	case g.rx.Load() != nil:
		if plain, err := g.rx.Load().DecryptRTP(b, b, nil); err == nil {
			return plain
		}
	}
	return nil
}

// check asks the switch for consent, and names the way that the sound is to take.
func (g *guard) check() error {
	m, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewUsername(g.ufrag+":rigs"),
		stun.RawAttribute{Type: stun.AttrUseCandidate}, stun.RawAttribute{Type: stun.AttrICEControlling, Value: make([]byte, 8)},
		stun.NewShortTermIntegrity(g.pwd), stun.Fingerprint)
	if err != nil {
		return err
	}
	_, err = g.WriteTo(m.Raw, nil)
	return err
}

// connect checks and shakes hands.
func (g *guard) connect(to netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for !g.checked.Is() {
		if err := g.check(); err != nil && g.stream.remote.Load() != nil {
			return err
		}
		if !pause(ctx, 20*time.Millisecond) {
			return errors.New("loadtest: no check was answered")
		}
	}
	c, err := dtls.ClientWithOptions(g, net.UDPAddrFromAddrPort(to), dtls.WithCertificates(*g.cert), dtls.WithInsecureSkipVerify(true),
		dtls.WithSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM))
	if err != nil {
		return err
	}
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	state, ok := c.ConnectionState()
	if !ok {
		return errors.New("loadtest: no DTLS state")
	}
	cfg := srtp.Config{Profile: srtp.ProtectionProfileAeadAes128Gcm}
	if err := cfg.ExtractSessionKeysFromDTLS(&state, true); err != nil {
		return err
	}
	k := &cfg.Keys
	return g.keys(cfg.Profile, append(k.LocalMasterKey, k.LocalMasterSalt...), append(k.RemoteMasterKey, k.RemoteMasterSalt...))
}

// What pion/dtls takes for a connection. It ends with its stream, without a farewell.
func (g *guard) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-g.handshake:
		return copy(b, d), g.LocalAddr(), nil
	case <-g.over.C():
		return 0, nil, net.ErrClosed
	}
}

func (g *guard) WriteTo(b []byte, _ net.Addr) (int, error) {
	to := g.stream.remote.Load()
	if to == nil || g.over.Is() {
		return 0, net.ErrClosed
	}
	return len(b), unix.Sendto(g.stream.fd, b, 0, *to)
}

func (g *guard) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(g.stream.Addr()) }
func (g *guard) Close() error                     { return nil }
func (g *guard) SetDeadline(time.Time) error      { return nil }
func (g *guard) SetReadDeadline(time.Time) error  { return nil }
func (g *guard) SetWriteDeadline(time.Time) error { return nil }

// guards gives the callees of a bench their protection.
type guards struct {
	kind string
	cert tls.Certificate
}

func newGuards(kind string) (g *guards, err error) {
	g = &guards{kind: kind}
	if kind == SoundWebRTC {
		if g.cert, err = selfsign.GenerateSelfSigned(); err != nil {
			return nil, fmt.Errorf("loadtest: %w", err)
		}
	}
	return g, nil
}

// plan is the rig's dialplan with callees of the kind.
func (s *guards) plan(p Dialplan) Dialplan {
	for i := range p.Peers {
		switch {
		case !strings.HasPrefix(p.Peers[i].Name, "callee"):
		case s.kind == SoundSDES:
			p.Peers[i].SRTP = "required"
		case s.kind == SoundWebRTC:
			p.Peers[i].Media = "webrtc"
		}
	}
	return p
}

// prepare has the call's callee protect its sound.
func (s *guards) prepare(c *Call) {
	if s.kind == SoundPlain {
		return
	}
	c.plan = func(l *Leg) {
		var cert *tls.Certificate
		if s.kind == SoundWebRTC {
			cert = &s.cert
		}
		l.mu.Lock()
		l.speaks = guarded(c.SB, cert)
		l.mu.Unlock()
		answerAtOnce(l)
	}
}

// connected waits until every callee has keys.
func (s *guards) connected(ctx context.Context, calls []*Call) error {
	if s.kind == SoundPlain {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, c := range calls {
		g := c.SB.guard.Load()
		if g == nil {
			return errors.New("loadtest: a callee has described nothing")
		}
		if err := await(ctx, g.ready, "keys"); err != nil {
			return err
		}
		if err := g.failed.Load(); err != nil {
			return *err
		}
	}
	return nil
}

// consent asks for all browsers every few seconds, as they do (RFC 7675).
func (s *guards) consent(ctx context.Context, calls []*Call) {
	for s.kind == SoundWebRTC && pause(ctx, 5*time.Second) {
		for _, c := range calls {
			_ = c.SB.guard.Load().check()
			pause(ctx, time.Millisecond)
		}
	}
}
