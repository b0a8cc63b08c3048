package loadtest

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	pionice "github.com/pion/ice/v4"
	"github.com/pion/interceptor"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
)

// How a browserMedium watches its peer: it asks often and loses patience before
// any browser does (Chromium says disconnected after 5 s).
const (
	stunEvery  = 200 * time.Millisecond
	stunLimit  = 2 * time.Second
	stunFailed = 10 * time.Second
)

// browserMedium is a PeerConnection, as real as one is in Go.
type browserMedium struct {
	far   *far
	pc    *webrtc.PeerConnection
	track *webrtc.TrackLocalStaticRTP
	ice   *webrtc.ICETransport
	ready *signal
	done  sync.WaitGroup

	mu     sync.Mutex
	states []string // of the connection and of ICE, in order
	tracks int
}

// socket is its only one; nil: pion's own.
func newBrowserMedium(f *far, cm bool, socket net.PacketConn) (*browserMedium, error) {
	sound := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypePCMU, ClockRate: 8000}
	e := &webrtc.MediaEngine{}
	if err := e.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: sound, PayloadType: 0}, webrtc.RTPCodecTypeAudio); err != nil {
		return nil, err
	}
	set := webrtc.SettingEngine{}
	set.SetHandleUndeclaredSSRCWithoutAnswer(true)
	set.SetIncludeLoopbackCandidate(true)
	set.SetInterfaceFilter(func(n string) bool { return n == "lo" })
	set.SetICEMulticastDNSMode(pionice.MulticastDNSModeDisabled)
	set.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	if socket != nil {
		set.SetICEUDPMux(webrtc.NewICEUDPMux(nil, socket))
	}
	set.SetICETimeouts(stunLimit, stunFailed, stunEvery)
	if cm {
		set.SetSRTPProtectionProfiles(dtls.SRTP_AES128_CM_HMAC_SHA1_80)
	} else {
		set.SetSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM)
	}
	reg := &interceptor.Registry{}
	if err := webrtc.ConfigureRTCPReports(reg); err != nil {
		return nil, err
	}
	pc, err := webrtc.NewAPI(webrtc.WithMediaEngine(e), webrtc.WithSettingEngine(set), webrtc.WithInterceptorRegistry(reg)).
		NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		return nil, err
	}
	m := &browserMedium{far: f, pc: pc, ready: newSignal()}
	if m.track, err = webrtc.NewTrackLocalStaticRTP(sound, "sound", "rig"); err != nil {
		return nil, err
	}
	out, err := pc.AddTrack(m.track)
	if err != nil {
		return nil, err
	}
	m.ice = out.Transport().ICETransport()
	m.done.Go(func() { // its RTCP
		for buf := make([]byte, 1500); ; {
			if _, _, err := out.Read(buf); err != nil {
				return
			}
		}
	})
	pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
		m.state("connection " + s.String())
		if s == webrtc.PeerConnectionStateConnected {
			m.ready.set()
		}
	})
	pc.OnICEConnectionStateChange(func(s webrtc.ICEConnectionState) { m.state("ice " + s.String()) })
	pc.OnTrack(func(t *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
		m.mu.Lock()
		m.tracks++
		m.mu.Unlock()
		for {
			p, _, err := t.ReadRTP()
			if err != nil {
				return
			}
			f.hear(p.SequenceNumber, p.Payload, time.Now())
		}
	})
	return m, nil
}

func (m *browserMedium) state(s string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.states = append(m.states, s)
}

func (m *browserMedium) close() {
	_ = m.pc.Close()
	m.done.Wait()
}

// local sets what we say, with all candidates in it.
func (m *browserMedium) local(d webrtc.SessionDescription, err error) []byte {
	if err != nil {
		m.far.fault("%v", err)
		return nil
	}
	gathered := webrtc.GatheringCompletePromise(m.pc)
	if err := m.pc.SetLocalDescription(d); err != nil {
		m.far.fault("%v", err)
		return nil
	}
	<-gathered
	return []byte(m.pc.LocalDescription().SDP)
}

func (m *browserMedium) remote(t webrtc.SDPType, sdp []byte) {
	if err := m.pc.SetRemoteDescription(webrtc.SessionDescription{Type: t, SDP: string(sdp)}); err != nil {
		m.far.fault("%v\n%s", err, sdp)
	}
}

func (m *browserMedium) offer() []byte { return m.local(m.pc.CreateOffer(nil)) }

func (m *browserMedium) answer(offer []byte) []byte {
	m.remote(webrtc.SDPTypeOffer, offer)
	return m.local(m.pc.CreateAnswer(nil))
}

func (m *browserMedium) answered(sdp []byte) { m.remote(webrtc.SDPTypeAnswer, sdp) }

func (m *browserMedium) send(seq uint16, stamp uint32, payload []byte) error {
	return m.track.WriteRTP(&rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: seq, Timestamp: stamp}, Payload: payload})
}

// steady finds fault with everything but one connection, made once.
func (m *browserMedium) steady() {
	m.mu.Lock()
	states, tracks := slices.Clone(m.states), m.tracks
	m.mu.Unlock()
	if tracks != 1 {
		m.far.fault("%d streams came, not one", tracks)
	}
	slices.Sort(states)
	if s := strings.Join(states, ", "); s != "connection connected, connection connecting, ice checking, ice connected" {
		m.far.fault("its states were: %s", s)
	}
}

// answers is how many of its STUN requests the switch has answered.
func (m *browserMedium) answers() uint64 {
	s, _ := m.ice.GetSelectedCandidatePairStats()
	return s.ResponsesReceived
}

func (p *couples) browsers() (out []*browserMedium) {
	for _, c := range p.all {
		for _, f := range c.far {
			if m, ok := f.medium.(*browserMedium); ok {
				out = append(out, m)
			}
		}
	}
	return out
}

// connected waits until every PeerConnection is.
func (p *couples) connected(t *testing.T) {
	t.Helper()
	ctx := patient(t, time.Minute)
	for _, m := range p.browsers() {
		if err := await(ctx, m.ready, "connection"); err != nil {
			t.Fatal(m.far.kind, err)
		}
	}
}

// stun waits until each browser has had two answers to what it asks from now on,
// the first of which may have been under way, and says how long that took.
func (p *couples) stun(t *testing.T, when string) time.Duration {
	t.Helper()
	ctx, begin := patient(t, 20*time.Second), time.Now()
	all := p.browsers()
	before := make([]uint64, len(all))
	for i, m := range all {
		before[i] = m.answers()
	}
	for i, m := range all {
		for m.answers() < before[i]+2 {
			if !pause(ctx, 10*time.Millisecond) {
				t.Errorf("%s: STUN of a %s is not answered", when, fmt.Sprint(m.far.kind, " ", m.far.call))
				return time.Since(begin)
			}
		}
	}
	return time.Since(begin)
}
