package media

import (
	"encoding/binary"
)

// packet treats one datagram that came to a leg's socket. b is changed in place.
// Anything may be in it.
func (l *loop) packet(p *port, b []byte, from *sockaddr, now int64) {
	g := p.leg
	if g == nil {
		l.total.dropped[dropIdle]++
		return
	}
	if l.own.ring(g, from, p.rtcp || g.mux && isRTCP(b)) {
		l.drop(g, dropLoop)
		return
	}
	if g.opaque && !p.rtcp {
		l.opaque(g, b, from, now)
		return
	}
	// RFC 7983: the first byte tells RTP and RTCP (128-191) from STUN and DTLS.
	if len(b) < 8 || b[0]>>6 != 2 {
		l.other(g, p, b, from, now)
		return
	}
	control := isRTCP(b)
	if p.rtcp != control && (p.rtcp || !g.mux) || p.rtcp && g.mux {
		l.drop(g, dropForeign)
		return
	}
	if g.sec != nil {
		var newest, ok bool
		if b, newest, ok = l.open(g, b, control, from, now); !ok {
			return
		}
		if newest && g.sec.ice == nil && g.latch.addr != *from {
			g.latch.settle(*from, true) // who can seal is the party
			g.latch.until = 0
			l.markDirty(g.call)
			l.unpark(g, now)
		}
	}
	if control {
		l.control(g, b, from, now)
	} else {
		l.rtp(g, b, from, now)
	}
}

// isRTCP tells RTCP from RTP on one port (RFC 5761 section 4).
func isRTCP(b []byte) bool { return len(b) > 1 && b[1] >= 192 && b[1] <= 223 }

// other treats what is neither RTP nor RTCP.
func (l *loop) other(g *leg, p *port, b []byte, from *sockaddr, now int64) {
	switch {
	case len(b) < 8 || p.rtcp:
		l.drop(g, dropForeign)
	case b[0] < 4:
		l.stun(g, b, from, now)
	case b[0] >= 20 && b[0] <= 63:
		l.dtls(g, b, from, now)
	default:
		l.drop(g, dropForeign)
	}
}

// rtp relays one RTP packet from leg g to its peer.
func (l *loop) rtp(g *leg, b []byte, from *sockaddr, now int64) {
	if !validRTP(b) {
		l.drop(g, dropMalformed)
		return
	}
	pt := b[1] & 127
	if g.told && !g.isTaken(pt) {
		l.drop(g, dropPayload)
		return
	}
	ssrc, seq := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint16(b[2:])
	v, moved := pass, false
	if g.rtp.before != nil && g.sec == nil && *from != g.latch.sdp && g.rtp.before.has(from, ssrc) {
		l.drop(g, dropBefore)
		return
	}
	if g.sec == nil { // otherwise its seal has told who it is
		v, moved = g.latch.admit(from, ssrc, seq, now)
	}
	if moved {
		l.markDirty(g.call)
	}
	switch v {
	case stranger:
		l.drop(g, dropStranger)
		return
	case early:
		l.park(g, b, from, now, dropEarly)
		return
	}
	g.heard, g.reported = now, false
	if moved && len(g.early) > 0 {
		l.unpark(g, now) // what was on probation goes first
	}
	to := g.peer
	if g.echo {
		to = g
		if !g.out.started {
			g.out.own(g.call.id, g.id, seq, binary.BigEndian.Uint32(b[4:]))
			g.out.in = ssrc
		}
	}
	switch {
	case g.tone != nil:
		l.note(g, b, pt, now) // nobody hears it
		return
	case !g.told || to == nil || !to.told:
		l.park(g, b, from, now, dropEarly)
		return
	case !g.recv || !to.send:
		if g.relayed {
			l.note(g, b, pt, now)
		}
		l.park(g, b, from, now, dropHeld)
		return
	case to.latch.dest().isZero():
		l.park(g, b, from, now, dropNowhere)
		return
	}
	l.note(g, b, pt, now)
	if to.sec != nil {
		if !l.follows(to, b, pt, now) {
			return
		}
	}
	if b[0]&0x10 != 0 && (g.sec != nil || to.sec != nil) {
		b = strip(b)
	}
	ok, turned := to.out.pass(b, clockRate(pt), now)
	if !ok {
		l.drop(g, dropStraggler)
		return
	}
	if turned {
		l.markDirty(g.call)
	}
	if to.mapTo != nil {
		b[1] = b[1]&128 | to.mapTo[pt]
	}
	g.relayed = true
	l.transmit(to, b)
}

// follows reports whether a secure leg's stream can take a packet up. Of another
// numbering it is taken at the second packet, as a turn of the stream.
func (l *loop) follows(to *leg, b []byte, pt byte, now int64) bool {
	ssrc, seq := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint16(b[2:])
	if to.sec.tx == nil || !to.out.started || ssrc != to.out.in {
		return true
	}
	far, sure := to.sec.tx.jumped(seq + to.out.seqOff)
	switch {
	case far && sure:
		to.out.turn(ssrc, seq, binary.BigEndian.Uint32(b[4:]), clockRate(pt), now)
		l.markDirty(to.call)
	case far:
		l.drop(to, dropReplay)
		return false
	}
	return true
}

// note counts a packet of the party.
func (l *loop) note(g *leg, b []byte, pt byte, now int64) {
	g.counts.packetsIn++
	g.counts.bytesIn += uint64(len(b))
	l.total.packetsIn++
	l.total.bytesIn += uint64(len(b))
	g.in.note(b, pt, pt != g.dtmf, now)
}

// transmit sends an RTP packet to the leg's party.
func (l *loop) transmit(g *leg, b []byte) {
	n := len(b)
	if g.sec != nil {
		if b = l.seal(g, b, false); b == nil {
			return
		}
	}
	if errno := sendTo(g.rtp.fd, b, g.latch.dest()); errno != 0 {
		l.drop(g, dropSend)
		return
	}
	g.counts.packetsOut++
	g.counts.bytesOut += uint64(n)
	l.total.packetsOut++
	l.total.bytesOut += uint64(n)
}

// park keeps a packet for the order that may let it pass; why counts it when it
// is given up. Once the leg's sound has flowed nothing waits: who is held later
// is not heard later.
func (l *loop) park(g *leg, b []byte, from *sockaddr, now int64, why dropReason) {
	if g.relayed {
		l.drop(g, why)
		return
	}
	var room []byte
	if len(g.early) == parkMost {
		l.drop(g, why)
		room = g.early[0].b[:0]
		copy(g.early, g.early[1:])
		g.early = g.early[:parkMost-1]
	}
	g.early = append(g.early, parked{b: append(room, b...), from: *from, at: now})
}

// unpark treats the waiting packets again, after an order or when the latch has
// found its source.
func (l *loop) unpark(g *leg, now int64) {
	waiting := g.early
	g.early = nil
	for i := range waiting {
		w := &waiting[i]
		if now-w.at > l.parkFor {
			l.drop(g, dropEarly)
			continue
		}
		l.rtp(g, w.b, &w.from, w.at)
	}
}

func (l *loop) drop(g *leg, why dropReason) {
	g.counts.dropped[why]++
	l.total.dropped[why]++
}

// validRTP checks what RFC 3550 A.1 can check without history: the fixed header,
// CSRC list, extension and padding fit into the packet.
func validRTP(b []byte) bool {
	if len(b) < 12 || b[0]>>6 != 2 {
		return false
	}
	end := 12 + 4*int(b[0]&15)
	if b[0]&0x10 != 0 {
		if len(b) < end+4 {
			return false
		}
		end += 4 + 4*int(binary.BigEndian.Uint16(b[end+2:]))
	}
	if b[0]&0x20 != 0 {
		pad := int(b[len(b)-1])
		if pad == 0 {
			return false
		}
		end += pad
	}
	return end <= len(b)
}
