package media

import (
	"encoding/binary"
	"math/bits"
)

// A step further than these is another beginning, not loss or disorder
// (MAX_DROPOUT and MAX_MISORDER of RFC 3550 A.1).
const (
	dropout  = 3000
	misorder = 100
)

// stream is one RTP stream as its receiver hears it. Numbers pass unchanged, so
// that losses stay visible, until the sender behind it changes; from then on its
// numbers are shifted so that the receiver hears one stream (RFC 3550 section 5.1).
type stream struct {
	in, out uint32 // SSRC that comes and that goes
	seqOff  uint16 // added to the sequence numbers that come
	tsOff   uint32 // added to the timestamps
	started bool
	shifted bool // anything differs from what comes

	seq     uint16 // highest that went
	ts      uint32 // of seq
	at      int64  // when it went
	old     uint32 // SSRC before the last change
	changed int64  // when it changed
}

// straggle is how long packets of the previous sender count as late ones of it
// and not as another change, in ns.
const straggle = 200e6

// pass shifts the header in b in place. It reports whether the packet may go and
// whether the sender has changed. clock is in Hz.
func (s *stream) pass(b []byte, clock uint32, now int64) (ok, turned bool) {
	ssrc := binary.BigEndian.Uint32(b[8:])
	seq := binary.BigEndian.Uint16(b[2:])
	ts := binary.BigEndian.Uint32(b[4:])
	if ssrc != s.in || !s.started {
		if s.started && ssrc == s.old && now-s.changed < straggle {
			return false, false
		}
		s.turn(ssrc, seq, ts, clock, now)
		turned = true
	}
	seq += s.seqOff
	ts += s.tsOff
	if s.shifted {
		binary.BigEndian.PutUint16(b[2:], seq)
		binary.BigEndian.PutUint32(b[4:], ts)
		binary.BigEndian.PutUint32(b[8:], s.out)
	}
	if ahead := int16(seq - s.seq); ahead > 0 || ahead < -misorder || turned {
		s.seq, s.ts, s.at = seq, ts, now
	}
	return true, turned
}

// turn takes up another sender: next sequence number, and a timestamp further by
// the time that went by.
func (s *stream) turn(ssrc uint32, seq uint16, ts, clock uint32, now int64) {
	if !s.started {
		*s = stream{in: ssrc, out: ssrc, started: true}
		return
	}
	s.old, s.changed = s.in, now
	gone := max(now-s.at, 20e6) // at least one usual frame
	step := uint32(uint64(gone) * uint64(clock) / 1e9)
	s.in = ssrc
	s.seqOff = s.seq + 1 - seq
	s.tsOff = s.ts + step - ts
	s.shifted = true
}

// receiver counts what comes from a leg (RFC 3550 A.1, A.3 and A.8).
type receiver struct {
	ssrc     uint32
	base     uint32 // first extended sequence number
	highest  uint32 // extended
	got      uint32 // packets of this SSRC
	lostPast int64  // of SSRCs before
	transit  int64  // arrival minus timestamp, in clock units
	jitter   float64
	clock    uint32
	pt       byte
	any      bool
}

// note counts one valid packet. Jitter is taken over audio of one payload type whose
// clock is known; arrival is the time of the batch.
func (r *receiver) note(b []byte, pt byte, audio bool, now int64) {
	ssrc := binary.BigEndian.Uint32(b[8:])
	seq := binary.BigEndian.Uint16(b[2:])
	jump := int16(seq - uint16(r.highest))
	if !r.any || ssrc != r.ssrc || jump > dropout || jump < -misorder {
		*r = receiver{ssrc: ssrc, lostPast: r.lost(), jitter: r.jitter, clock: r.clock, any: true}
		// One cycle up, so that a packet from before the first cannot go under zero.
		r.base = 1<<16 | uint32(seq)
		r.highest = r.base
	}
	r.got++
	switch ahead := int16(seq - uint16(r.highest)); {
	case ahead > 0:
		r.highest += uint32(ahead)
	case ahead < 0:
		if ext := r.highest - uint32(-int32(ahead)); ext < r.base {
			r.base = ext
		}
	}
	if !audio || pt >= dynamic { // by another clock Opus would jitter by 100 ms
		return
	}
	clock := clockRate(pt)
	transit := int64(mulDiv(uint64(now), uint64(clock), 1e9)) - int64(binary.BigEndian.Uint32(b[4:]))
	if pt == r.pt && r.transit != 0 {
		// Both clocks wrap at different places; the difference is a signed 32-bit one.
		d := int64(int32(transit - r.transit))
		if d < 0 {
			d = -d
		}
		if d < int64(clock) { // more than a second is a jump of the sender's clock
			r.jitter += (float64(d) - r.jitter) / 16
		}
	}
	r.pt, r.clock, r.transit = pt, clock, transit
}

// lost is expected less received, never under zero.
func (r *receiver) lost() int64 {
	if !r.any {
		return r.lostPast
	}
	return r.lostPast + max(0, int64(r.highest)-int64(r.base)+1-int64(r.got))
}

// jitterMS is the interarrival jitter in milliseconds.
func (r *receiver) jitterMS() float64 {
	if r.clock == 0 {
		return 0
	}
	return r.jitter * 1000 / float64(r.clock)
}

// clockRate is the RTP clock of a static payload type (RFC 3551 section 6, where
// G.722 is 8000 by an old mistake). Dynamic types are taken as telephone band, where
// about is enough: the desired state does not tell their rate yet.
func clockRate(pt byte) uint32 {
	switch pt {
	case 6:
		return 16000 // DVI4
	case 10, 11:
		return 44100
	case 14:
		return 90000
	}
	return 8000
}

// dynamic is the first payload type that means what SDP says.
const dynamic = 96

// mulDiv is a*b/c without overflow between.
func mulDiv(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	q, _ := bits.Div64(hi%c, lo, c)
	return q
}
