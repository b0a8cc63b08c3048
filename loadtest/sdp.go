package loadtest

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Directions of a media stream (RFC 4566 section 6).
const (
	sendRecv = "sendrecv"
	sendOnly = "sendonly"
	recvOnly = "recvonly"
	inactive = "inactive"
)

// payload type of telephone-event that the rig offers (RFC 4733).
const dtmfType = 101

// session is what the rig reads of an SDP with one audio stream.
type session struct {
	addr      netip.AddrPort
	direction string
}

// writeSDP says where our sound is; version must grow with every change.
func writeSDP(at netip.AddrPort, direction string, version int, mux bool) []byte {
	var w builder
	w.line("v=0")
	family := "IP4"
	if at.Addr().Is6() {
		family = "IP6"
	}
	w.line(fmt.Sprintf("o=rig %d %d IN %s %s", at.Port(), version, family, at.Addr()))
	w.line("s=-")
	w.line("c=IN ", family, " ", at.Addr().String())
	w.line("t=0 0")
	w.line(fmt.Sprintf("m=audio %d RTP/AVP 0 %d", at.Port(), dtmfType))
	w.line("a=rtpmap:0 PCMU/8000")
	w.line(fmt.Sprintf("a=rtpmap:%d telephone-event/8000", dtmfType))
	w.line(fmt.Sprintf("a=fmtp:%d 0-15", dtmfType))
	w.line("a=ptime:20")
	if mux {
		w.line("a=rtcp-mux")
	}
	w.line("a=", direction)
	return w.b.Bytes()
}

// readSDP returns the first audio stream of an SDP; ok is false without one.
func readSDP(b []byte) (s session, ok bool) {
	s.direction = sendRecv
	var ip netip.Addr
	inAudio := false
	port := 0
	for _, l := range strings.Split(string(b), "\n") {
		l = strings.TrimRight(l, "\r")
		switch {
		case strings.HasPrefix(l, "m="):
			if port != 0 {
				inAudio = false
				continue
			}
			f := strings.Fields(l[2:])
			if len(f) > 1 && f[0] == "audio" {
				port, _ = strconv.Atoi(f[1])
				inAudio = true
			}
		case (strings.HasPrefix(l, "c=IN IP4 ") || strings.HasPrefix(l, "c=IN IP6 ")) && (inAudio || port == 0):
			if a, err := netip.ParseAddr(strings.TrimSpace(l[9:])); err == nil {
				ip = a
			}
		case inAudio || port == 0:
			switch d := strings.TrimPrefix(l, "a="); d {
			case sendRecv, sendOnly, recvOnly, inactive:
				s.direction = d
			}
		}
	}
	s.addr = netip.AddrPortFrom(ip, uint16(port))
	return s, ip.IsValid() && port != 0
}

// answerTo returns the direction that answers an offered one (RFC 3264 section 6.1).
func answerTo(direction string) string {
	switch direction {
	case sendOnly:
		return recvOnly
	case recvOnly:
		return sendOnly
	}
	return direction
}
