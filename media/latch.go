package media

// A latch decides which source a leg's packets are taken from, and where
// packets to the leg go (RFC 4961 symmetric RTP, RFC 7362 latching).
//
//	closed --Learn grows--> open (3 s) --SDP's address sends--> closed on it
//	                          | another source sends 3 valid packets in order
//	                          v
//	                        learned; until the 3 s are over the SDP's
//	                        address still wins --> closed
//	                          | nothing came
//	                          v
//	                        closed on the SDP's address; on the source of before,
//	                        if that one has never stopped
//
// Closed means strict: any other source is dropped and counted. While the SDP
// is not known, sources are counted but none is believed and nothing is sent. A
// re-INVITE with a new address moves what we send at once; the old source is
// heard until the new one is known, for packets are still on their way; or it is the
// same behind a NAT, and nobody is where the SDP says.
type latch struct {
	sdp     sockaddr // zero: not known
	was     sockaddr // sdp before that was 0.0.0.0 (the hold of RFC 2543)
	addr    sockaddr // whose packets pass; zero: nobody's yet
	learned bool     // addr came from a packet and not from the SDP
	fresh   bool     // addr was found under the present SDP, so we send there
	confirm bool     // the SDP did not change: one packet from addr closes the window
	until   int64    // end of the window; 0: closed
	heard   []source // nil but while somebody is on probation; at most 4
}

// source is an address on probation.
type source struct {
	addr sockaddr
	ssrc uint32
	seq  uint16
	n    int
}

// Verdicts of a latch.
type verdict int

const (
	pass     verdict = iota
	early            // may become the source, or the SDP is not known yet
	stranger         // strict, and not from there
)

// wanted is how many valid packets in a row a source other than the SDP's needs.
const wanted = 3

// remote tells the latch the address of the last SDP; learn opens the window.
func (t *latch) remote(sdp sockaddr, learn bool, now, window int64) (changed bool) {
	known, moved := !t.sdp.isZero(), sdp != t.sdp
	if known && sdp.isZero() {
		t.was = t.sdp
	} else if !known && sdp == t.was {
		moved = false // back where it was
	}
	t.sdp = sdp
	switch {
	case learn && !sdp.isZero():
		t.until = now + window
		t.confirm = !moved && !t.addr.isZero()
		t.fresh = t.fresh && !moved
		if known {
			t.heard = nil // what was heard before the first SDP counts, not what came since
		}
	case moved && !sdp.isZero(): // no answer, but another address: take it as it is
		t.addr, t.learned, t.fresh, t.until = sdp, false, true, 0
	default:
		return moved
	}
	return true
}

// dest is where packets to the leg go; zero: nowhere yet.
func (t *latch) dest() *sockaddr {
	if t.fresh && !t.sdp.isZero() {
		return &t.addr
	}
	return &t.sdp
}

// admit judges the source of a valid packet; changed tells that the latch moved.
func (t *latch) admit(from *sockaddr, ssrc uint32, seq uint16, now int64) (v verdict, changed bool) {
	if t.until == 0 && *from == t.addr && !t.addr.isZero() { // the usual packet
		return pass, false
	}
	if t.until != 0 && !t.fresh && *from == t.addr && *from != t.sdp && t.count(from, ssrc, seq) >= wanted && now >= t.until {
		t.settle(*from, true)
	}
	changed = t.expire(now)
	switch {
	case *from == t.sdp && !t.sdp.isZero() && (t.until != 0 || t.addr.isZero()):
		t.settle(t.sdp, false)
		t.until = 0
		return pass, true
	case *from == t.addr && !t.addr.isZero():
		if t.confirm {
			t.until = 0
		}
		return pass, changed
	case t.sdp.isZero():
		t.count(from, ssrc, seq)
		return early, changed
	case t.until == 0 || t.fresh && !t.confirm:
		return stranger, changed
	case t.count(from, ssrc, seq) < wanted:
		return early, changed
	}
	t.settle(*from, true)
	return pass, true
}

func (t *latch) settle(addr sockaddr, learned bool) {
	t.addr, t.learned, t.fresh, t.confirm = addr, learned, true, false
	t.heard = nil
}

// expire closes a window that is over: who was not learned in time is expected
// where the SDP says.
func (t *latch) expire(now int64) (changed bool) {
	if t.until == 0 || now < t.until {
		return false
	}
	t.until = 0
	if !t.fresh {
		t.settle(t.sdp, false)
	}
	return true
}

// count notes a packet of a source on probation and returns how many came in
// order. The slots are few; a fifth source takes the place of the weakest.
func (t *latch) count(from *sockaddr, ssrc uint32, seq uint16) int {
	if t.heard == nil {
		t.heard = make([]source, 4)
	}
	weakest := &t.heard[0]
	for i := range t.heard {
		s := &t.heard[i]
		if s.addr == *from {
			if step := seq - s.seq; s.ssrc == ssrc && step > 0 && step < 100 {
				s.n++
			} else if s.ssrc != ssrc || step != 0 {
				s.n = 1
			}
			s.ssrc, s.seq = ssrc, seq
			return s.n
		}
		if s.n < weakest.n {
			weakest = s
		}
	}
	*weakest = source{addr: *from, ssrc: ssrc, seq: seq, n: 1}
	return 1
}
