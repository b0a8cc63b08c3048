package codecore

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/pion/sdp/v3"
)

// What browsers speak (RFC 8827, RFC 9429): ICE, of which we are the lite side
// (RFC 8445 2.5) and have one address; SRTP with keys from a DTLS handshake (RFC
// 5763); RTP and RTCP on one port; one group of media lines on one transport (RFC
// 9143), of which we take the audio alone. Candidates of the party need not be
// known: its checks say where it is.

const (
	maxCandidates = 64
	minUfrag      = 4 // RFC 8445 5.3
	maxUfrag      = 256
	maxMid        = 32
)

// identity reads ICE credentials, fingerprint and role of a line.
func identity(d *sdp.SessionDescription, m *sdp.MediaDescription, answer bool) (choice, error) {
	found := choice{media: m, secure: &Secure{Kind: SecureDTLS}}
	s := found.secure
	hash, setup, mux, pwd, candidates := "", "", false, "", 0
	for _, a := range transportOf(d, m) {
		switch a.Key {
		case "ice-ufrag":
			s.Ufrag = a.Value
		case "ice-pwd":
			pwd = a.Value
		case "ice-lite":
			return found, fmt.Errorf("%w: both sides are lite", ErrICE)
		case "fingerprint":
			name, _, _ := strings.Cut(a.Value, " ")
			if f, ok := fingerprintOf(a.Value); ok && s.Fingerprint == "" {
				s.Fingerprint = f
			}
			hash = name
		case "setup":
			setup = strings.ToLower(strings.TrimSpace(a.Value))
		case "rtcp-mux":
			mux = true
		case "candidate":
			candidates++
		}
	}
	text, sealed := unsealed(pwd)
	s.Pwd = text
	switch {
	case hash == "":
		return found, ErrFingerprint
	case s.Fingerprint == "":
		return found, fmt.Errorf("%w: %.16q", ErrHash, hash)
	case !mux:
		return found, ErrMux
	case !sealed || !isUfrag(s.Ufrag):
		return found, ErrICE
	case candidates > maxCandidates:
		return found, ErrCandidates
	}
	switch setup {
	case "active":
	case "passive":
		s.Active = true
	case "actpass":
		found.actpass = true
	}
	if setup != "active" && setup != "passive" && (setup != "actpass" || answer) { // RFC 8842 5.1
		return found, fmt.Errorf("%w: %.16q", ErrSetup, setup)
	}
	return found, nil
}

// transportOf are a line's attributes after the session's and, of a line that
// leaves them to another of its bundle, that one's.
func transportOf(d *sdp.SessionDescription, m *sdp.MediaDescription) []sdp.Attribute {
	all := d.Attributes
	if _, bundled := m.Attribute("bundle-only"); bundled {
		for _, o := range d.MediaDescriptions {
			if _, ok := o.Attribute("ice-ufrag"); ok && o != m {
				all = slices.Concat(all, o.Attributes)
				break
			}
		}
	}
	own := slices.Clone(m.Attributes)
	if _, ok := m.Attribute("fingerprint"); ok { // it replaces the session's
		all = slices.DeleteFunc(slices.Clone(all), func(a sdp.Attribute) bool { return a.Key == "fingerprint" })
	}
	return slices.Concat(all, own)
}

// fingerprintOf reads "sha-256 AB:…" (RFC 8122 5), the one hash that all have to
// know; false for any other.
func fingerprintOf(v string) (string, bool) {
	name, value, _ := strings.Cut(v, " ")
	value = strings.ToUpper(strings.TrimSpace(value))
	b, err := hex.DecodeString(strings.ReplaceAll(value, ":", ""))
	if !strings.EqualFold(name, "sha-256") || err != nil || len(b) != 32 || len(value) != 3*32-1 {
		return "", false
	}
	return "sha-256 " + value, true
}

// isUfrag reports whether it is made of ice-char (RFC 8839 5.4).
func isUfrag(s string) bool {
	return len(s) >= minUfrag && len(s) <= maxUfrag && strings.Trim(s, iceChars) == ""
}

const iceChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// midOf is a line's name in a bundle, and whether it is in one.
func midOf(d *sdp.SessionDescription, m *sdp.MediaDescription) (mid string, bundled bool) {
	mid, _ = m.Attribute("mid")
	if mid == "" || len(mid) > maxMid || strings.ContainsAny(mid, "{}\" \t\r\n") {
		return "", false
	}
	for _, a := range d.Attributes {
		if w := strings.Fields(a.Value); a.Key == "group" && len(w) > 1 && w[0] == "BUNDLE" && slices.Contains(w[1:], mid) {
			return mid, true
		}
	}
	return mid, false
}

// session are the lines in front of the m= lines.
func (f *shape) session(line func(string, ...any)) {
	if f.bundle {
		line("a=group:BUNDLE %s", f.mid)
	}
	line("a=ice-lite")
}

// transport are the lines of the audio that say how it is reached and protected.
func (f *shape) transport(line func(string, ...any), ours MediaEndpoint, sends bool) {
	s := f.secure
	if f.mid != "" {
		line("a=mid:%s", f.mid)
	}
	line("a=ice-ufrag:{own:ufrag:%s}", s.Own)
	line("a=ice-pwd:{own:pwd:%s}", s.Own)
	line("a=fingerprint:{own:fingerprint}")
	switch {
	case !f.answer:
		line("a=setup:actpass")
	case s.Active:
		line("a=setup:active")
	default:
		line("a=setup:passive")
	}
	line("a=candidate:1 1 UDP 2130706431 %s %d typ host", ours.Addr, ours.Port)
	line("a=end-of-candidates")
	if sends { // a stream of its own: without one, some make none
		line("a=msid:switch audio")
	}
}
