package media

import (
	"encoding/binary"

	"callswitch/codecore"
)

// port is one bound socket.
type port struct {
	fd   int
	num  int
	rtcp bool
	leg  *leg // nil: free or resting, what comes is thrown away

	before *before // nil: nobody sent here while nobody had it
}

// before is who was sending to a port when it was given out: the far end of a call
// that it had, which has not noticed its end. The new call's party cannot be among
// them, since nobody had told it of the port; were one learned as that party, it
// would be heard by a stranger.
type before [4]struct {
	addr sockaddr
	ssrc uint32
	at   int64
}

// overhear notes the source of a packet to a port that nobody has.
func (p *port) overhear(b []byte, from *sockaddr, now int64) {
	if p.rtcp || !validRTP(b) {
		return
	}
	if p.before == nil {
		p.before = new(before)
	}
	ssrc := binary.BigEndian.Uint32(b[8:])
	oldest := &p.before[0]
	for i := range p.before {
		s := &p.before[i]
		if s.addr == *from && s.ssrc == ssrc {
			s.at = now
			return
		}
		if s.at < oldest.at {
			oldest = s
		}
	}
	oldest.addr, oldest.ssrc, oldest.at = *from, ssrc, now
}

// since is what of it is not older; nil: nothing. A party of a call before that was
// a packet late is nobody to look out for: it may call again.
func (b *before) since(at int64) *before {
	any := false
	for i := range b {
		if b[i].at < at {
			b[i].addr = sockaddr{}
		}
		any = any || !b[i].addr.isZero()
	}
	if !any {
		return nil
	}
	return b
}

func (b *before) has(from *sockaddr, ssrc uint32) bool {
	for i := range b {
		if b[i].addr == *from && b[i].ssrc == ssrc {
			return true
		}
	}
	return false
}

// call is what the relay has of one call. All of it is behind loop.mu but what
// is marked.
type call struct {
	id   codecore.CallID
	legs []*leg

	// Behind Media.mu.
	gen     codecore.Generation
	want    codecore.Media // the desired state of gen
	applied bool           // a desired state has come; until then the legs are only allocated
	touched int64          // last order or first allocation, ns
	deny    int64          // since when the answer is "no record", 0: it is not
	asking  bool

	dirty bool // in loop.dirty
}

// leg is one party's side. leg_state.go has its plain twin.
type leg struct {
	id   codecore.LegID
	call *call
	pair *pair // behind Media.mu; its ports' numbers never change
	rtp  *port
	rtcp *port
	peer *leg    // to whom the sound goes
	sec  *secure // nil: plain RTP
	tone *tone   // nil: none is played

	// What it should do.
	told               bool // an order has come that speaks of its sound
	send, recv, opaque bool
	mux                bool
	echo               bool // it hears itself
	fresh              bool // its ports were given out by this process: nobody before it can have used its keys
	learn              int
	dtmf               byte
	takesAll           bool
	takes              [2]uint64  // a bit for each payload type
	mapTo              *[128]byte // of packets sent to this leg; nil: as they are

	// Addresses.
	latch    latch
	rtcpTo   sockaddr // as the SDP says, or learned
	rtcpSure bool     // a valid packet came from rtcpTo, or the SDP named it

	// Streams and counters.
	out      stream   // towards this leg
	in       receiver // from it
	heard    int64    // last RTP or RTCP of the party, ns; 0: none yet
	waiting  int64    // since when sound is due from it, ns; 0: it is not
	reported bool     // its silence has been reported
	early    []parked
	relayed  bool // something of this leg has reached its peer
	counts   legCounts
	farLost  int32  // cumulative loss of our stream as the party reports it (RFC 3550 6.4.1)
	farJit   uint32 // its jitter, in clock units of the stream it hears
	farBlock bool
}

// legCounts are the counters of one leg, since its ports were given to it.
type legCounts struct {
	packetsIn, bytesIn   uint64
	packetsOut, bytesOut uint64
	rtcpIn, rtcpOut      uint64
	dropped              [dropReasons]uint32
}

// parked is a packet that came before the order that lets it pass.
type parked struct {
	b    []byte
	from sockaddr
	at   int64
}

// An order and the first packets race: an answer reaches the phone while the
// order for its leg is on its way. So the last packets that cannot go yet wait
// for a moment.
const (
	parkMost = 16
	parkFor  = 200e6 // ns
)

// program sets what the leg should do. Payloads are numbered as the party sends
// them; telephone-event is always among them. No Payloads: all are taken.
func (l *leg) program(d codecore.MediaLeg, v6 bool, now, window int64) {
	// Ports alone are kept for the call, and nothing is said of its sound.
	l.told = l.told || d.Learn > 0 || d.Remote != "" || d.Send || d.Recv
	remote, known := parseSockaddr(d.Remote, v6)
	if l.sec != nil && l.sec.ice != nil {
		known, d.Mux = true, true // where, its checks tell; RFC 8834 has one port
	} else {
		l.latch.remote(remote, d.Learn > l.learn, now, window)
	}
	rtcp, named := parseSockaddr(d.RTCP, v6)
	if !named && !remote.isZero() && remote.port() < 65535 {
		rtcp = remote.withPort(remote.port() + 1)
	}
	if d.Learn > l.learn || l.rtcpTo.isZero() {
		l.rtcpTo, l.rtcpSure = rtcp, false
	}
	l.learn, l.mux, l.dtmf = d.Learn, d.Mux, d.DTMF
	l.send, l.recv, l.opaque = d.Send, d.Recv, d.Opaque
	l.takesAll = len(d.Payloads) == 0
	l.takes = [2]uint64{}
	for _, pt := range d.Payloads {
		l.take(pt)
	}
	if d.DTMF != 0 {
		l.take(d.DTMF)
	}
	l.mapTo = nil
	if len(d.Map) > 0 {
		l.mapTo = new([128]byte)
		for i := range l.mapTo {
			l.mapTo[i] = byte(i)
		}
		for from, to := range d.Map {
			l.mapTo[from&127] = to & 127
		}
	}
	// A party must be heard when its answer is known and it is not held.
	due := known && d.Learn > 0 && d.Recv
	if due && l.waiting == 0 {
		l.waiting, l.reported = now, false
	} else if !due {
		l.waiting = 0
	}
}

func (l *leg) take(pt byte)         { l.takes[pt&127/64] |= 1 << (pt & 63) }
func (l *leg) isTaken(pt byte) bool { return l.takesAll || l.takes[pt&127/64]&(1<<(pt&63)) != 0 }

// quietFor is how long a leg that is due has been silent, in ns. RTCP counts: a
// muted phone with silence suppression still reports.
func (l *leg) quietFor(now int64) int64 {
	if l.waiting == 0 {
		return 0
	}
	return now - max(l.waiting, l.heard)
}
