package media

import "encoding/binary"

// opaque relays one datagram of a leg that has no RTP: a fax by T.38 over UDPTL.
// Nothing in it is looked at but the sequence number that begins it (T.38 9.1.1),
// by which a source is learned. Early packets do not wait: UDPTL repeats what it
// said in the packets after.
func (l *loop) opaque(g *leg, b []byte, from *sockaddr, now int64) {
	if len(b) < 4 {
		l.drop(g, dropMalformed)
		return
	}
	v, moved := g.latch.admit(from, 0, binary.BigEndian.Uint16(b), now)
	if moved {
		l.markDirty(g.call)
	}
	to := g.peer
	switch {
	case v == stranger:
		l.drop(g, dropStranger)
		return
	case v == early:
		l.drop(g, dropEarly)
		return
	}
	g.heard, g.reported = now, false
	switch {
	case to == nil || !to.told || !to.opaque:
		l.drop(g, dropEarly)
	case !g.recv || !to.send:
		l.drop(g, dropHeld)
	case to.latch.dest().isZero():
		l.drop(g, dropNowhere)
	default:
		g.counts.packetsIn++
		g.counts.bytesIn += uint64(len(b))
		l.total.packetsIn++
		l.total.bytesIn += uint64(len(b))
		g.relayed = true
		l.transmit(to, b)
	}
}
