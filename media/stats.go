package media

import (
	"callswitch/codecore"
)

// dropReason says why a packet went nowhere.
type dropReason int

const (
	dropIdle      dropReason = iota // nobody has the port
	dropForeign                     // STUN, DTLS, another version, RTCP where none is due
	dropMalformed                   // lengths do not fit
	dropLong                        // over 2048 bytes
	dropStranger                    // not from the leg's address
	dropEarly                       // address or order not known yet
	dropPayload                     // payload type not agreed
	dropHeld                        // the leg is not to be heard, or its peer not to hear
	dropNowhere                     // the peer's address is not known
	dropStraggler                   // of a sender that has just been replaced
	dropSend                        // the kernel refused it
	dropReceive                     // error of the socket
	dropCheck                       // STUN that is not a valid check of the leg's party
	dropHandshake                   // DTLS that no handshake waits for
	dropKeys                        // SRTP keys are not there, or no longer
	dropForged                      // SRTP that does not authenticate
	dropReplay                      // an index that was used, from the party or by us
	dropLoop                        // it has come back to where we sent it from
	dropBefore                      // of somebody who was sending to the port before the call had it
	dropReasons
)

var dropNames = [dropReasons]string{
	"idle-port", "foreign", "malformed", "long", "stranger", "early", "payload",
	"held", "nowhere", "straggler", "send", "receive",
	"check", "handshake", "keys", "forged", "replay", "loop", "before",
}

// totals are the relay's counters since the process began.
type totals struct {
	rounds               uint64
	packetsIn, bytesIn   uint64
	packetsOut, bytesOut uint64
	rtcpIn, rtcpOut      uint64
	dropped              [dropReasons]uint64
	checks               uint64 // valid STUN checks
	shakes, shakesFailed uint64 // DTLS handshakes
	lostPast             int64  // of legs that are gone
}

// Stats is a snapshot for metrics. Counters are since the process began.
type Stats struct {
	Calls, Legs  int
	PairsFree    int // bound, ready
	PairsUsed    int
	PairsResting int
	Pairs        int // the whole range
	Sockets      int // bound

	Rounds           uint64 // wake-ups of the relay
	PacketsIn        uint64 // RTP taken from parties
	PacketsOut       uint64
	BytesIn          uint64 // RTP header and payload
	BytesOut         uint64
	RTCPIn           uint64
	RTCPOut          uint64
	Lost             uint64            // RTP that parties sent and we did not get; may fall when late ones come
	JitterMS         float64           // mean of the live legs
	Dropped          map[string]uint64 // by reason
	Control          map[string]uint64 // allocations, orders, refusals, restored, … by name
	Checks           uint64            // valid STUN checks
	Handshakes       uint64            // of DTLS, completed
	HandshakesFailed uint64
	Unsaved          int // cold records that wait to be written
}

// Quality is what one leg has heard and sent; the answer to [SubjectStats] is a
// CallStats of them, and Config.Observe gets each as the leg ends.
type Quality struct {
	Leg        codecore.LegID    `json:"leg"`
	Port       int               `json:"port"`
	Remote     string            `json:"remote,omitempty"` // where we send, "ip:port"
	Learned    bool              `json:"learned,omitempty"`
	Secure     string            `json:"secure,omitempty"` // "dtls", "sdes"; with the suite once there are keys
	PacketsIn  uint64            `json:"packets_in"`
	PacketsOut uint64            `json:"packets_out"`
	BytesIn    uint64            `json:"bytes_in"`
	BytesOut   uint64            `json:"bytes_out"`
	RTCPIn     uint64            `json:"rtcp_in"`
	Lost       int64             `json:"lost"`
	JitterMS   float64           `json:"jitter_ms"`
	FarLost    int32             `json:"far_lost,omitempty"` // as the party reports it
	FarJitter  float64           `json:"far_jitter_ms,omitempty"`
	SilentMS   int64             `json:"silent_ms,omitempty"` // since its last packet
	Dropped    map[string]uint64 `json:"dropped,omitempty"`
}

// StatsRequest asks [SubjectStats] for one call.
type StatsRequest struct {
	Call codecore.CallID `json:"call"`
}

// CallStats answers it; no legs: the call is not here.
type CallStats struct {
	Node string              `json:"node"`
	Call codecore.CallID     `json:"call"`
	Gen  codecore.Generation `json:"gen"`
	Legs []Quality           `json:"legs,omitempty"`
}

// SubjectStats takes StatsRequest for "media.<node>".
func SubjectStats(receiver string) string { return receiver + ".stats" }

func (g *leg) quality(now int64) Quality {
	q := Quality{
		Leg: g.id, Port: g.rtp.num, Remote: g.latch.dest().String(), Learned: g.latch.learned && g.latch.fresh,
		PacketsIn: g.counts.packetsIn, PacketsOut: g.counts.packetsOut,
		BytesIn: g.counts.bytesIn, BytesOut: g.counts.bytesOut, RTCPIn: g.counts.rtcpIn,
		Lost: g.in.lost(), JitterMS: g.in.jitterMS(),
	}
	if s := g.sec; s != nil {
		if q.Secure = s.want.Kind; s.tx != nil {
			q.Secure += " " + s.tx.keys.profile.String()
		}
	}
	if g.farBlock {
		q.FarLost = g.farLost
		from := g.peer // whose sound it hears
		if from == nil {
			from = g
		}
		if clock := from.in.clock; clock != 0 {
			q.FarJitter = float64(g.farJit) * 1000 / float64(clock)
		}
	}
	if g.heard != 0 {
		q.SilentMS = (now - g.heard) / 1e6
	}
	for i, n := range g.counts.dropped {
		if n > 0 {
			if q.Dropped == nil {
				q.Dropped = map[string]uint64{}
			}
			q.Dropped[dropNames[i]] = uint64(n)
		}
	}
	return q
}

// Stats returns a snapshot. It holds the relay up for some 10 ns per leg.
func (m *Media) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Stats{
		Calls: len(m.calls), PairsFree: m.pool.nfree, PairsUsed: m.pool.nused, PairsResting: m.pool.nrest,
		Pairs: len(m.pool.pairs), Sockets: 2 * (m.pool.nfree + m.pool.nused + m.pool.nrest),
		Control: make(map[string]uint64, len(m.did)), Dropped: make(map[string]uint64, dropReasons),
	}
	for name, n := range m.did {
		s.Control[name] = n
	}
	m.loop.mu.Lock()
	defer m.loop.mu.Unlock()
	t := &m.loop.total
	s.Rounds, s.PacketsIn, s.PacketsOut, s.BytesIn, s.BytesOut = t.rounds, t.packetsIn, t.packetsOut, t.bytesIn, t.bytesOut
	s.RTCPIn, s.RTCPOut = t.rtcpIn, t.rtcpOut
	s.Checks, s.Handshakes, s.HandshakesFailed = t.checks, t.shakes, t.shakesFailed
	for i, n := range t.dropped {
		s.Dropped[dropNames[i]] = n
	}
	lost, jitter, talking := t.lostPast, 0.0, 0
	for _, c := range m.calls {
		for _, g := range c.legs {
			s.Legs++
			lost += g.in.lost()
			if g.in.clock != 0 {
				jitter += g.in.jitterMS()
				talking++
			}
		}
	}
	s.Lost = uint64(max(0, lost))
	if talking > 0 {
		s.JitterMS = jitter / float64(talking)
	}
	s.Unsaved = m.cold.waiting()
	return s
}
