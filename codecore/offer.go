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
	Mux      bool   `json:"mux,omitempty"`  // RFC 5761
	Payloads []byte `json:"payloads,omitempty"`
	DTMF     byte   `json:"dtmf,omitempty"` // telephone-event (RFC 4733)
	Sends    bool   `json:"sends,omitempty"`
	Hears    bool   `json:"hears,omitempty"`
	// Fax: no sound but T.38 over UDPTL, passed on as it is.
	Fax bool `json:"fax,omitempty"`
	// Coding is how it codes its audio (codingOf): what the other party is told again in an offer of ours. "" = not known.
	Coding string `json:"coding,omitempty"`
}

// Errors of an SDP, each with its SIP answer.
var (
	ErrSDP      = errors.New("codecore: sdp cannot be read")            // 400
	ErrNoAudio  = errors.New("codecore: sdp offers no plain audio")     // 488
	ErrSecure   = errors.New("codecore: sdp asks for secure media")     // 488: not yet
	ErrMismatch = errors.New("codecore: answer does not fit the offer") // 488
)

const maxSDP = 16 << 10

// said is what a party's SDP says.
type said struct {
	audio *sdp.MediaDescription
	sound Sound
	lines []string // as Leg.Lines
}

// maxLines bounds the m= lines of an SDP.
const maxLines = 16

// describe reads a party's SDP.
func describe(body []byte) (said, error) {
	d, s, err := hear(body)
	if err != nil {
		return said{}, err
	}
	t := said{audio: audio(d), sound: s}
	if len(d.MediaDescriptions) > maxLines {
		return t, fmt.Errorf("%w: more than %d media", ErrSDP, maxLines)
	}
	if len(d.MediaDescriptions) > 1 {
		for _, m := range d.MediaDescriptions {
			line := ""
			if m != t.audio {
				line = m.MediaName.Media + " 0 " + strings.Join(m.MediaName.Protos, "/") + " " + strings.Join(m.MediaName.Formats, " ")
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

func hear(body []byte) (*sdp.SessionDescription, Sound, error) {
	var d sdp.SessionDescription
	var s Sound
	if len(body) > maxSDP {
		return nil, s, fmt.Errorf("%w: longer than %d bytes", ErrSDP, maxSDP)
	}
	if err := readSDP(string(body), &d); err != nil {
		return nil, s, fmt.Errorf("%w: %v", ErrSDP, err) //nolint:errorlint // pion's errors mean nothing to callers
	}
	m := audio(&d)
	if m == nil {
		for _, m := range d.MediaDescriptions {
			if m.MediaName.Media == "audio" && m.MediaName.Port.Value != 0 {
				return nil, s, ErrSecure
			}
		}
		return nil, s, ErrNoAudio
	}
	conn := m.ConnectionInformation
	if conn == nil {
		conn = d.ConnectionInformation
	}
	if conn == nil || conn.Address == nil {
		return nil, s, fmt.Errorf("%w: no c= line for the audio", ErrSDP)
	}
	addr, err := netip.ParseAddr(strings.TrimSpace(conn.Address.Address))
	if err != nil {
		return nil, s, fmt.Errorf("%w: c= line has no IP address", ErrSDP)
	}
	port := m.MediaName.Port.Value
	if port < 1 || port > 65535 {
		return nil, s, fmt.Errorf("%w: port %d", ErrSDP, port)
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
			s.RTCP = rtcpAddr(addr, a.Value)
		case "rtpmap":
			pt, enc, _ := strings.Cut(a.Value, " ")
			if strings.HasPrefix(strings.ToLower(enc), "telephone-event/8000") {
				if n, err := strconv.ParseUint(pt, 10, 7); err == nil {
					s.DTMF = byte(n)
				}
			}
		}
	}
	for _, f := range m.MediaName.Formats {
		if n, err := strconv.ParseUint(f, 10, 7); err == nil {
			s.Payloads = append(s.Payloads, byte(n))
		}
	}
	if s.Fax = isFax(m); s.Fax {
		s.Payloads = nil
	} else if len(s.Payloads) == 0 {
		return nil, s, fmt.Errorf("%w: no payload type in the m= line", ErrSDP)
	}
	if addr.IsUnspecified() { // the hold of RFC 2543
		s.Hears = false
	} else {
		s.Addr = netip.AddrPortFrom(addr.Unmap(), uint16(port)).String()
	}
	s.Coding = codingOf(m, s.Payloads)
	return &d, s, nil
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

// audio is the first plain audio line that is not refused, else the fax.
func audio(d *sdp.SessionDescription) *sdp.MediaDescription {
	for _, m := range d.MediaDescriptions {
		if m.MediaName.Media == "audio" && m.MediaName.Port.Value != 0 &&
			slices.Equal(m.MediaName.Protos, []string{"RTP", "AVP"}) {
			return m
		}
	}
	for _, m := range d.MediaDescriptions { // T.38 in place of the audio (T.38 annex D)
		if isFax(m) && m.MediaName.Port.Value != 0 {
			return m
		}
	}
	return nil
}

// passed are the attributes that cross the switch: those that say how the audio
// is coded. Addresses, keys and candidates never do.
var passed = []string{"rtpmap", "fmtp", "ptime", "maxptime", "silenceSupp"}

// write says a party's words to the other: same audio coding in the same order,
// so that nothing is transcoded; our address and port; every other line of the
// session with the listener refused with port 0. The o= line is not in it: its
// version depends on the rest.
func (s said) write(sound Sound, lines []string, ours MediaEndpoint) string {
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\r\n", a...) }
	line("s=-")
	line("c=IN %s", network(ours.Addr))
	line("t=0 0")
	if len(lines) == 0 {
		lines = []string{""}
	}
	for _, other := range lines {
		if other != "" {
			line("m=%s", other)
			continue
		}
		m := s.audio.MediaName
		line("m=%s %d %s %s", m.Media, ours.Port, strings.Join(m.Protos, "/"), strings.Join(m.Formats, " "))
		for _, a := range s.audio.Attributes {
			switch {
			case !crosses(a.Key):
			case a.Value == "":
				line("a=%s", a.Key)
			default:
				line("a=%s:%s", a.Key, a.Value)
			}
		}
		if sound.Fax {
			continue // it flows both ways
		}
		if sound.Mux {
			line("a=rtcp-mux")
		}
		line("a=%s", sound.direction())
	}
	return b.String()
}

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
