package media

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	pionice "github.com/pion/ice/v4"
	"github.com/pion/interceptor"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"callswitch/codecore"
	"callswitch/secrets"
)

func testSecrets(t testing.TB) *secrets.Key {
	t.Helper()
	k, err := secrets.New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// browser is a far end as real as there is one in Go.
type browser struct {
	t     testing.TB
	pc    *webrtc.PeerConnection
	track *webrtc.TrackLocalStaticRTP
	seq   uint16
	ts    uint32
	in    chan *rtp.Packet
	wait  sync.WaitGroup

	mu     sync.Mutex
	states []webrtc.PeerConnectionState
}

func newBrowser(t testing.TB, profiles ...dtls.SRTPProtectionProfile) *browser {
	t.Helper()
	return newBrowserOn(t, nil, profiles...)
}

// newBrowserOn is a browser behind a socket of its own, if there is one.
func newBrowserOn(t testing.TB, at net.PacketConn, profiles ...dtls.SRTPProtectionProfile) *browser {
	t.Helper()
	e := &webrtc.MediaEngine{}
	if err := e.RegisterCodec(webrtc.RTPCodecParameters{
		RTPCodecCapability: webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypePCMU, ClockRate: 8000}, PayloadType: 0,
	}, webrtc.RTPCodecTypeAudio); err != nil {
		t.Fatal(err)
	}
	set := webrtc.SettingEngine{}
	set.SetHandleUndeclaredSSRCWithoutAnswer(true)
	set.SetIncludeLoopbackCandidate(true)
	set.SetInterfaceFilter(func(n string) bool { return n == "lo" })
	set.SetICEMulticastDNSMode(pionice.MulticastDNSModeDisabled)
	set.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	set.SetDTLSRetransmissionInterval(100 * time.Millisecond)
	if at != nil {
		mux := webrtc.NewICEUDPMux(nil, at)
		set.SetICEUDPMux(mux)
		t.Cleanup(func() { mux.Close(); at.Close() })
	}
	if len(profiles) > 0 {
		set.SetSRTPProtectionProfiles(profiles...)
	}
	reg := &interceptor.Registry{}
	if err := webrtc.RegisterDefaultInterceptors(e, reg); err != nil {
		t.Fatal(err)
	}
	pc, err := webrtc.NewAPI(webrtc.WithMediaEngine(e), webrtc.WithSettingEngine(set), webrtc.WithInterceptorRegistry(reg)).
		NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, pc: pc, seq: 60000, ts: 1, in: make(chan *rtp.Packet, 1000)}
	if b.track, err = webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypePCMU, ClockRate: 8000}, "a", "c"); err != nil {
		t.Fatal(err)
	}
	snd, err := pc.AddTrack(b.track)
	if err != nil {
		t.Fatal(err)
	}
	b.wait.Go(func() {
		for buf := make([]byte, 1500); ; {
			if _, _, err := snd.Read(buf); err != nil {
				return
			}
		}
	})
	pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.states = append(b.states, s)
	})
	pc.OnTrack(func(tr *webrtc.TrackRemote, r *webrtc.RTPReceiver) {
		for {
			p, _, err := tr.ReadRTP()
			if err != nil {
				return
			}
			select {
			case b.in <- p:
			default:
			}
		}
	})
	t.Cleanup(b.close)
	return b
}

func (b *browser) close() {
	_ = b.pc.Close()
	b.wait.Wait()
}

func (b *browser) state(want webrtc.PeerConnectionState) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.states) > 0 && b.states[len(b.states)-1] == want
}

// offer returns what the browser says, all candidates in it.
func (b *browser) offer(opts *webrtc.OfferOptions) string {
	b.t.Helper()
	o, err := b.pc.CreateOffer(opts)
	if err != nil {
		b.t.Fatal(err)
	}
	done := webrtc.GatheringCompletePromise(b.pc)
	if err := b.pc.SetLocalDescription(o); err != nil {
		b.t.Fatal(err)
	}
	<-done
	return b.pc.LocalDescription().SDP
}

// line returns the value of an attribute.
func line(sdp, name string) string {
	m := regexp.MustCompile(`a=` + name + `:(\S+( \S+)?)`).FindStringSubmatch(sdp)
	if m == nil {
		return ""
	}
	return m[1]
}

// secured is the desired state of a leg with the browser's SDP.
func (b *browser) secured(leg codecore.MediaLeg, key *secrets.Key, call, label, sdp string, active bool) codecore.MediaLeg {
	leg.Mux, leg.Remote, leg.Payloads, leg.DTMF = true, "", []byte{0}, 0
	leg.Secure = &codecore.Secure{
		Kind: codecore.SecureDTLS, Own: label, Ufrag: line(sdp, "ice-ufrag"), Pwd: key.Hide(call, line(sdp, "ice-pwd")),
		Fingerprint: line(sdp, "fingerprint"), Active: active,
	}
	return leg
}

// ours is the SDP of the switch, an answer or an offer.
func ours(key *secrets.Key, call, label, setup string, port int) string {
	_, print, err := key.Certificate()
	if err != nil {
		panic(err)
	}
	ufrag, pwd := key.ICE(call, label)
	return fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=ice-lite\r\na=group:BUNDLE 0\r\na=msid-semantic: WMS *\r\n"+
		"m=audio %d UDP/TLS/RTP/SAVPF 0\r\nc=IN IP4 127.0.0.1\r\na=rtcp-mux\r\na=mid:0\r\na=sendrecv\r\na=ice-ufrag:%s\r\na=ice-pwd:%s\r\n"+
		"a=fingerprint:%s\r\na=setup:%s\r\na=rtpmap:0 PCMU/8000\r\na=msid:switch a0\r\n"+
		"a=candidate:1 1 udp 2130706431 127.0.0.1 %d typ host\r\na=end-of-candidates\r\n", port, ufrag, pwd, print, setup, port)
}

func (b *browser) answer(sdp string) {
	b.t.Helper()
	if err := b.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: sdp}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) send(n int) {
	b.t.Helper()
	payload := make([]byte, 160)
	binary.BigEndian.PutUint32(payload, uint32(n))
	if err := b.track.WriteRTP(&rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: b.seq, Timestamp: b.ts}, Payload: payload}); err != nil {
		b.t.Fatal(err)
	}
	b.seq++
	b.ts += 160
}

func (b *browser) must(n int) *rtp.Packet {
	b.t.Helper()
	select {
	case p := <-b.in:
		if got := int(binary.BigEndian.Uint32(p.Payload)); got != n {
			b.t.Fatalf("packet %d came, not %d", got, n)
		}
		return p
	case <-time.After(20 * time.Second):
		b.t.Fatalf("packet %d did not come", n)
		return nil
	}
}

// dials brings a browser to leg a and a phone to leg b: all but their sound.
func (n *node) dials(call string, key *secrets.Key, a *browser, active bool) (ports [2]int, b *phone, legs [2]codecore.MediaLeg) {
	n.t.Helper()
	ports = n.alloc(call)
	b = newPhone(n.t, ports[1], 2000)
	legs[0] = a.secured(talk("a", ports[0], "", 1), key, call, "a.1", a.offer(nil), active)
	legs[1] = talk("b", ports[1], b.addr(), 1)
	if d := n.do(call, 1, 1, legs[:]...); d.Reason != "" {
		n.t.Fatalf("order: %+v", d)
	}
	setup := "passive"
	if active {
		setup = "active"
	}
	a.answer(ours(key, call, "a.1", setup, ports[0]))
	return ports, b, legs
}

// dialled is a browser on leg a and a phone on leg b, who hear each other.
func (n *node) dialled(call string, key *secrets.Key, active bool, profiles ...dtls.SRTPProtectionProfile) (ports [2]int, a *browser, b *phone, legs [2]codecore.MediaLeg) {
	n.t.Helper()
	a = newBrowser(n.t, profiles...)
	ports, b, legs = n.dials(call, key, a, active)
	n.await("connected", func() bool { return a.state(webrtc.PeerConnectionStateConnected) })
	a.send(1)
	b.must(1)
	b.send(1)
	a.must(1)
	return ports, a, b, legs
}

func secureConfig(t testing.TB) (Config, *secrets.Key) {
	cfg := config(&memBus{})
	cfg.Secrets = testSecrets(t)
	return cfg, cfg.Secrets
}

func TestBrowserToPhone(t *testing.T) {
	for name, c := range map[string]struct {
		active  bool
		profile dtls.SRTPProtectionProfile
	}{
		"passive gcm": {false, dtls.SRTP_AEAD_AES_128_GCM},
		"active gcm":  {true, dtls.SRTP_AEAD_AES_128_GCM},
		"passive cm":  {false, dtls.SRTP_AES128_CM_HMAC_SHA1_80},
		"active cm":   {true, dtls.SRTP_AES128_CM_HMAC_SHA1_80},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, key := secureConfig(t)
			n := start(t, cfg, nil)
			_, a, b, _ := n.dialled("c1", key, c.active, c.profile)
			for i := 2; i < 20; i++ {
				a.send(i)
				if g := b.must(i); g.Extension {
					t.Fatal("a header extension reached the phone")
				}
				b.send(i)
				a.must(i)
			}
			if s := n.Stats(); s.Handshakes != 1 || s.Dropped["forged"]+s.Dropped["replay"]+s.Dropped["keys"] != 0 {
				t.Errorf("stats %+v", s)
			}
		})
	}
}
