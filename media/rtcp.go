package media

import "encoding/binary"

// RTCP packet types (RFC 3550 section 12.1, RFC 4585, RFC 3611).
const (
	rtcpSR    = 200
	rtcpRR    = 201
	rtcpSDES  = 202
	rtcpBYE   = 203
	rtcpRTPFB = 205
	rtcpPSFB  = 206
	rtcpXR    = 207
)

// control relays one RTCP datagram from leg g to its peer, and reads it. Hold
// does not stop RTCP (RFC 3264 section 5.1).
func (l *loop) control(g *leg, b []byte, from *sockaddr, now int64) {
	if !validRTCP(b) {
		l.drop(g, dropMalformed)
		return
	}
	switch {
	case g.sec != nil: // its seal has told who it is
		if !g.mux && *from != g.rtcpTo {
			g.rtcpTo, g.rtcpSure = *from, true
			l.markDirty(g.call)
		}
	case g.mux:
		if *from != *g.latch.dest() {
			l.drop(g, dropStranger)
			return
		}
	case *from == g.rtcpTo && !from.isZero():
		g.rtcpSure = true
	case !g.rtcpSure && !g.latch.addr.isZero() && from.sameHost(&g.latch.addr):
		// The port behind a NAT: from the host whose RTP we believe.
		g.rtcpTo, g.rtcpSure = *from, true
		l.markDirty(g.call)
	default:
		l.drop(g, dropStranger)
		return
	}
	g.heard, g.reported = now, false
	g.counts.rtcpIn++
	l.total.rtcpIn++
	to := g.peer
	if to == nil || !to.told {
		return
	}
	g.shiftRTCP(b, to)
	fd, dest := to.rtcp.fd, &to.rtcpTo
	if to.mux {
		fd, dest = to.rtp.fd, to.latch.dest()
	}
	if dest.isZero() {
		return
	}
	if to.sec != nil {
		if b = l.seal(to, b, true); b == nil {
			return
		}
	}
	if errno := sendTo(fd, b, dest); errno != 0 {
		l.drop(to, dropSend)
		return
	}
	to.counts.rtcpOut++
	l.total.rtcpOut++
}

// shiftRTCP walks a compound packet from g that goes to its peer: what it says
// of g's own stream is said of the stream the peer hears, what it says of the
// peer's stream is said of the one the peer sends. Reports on ours are read.
func (g *leg) shiftRTCP(b []byte, to *leg) {
	for len(b) >= 4 {
		n := 4 + 4*int(binary.BigEndian.Uint16(b[2:]))
		p := b[:n]
		b = b[n:]
		count := int(p[0] & 31)
		switch p[1] {
		case rtcpSR:
			if len(p) >= 28 {
				to.out.outward(p[4:])
				binary.BigEndian.PutUint32(p[16:], binary.BigEndian.Uint32(p[16:])+to.out.tsOff)
				g.reports(p[28:], count)
			}
		case rtcpRR:
			if len(p) >= 8 {
				to.out.outward(p[4:])
				g.reports(p[8:], count)
			}
		case rtcpBYE:
			for i := 0; i < count && 8+4*i <= len(p); i++ {
				to.out.outward(p[4+4*i:])
			}
		case rtcpSDES:
			to.out.chunks(p[4:], count)
		case rtcpRTPFB, rtcpPSFB:
			if len(p) >= 12 {
				to.out.outward(p[4:])
				g.out.inward(p[8:])
			}
		case rtcpXR:
			if len(p) >= 8 {
				to.out.outward(p[4:])
			}
		}
	}
}

// reports reads the report blocks of the party about the stream it hears and
// turns them to what the other party sent (RFC 3550 section 6.4.1).
func (g *leg) reports(p []byte, count int) {
	for ; count > 0 && len(p) >= 24; count, p = count-1, p[24:] {
		if !g.out.started || binary.BigEndian.Uint32(p) != g.out.out {
			continue
		}
		g.farBlock = true
		g.farLost = int32(binary.BigEndian.Uint32(p[4:])<<8) >> 8 // 24 bits, signed
		g.farJit = binary.BigEndian.Uint32(p[12:])
		g.out.inward(p)
		highest := binary.BigEndian.Uint32(p[8:])
		low := uint16(highest) - g.out.seqOff
		binary.BigEndian.PutUint32(p[8:], highest&0xffff0000|uint32(low))
	}
}

// outward turns the sender's SSRC at b into the one its receiver hears.
func (s *stream) outward(b []byte) {
	if s.shifted && binary.BigEndian.Uint32(b) == s.in {
		binary.BigEndian.PutUint32(b, s.out)
	}
}

// inward turns the SSRC that the receiver hears into the sender's.
func (s *stream) inward(b []byte) {
	if s.shifted && binary.BigEndian.Uint32(b) == s.out {
		binary.BigEndian.PutUint32(b, s.in)
	}
}

// chunks turns the SSRCs of an SDES packet (RFC 3550 section 6.5): items end with
// a zero byte and are padded to a word.
func (s *stream) chunks(p []byte, count int) {
	for ; count > 0 && len(p) >= 8; count-- {
		s.outward(p)
		i := 4
		for i < len(p) && p[i] != 0 {
			if i+1 >= len(p) {
				return
			}
			i += 2 + int(p[i+1])
		}
		i = (i + 4) &^ 3 // the zero byte, then to the next word
		if i >= len(p) {
			return
		}
		p = p[i:]
	}
}

// validRTCP checks a compound packet: version, a first type of SR or RR (or a
// reduced-size feedback packet, RFC 5506), and lengths that add up (A.2).
func validRTCP(b []byte) bool {
	if len(b) < 8 || len(b)%4 != 0 {
		return false
	}
	for len(b) > 0 {
		if len(b) < 4 || b[0]>>6 != 2 || b[1] < 192 || b[1] > 223 {
			return false
		}
		n := 4 + 4*int(binary.BigEndian.Uint16(b[2:]))
		if n > len(b) {
			return false
		}
		b = b[n:]
	}
	return true
}
