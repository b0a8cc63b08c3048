package codecore

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/pion/sdp/v3"
)

// Sound is what a party's SDP says of its audio: where it listens and which way
// it wants sound to flow (RFC 3264).
type Sound struct {
	Addr     string `json:"addr,omitempty"` // "ip:port"; "" = nothing may be sent to it
	RTCP     string `json:"rtcp,omitempty"` // "ip:port" when it is not the port above
	Payloads []byte `json:"payloads,omitempty"`
	Mux      bool   `json:"mux,omitempty"`  // RFC 5761
	DTMF     byte   `json:"dtmf,omitempty"` // telephone-event (RFC 4733)
	Sends    bool   `json:"sends,omitempty"`
	Hears    bool   `json:"hears,omitempty"`
	// Fax: no sound but T.38 over UDPTL, passed on as it is.
	Fax bool `json:"fax,omitempty"`
	// Coding is how it codes its audio (codingOf): what the other party is told again in an offer of ours. "" = not known.
	Coding string `json:"coding,omitempty"`

	// Line is what else is to be known of its m= line; none: it is plain RTP/AVP. Copies
	// share it, so it is never changed.
	Line *Line `json:"line,omitempty"`
}

// Line is what there is to say of an m= line that is not plain RTP/AVP.
type Line struct {
	Proto  string  `json:"proto,omitempty"`  // "" = RTP/AVP
	Secure *Secure `json:"secure,omitempty"` // how its packets are protected
	Crypto string  `json:"crypto,omitempty"` // tag of the a=crypto that was taken of its offer
	Mid    string  `json:"mid,omitempty"`    // with ICE: its name (RFC 5888), and
	Bundle bool    `json:"bundle,omitempty"` // whether it is in a group (RFC 9143)
}

// secure is how a description wants its packets protected; nil: plain.
func (s *Sound) secure() *Secure {
	if s.Line == nil {
		return nil
	}
	return s.Line.Secure
}

// Errors of an SDP; statusOf has the SIP answer of each.
var (
	ErrSDP         = errors.New("codecore: sdp cannot be read")
	ErrNoAudio     = errors.New("codecore: sdp offers no audio")
	ErrSecure      = errors.New("codecore: sdp asks for secure media that cannot be had")
	ErrPlain       = errors.New("codecore: sdp asks for plain media where SRTP is required")
	ErrMismatch    = errors.New("codecore: answer does not fit the offer")
	ErrCodec       = errors.New("codecore: no common codec")
	ErrSuite       = errors.New("codecore: sdp has no crypto suite of ours")
	ErrFingerprint = errors.New("codecore: sdp has no fingerprint")
	ErrHash        = errors.New("codecore: sdp has no fingerprint by sha-256")
	ErrMux         = errors.New("codecore: sdp has ICE without rtcp-mux")
	ErrICE         = errors.New("codecore: sdp has no ICE credentials")
	ErrSetup       = errors.New("codecore: sdp has no DTLS role that fits")
	ErrFamily      = errors.New("codecore: sdp has an address of the other IP version")
	ErrName        = errors.New("codecore: sdp has a name for an address")
	ErrCandidates  = errors.New("codecore: sdp has too many candidates")
)

const maxSDP = 16 << 10

// said is what a party's SDP says.
type said struct {
	audio *sdp.MediaDescription
	sound Sound
	lines []string // as Leg.Lines
	// actpass: it offers to take either role of DTLS.
	actpass bool
}

// maxLines bounds the m= lines of an SDP.
const maxLines = 16

// describe reads a party's SDP.
func describe(body []byte, w want) (said, error) {
	d, t, spoken, err := hear(body, w)
	if err != nil {
		return said{}, err
	}
	if len(d.MediaDescriptions) > maxLines {
		return t, fmt.Errorf("%w: more than %d media", ErrSDP, maxLines)
	}
	if len(d.MediaDescriptions) > 1 {
		for _, m := range d.MediaDescriptions {
			line := ""
			if m != spoken {
				line = refused(m, t.sound.secure().is(SecureDTLS))
			}
			t.lines = append(t.lines, line)
		}
	}
	return t, nil
}

// answers reports whether s fits an offer of these lines (RFC 3264 6): as many
// lines, the audio in its place.
func (s said) answers(lines []string) error {
	if max(1, len(s.lines)) != max(1, len(lines)) || slices.Index(s.lines, "") != slices.Index(lines, "") {
		return fmt.Errorf("%w: %d media lines for %d", ErrMismatch, max(1, len(s.lines)), max(1, len(lines)))
	}
	return nil
}

// refused is how a line of the other side is written with port 0. Its name in a
// bundle is said again (RFC 9429 5.3.1); in the group it is no more.
func refused(m *sdp.MediaDescription, named bool) string {
	line := m.MediaName.Media + " 0 " + protoOf(m) + " " + strings.Join(m.MediaName.Formats, " ")
	if mid, _ := midOf(&sdp.SessionDescription{}, m); named && mid != "" {
		line += "\r\na=mid:" + mid
	}
	return line
}

// hear reads what is talked on, and the line of the SDP that it is.
func hear(body []byte, w want) (d *sdp.SessionDescription, t said, spoken *sdp.MediaDescription, err error) {
	d = new(sdp.SessionDescription)
	if len(body) > maxSDP {
		return d, t, nil, fmt.Errorf("%w: longer than %d bytes", ErrSDP, maxSDP)
	}
	if err := readSDP(string(body), d); err != nil {
		return d, t, nil, fmt.Errorf("%w: %w", ErrSDP, err)
	}
	found, err := choose(d, w)
	if err != nil {
		return d, t, nil, err
	}
	m := found.media
	spoken, t.audio, t.actpass = m, m, found.actpass
	ice := found.secure.is(SecureDTLS) || w.coding && isWebRTC(d, m)
	if ice {
		if t.audio, err = phoned(m); err != nil {
			return d, t, nil, err
		}
	}
	if t.sound, err = sounds(d, m, t.audio.MediaName.Formats, ice); err != nil {
		return d, t, nil, err
	}
	s := &t.sound
	if w.local != "" && s.Addr != "" && strings.Contains(w.local, ":") != strings.HasPrefix(s.Addr, "[") {
		return d, t, nil, fmt.Errorf("%w: %s", ErrFamily, s.Addr)
	}
	line := Line{Secure: found.secure, Crypto: found.crypto}
	if p := protoOf(m); p != "RTP/AVP" && !s.Fax {
		line.Proto = p
	}
	if found.secure.is(SecureDTLS) {
		line.Mid, line.Bundle = midOf(d, m)
		s.Mux = true
	}
	if line != (Line{}) {
		s.Line = &line
	}
	s.Coding = codingOf(t.audio, s.Payloads)
	return d, t, spoken, nil
}

// sounds reads address, direction and payload types of a line. With ICE, where to
// send is learned from the party's checks.
func sounds(d *sdp.SessionDescription, m *sdp.MediaDescription, formats []string, ice bool) (s Sound, err error) {
	conn := m.ConnectionInformation
	if conn == nil {
		conn = d.ConnectionInformation
	}
	var addr netip.Addr
	port := m.MediaName.Port.Value
	switch {
	case ice:
	case conn == nil || conn.Address == nil:
		return s, fmt.Errorf("%w: no c= line for the audio", ErrSDP)
	case port < 1 || port > 65535:
		return s, fmt.Errorf("%w: port %d", ErrSDP, port)
	default:
		if addr, err = netip.ParseAddr(strings.TrimSpace(conn.Address.Address)); err != nil {
			if isName(conn.Address.Address) {
				return s, fmt.Errorf("%w: %.64q", ErrName, conn.Address.Address)
			}
			return s, fmt.Errorf("%w: c= line has no IP address", ErrSDP)
		}
		if addr.IsMulticast() || addr.Zone() != "" { // nobody that a call is with
			return s, fmt.Errorf("%w: c= line of %s", ErrSDP, addr)
		}
	}
	s.Sends, s.Hears = true, true
	for _, a := range slices.Concat(d.Attributes, m.Attributes) { // the media's word comes last
		switch a.Key {
		case "sendrecv":
			s.Sends, s.Hears = true, true
		case "sendonly":
			s.Sends, s.Hears = true, false
		case "recvonly":
			s.Sends, s.Hears = false, true
		case "inactive":
			s.Sends, s.Hears = false, false
		case "rtcp-mux":
			s.Mux = true
		case "rtcp":
			if !ice {
				s.RTCP = rtcpAddr(addr, a.Value)
			}
		case "rtpmap":
			pt, enc, _ := strings.Cut(a.Value, " ")
			if strings.HasPrefix(strings.ToLower(enc), "telephone-event/8000") {
				if n, err := strconv.ParseUint(pt, 10, 7); err == nil {
					s.DTMF = byte(n)
				}
			}
		}
	}
	for _, f := range formats {
		if n, err := strconv.ParseUint(f, 10, 7); err == nil {
			s.Payloads = append(s.Payloads, byte(n))
		}
	}
	if s.Fax = isFax(m); s.Fax {
		s.Payloads = nil
	} else if len(s.Payloads) == 0 {
		return s, fmt.Errorf("%w: no payload type in the m= line", ErrSDP)
	}
	switch {
	case ice:
	case addr.IsUnspecified(): // the hold of RFC 2543
		s.Hears = false
	default:
		s.Addr = netip.AddrPortFrom(addr.Unmap(), uint16(port)).String()
	}
	return s, nil
}

// isName reports whether an address is a domain name, which RFC 8866 5.7 allows:
// nothing is wrong with it, but nobody here looks names up.
func isName(addr string) bool {
	labels := strings.Trim(addr, "0123456789.-")
	return labels != "" && strings.Trim(strings.ToLower(addr), "abcdefghijklmnopqrstuvwxyz0123456789.-") == ""
}

// rtcpAddr reads a=rtcp:53020 IN IP4 192.0.2.1 (RFC 3605).
func rtcpAddr(addr netip.Addr, value string) string {
	w := strings.Fields(value)
	if len(w) == 0 {
		return ""
	}
	port, err := strconv.ParseUint(w[0], 10, 16)
	if err != nil || port == 0 {
		return ""
	}
	if len(w) == 4 {
		if a, err := netip.ParseAddr(w[3]); err == nil {
			addr = a
		}
	}
	if addr.IsUnspecified() {
		return ""
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)).String()
}

// passed are the attributes that cross the switch: those that say how the audio
// is coded. Addresses, keys and candidates never do.
var passed = []string{"rtpmap", "fmtp", "ptime", "maxptime", "silenceSupp"}

// A shape is how an SDP of ours carries a party's words to the listener.
type shape struct {
	proto  string  // of the m= line; "" = RTP/AVP
	secure *Secure // nil: plain
	answer bool
	crypto string // tag of the a=crypto that is answered
	mid    string
	bundle bool
}

// shape is that of an offer.
func (a *Ask) shape() shape {
	if a == nil {
		return shape{}
	}
	f := shape{proto: a.Proto, mid: a.Mid, bundle: a.Mid != ""}
	if a.Kind != "" {
		f.secure = &Secure{Kind: a.Kind, Own: a.Own, Suite: a.Suite}
	}
	return f
}

// shape is that of an answer to the party's offer.
func (s *Sound) shape() shape {
	if s == nil || s.Line == nil {
		return shape{answer: true}
	}
	l := s.Line
	return shape{proto: l.Proto, secure: l.Secure, answer: true, crypto: l.Crypto, mid: l.Mid, bundle: l.Bundle}
}

// write says a party's words to the other: same audio coding in the same order,
// so that nothing is transcoded; our address and port; every other line of the
// session with the listener refused with port 0. The o= line is not in it: its
// version depends on the rest.
func (s said) write(sound Sound, lines []string, ours MediaEndpoint, f shape) string {
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\r\n", a...) }
	webrtc := f.secure.is(SecureDTLS)
	line("s=-")
	line("c=IN %s", network(ours.Addr))
	line("t=0 0")
	if webrtc {
		f.session(line)
	}
	if len(lines) == 0 {
		lines = []string{""}
	}
	for _, other := range lines {
		if other != "" {
			line("m=%s", other)
			continue
		}
		media, proto := "audio", f.proto
		if sound.Fax {
			media, proto = "image", "udptl"
		} else if proto == "" {
			proto = "RTP/AVP"
		}
		line("m=%s %d %s %s", media, ours.Port, proto, strings.Join(s.audio.MediaName.Formats, " "))
		switch {
		case webrtc:
			f.transport(line, ours, sound.Sends)
		case f.secure.is(SecureSDES):
			f.cryptoLines(line)
		}
		for _, a := range s.audio.Attributes {
			switch {
			case !crosses(a.Key) || hasWords(a.Value):
			case a.Value == "":
				line("a=%s", a.Key)
			default:
				line("a=%s:%s", a.Key, a.Value)
			}
		}
		if sound.Fax {
			continue // it flows both ways
		}
		if sound.Mux || webrtc {
			line("a=rtcp-mux")
		}
		line("a=%s", sound.direction())
	}
	return b.String()
}

// hasWords reports whether a party wrote what only we may: the edge would put a
// secret in its place (and has escaped it where it came in).
func hasWords(v string) bool { return strings.Contains(v, "{own:") || strings.Contains(v, "{sealed:") }

// to fits an answer to its offer: sound flows only where the offer lets it
// (RFC 3264 6.1), rtcp-mux only if offered (RFC 5761 5.1.1).
func (s Sound) to(offer *Sound) Sound {
	if offer == nil {
		return s
	}
	s.Sends, s.Hears, s.Mux = s.Sends && offer.Hears, s.Hears && offer.Sends, s.Mux && offer.Mux
	return s
}

func (s Sound) direction() string {
	switch {
	case s.Sends && s.Hears:
		return "sendrecv"
	case s.Sends:
		return "sendonly"
	case s.Hears:
		return "recvonly"
	}
	return "inactive"
}

// network writes an address as c= and o= lines want it: "IP4 192.0.2.1".
func network(addr string) string {
	if strings.Contains(addr, ":") {
		return "IP6 " + addr
	}
	return "IP4 " + addr
}
