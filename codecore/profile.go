package codecore

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pion/sdp/v3"
)

// Which line of a party's SDP is talked on, and how its packets are protected.
//
//	RTP/AVP, RTP/AVPF                          plain; with a=crypto, SDES where the policy asks for it
//	RTP/SAVP, RTP/SAVPF with a=crypto          SDES (crypto.go)
//	UDP/TLS/RTP/SAVPF, or with a=fingerprint   WebRTC (webrtc.go)

// Policies of SRTP, of a peer of the dialplan or an account.
const (
	// SRTPRequired: nothing plain is taken, and SDES is offered.
	SRTPRequired = "required"
	// SRTPPreferred: of several ways the protected one is taken, RTP/AVP with
	// a=crypto too. SDES is offered, and plain RTP to who refuses that.
	SRTPPreferred = "preferred"
	// SRTPOff: nothing protected is taken nor offered.
	SRTPOff = "off"
	// Without one, a party gets what it offers, plain first, and is offered plain.
)

// MediaWebRTC, of a peer of the dialplan: it is offered what browsers speak, as is
// whoever is reached by a WebSocket.
const MediaWebRTC = "webrtc"

const (
	protoSDES = "RTP/SAVP"
	protoDTLS = "UDP/TLS/RTP/SAVPF"
)

// want is what an SDP is read for.
type want struct {
	policy string // of an offer
	answer bool   // to ask
	ask    *Ask
	coding bool // how it is coded alone: one read before, or of ours
	// local is our own address for the party's sound: where that is of the other
	// family no sound would flow. "": not known yet.
	local string
}

func plainProto(p string) bool { return p == "RTP/AVP" || p == "RTP/AVPF" }

func secureProto(p string) bool {
	switch p {
	case "RTP/SAVP", "RTP/SAVPF", "UDP/TLS/RTP/SAVP", "UDP/TLS/RTP/SAVPF":
		return true
	}
	return false
}

func protoOf(m *sdp.MediaDescription) string { return strings.Join(m.MediaName.Protos, "/") }

// live are the lines that are offered: of a bundle too, where the port of all but
// one may be 0 (RFC 9143 6).
func live(m *sdp.MediaDescription) bool {
	_, bundled := m.Attribute("bundle-only")
	return m.MediaName.Port.Value != 0 || bundled
}

// choice is the line that is talked on, and what it says of its protection.
type choice struct {
	media   *sdp.MediaDescription
	secure  *Secure
	crypto  string // tag of the a=crypto
	actpass bool
}

// choose finds the audio that is talked on, else the fax.
func choose(d *sdp.SessionDescription, w want) (choice, error) {
	var plain, secure []*sdp.MediaDescription
	var err error
	for _, m := range d.MediaDescriptions {
		switch p := protoOf(m); {
		case m.MediaName.Media != "audio" || !live(m):
		case plainProto(p):
			plain = append(plain, m)
		case secureProto(p):
			secure = append(secure, m)
		default:
			err = fmt.Errorf("%w: %s", ErrSecure, p)
		}
	}
	switch {
	case w.coding && len(plain)+len(secure) > 0:
		return choice{media: slices.Concat(plain, secure)[0]}, nil
	case w.answer:
		return chooseAnswer(d, w.ask, plain, secure, err)
	}
	try := func(ms []*sdp.MediaDescription) (choice, bool) {
		for _, m := range ms {
			c, why := protection(d, m)
			if why == nil {
				return c, true
			}
			if err == nil {
				err = why
			}
		}
		return choice{}, false
	}
	keen := w.policy == SRTPRequired || w.policy == SRTPPreferred
	if !keen && len(plain) > 0 {
		return choice{media: plain[0]}, nil
	}
	if w.policy != SRTPOff {
		if c, ok := try(secure); ok {
			return c, nil
		}
	} else if len(secure) > 0 {
		err = fmt.Errorf("%w: it is off", ErrSecure)
	}
	if keen && len(plain) > 0 {
		for _, m := range plain {
			if c, why := keysIn(m, nil); why == nil {
				return c, nil
			}
		}
		if w.policy == SRTPPreferred {
			return choice{media: plain[0]}, nil
		}
		if err == nil {
			err = ErrPlain
		}
	}
	for _, m := range d.MediaDescriptions { // T.38 in place of the audio (T.38 annex D)
		if isFax(m) && m.MediaName.Port.Value != 0 && w.policy != SRTPRequired {
			return choice{media: m}, nil
		}
	}
	if err == nil {
		err = ErrNoAudio
	}
	return choice{}, err
}

// chooseAnswer finds the audio of an answer: protected as we asked.
func chooseAnswer(d *sdp.SessionDescription, ask *Ask, plain, secure []*sdp.MediaDescription, err error) (choice, error) {
	switch {
	case ask == nil || ask.Kind == "":
		if len(plain) > 0 {
			return choice{media: plain[0]}, nil
		}
		for _, m := range d.MediaDescriptions {
			if isFax(m) && m.MediaName.Port.Value != 0 {
				return choice{media: m}, nil
			}
		}
		if len(secure) > 0 {
			err = ErrSecure
		}
	case ask.Kind == SecureDTLS && len(secure) > 0:
		return identity(d, secure[0], true)
	case ask.Kind == SecureSDES && len(secure) > 0:
		return keysIn(secure[0], ask)
	case ask.Kind == SecureSDES && ask.Proto == "" && len(plain) > 0: // RTP/AVP with a=crypto
		if c, why := keysIn(plain[0], ask); why == nil {
			return c, nil
		}
		return choice{media: plain[0]}, nil
	case len(plain) > 0:
		err = ErrPlain
	}
	if err == nil {
		err = ErrNoAudio
	}
	return choice{}, err
}

// protection reads what a line of a protected profile says of its keys.
func protection(d *sdp.SessionDescription, m *sdp.MediaDescription) (choice, error) {
	if isWebRTC(d, m) {
		return identity(d, m, false)
	}
	return keysIn(m, nil)
}

func isWebRTC(d *sdp.SessionDescription, m *sdp.MediaDescription) bool {
	_, all := d.Attribute("fingerprint")
	_, own := m.Attribute("fingerprint")
	return strings.HasPrefix(protoOf(m), "UDP/TLS/") || (all || own) && secureProto(protoOf(m))
}

// webrtc reports whether a destination is offered what browsers speak.
func (d Destination) webrtc() bool { return d.WebRTC || isWebSocket(d.Target, d.Flow) }

// isWebSocket reports whether who is at a target, or on a flow, is reached by a
// WebSocket (RFC 7118): nobody but browsers' clients is.
func isWebSocket(target, flow string) bool {
	_, params, _ := strings.Cut(strings.ToLower(target), ";")
	for _, p := range strings.FieldsFunc(params, func(r rune) bool { return r == ';' || r == '?' || r == '>' }) {
		if p == "transport=ws" || p == "transport=wss" {
			return true
		}
	}
	return strings.HasPrefix(flow, "ws/") || strings.HasPrefix(flow, "wss/")
}

// srtp is the policy for who sends a request.
func (p *Plan) srtp(e *SIPRequest) string {
	if p != nil {
		if q := p.peer(e.Peer); q != nil {
			return q.SRTP
		}
	}
	return e.SRTP
}

// ValidSRTP reports whether it is a policy; "" is none.
func ValidSRTP(policy string) bool {
	return policy == "" || policy == SRTPRequired || policy == SRTPPreferred || policy == SRTPOff
}

// checkMedia says what is wrong with how a peer's media is to be carried.
func (p *PlanPeer) checkMedia() string {
	switch {
	case !ValidSRTP(p.SRTP):
		return fmt.Sprintf("srtp %q: required, preferred or off", p.SRTP)
	case p.Media != "" && p.Media != MediaWebRTC:
		return fmt.Sprintf("media %q: webrtc, or nothing for RTP", p.Media)
	case p.Media == MediaWebRTC && p.SRTP == SRTPOff:
		return "media webrtc with srtp off: there is no WebRTC without SRTP"
	}
	return ""
}
