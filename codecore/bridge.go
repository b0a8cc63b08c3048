package codecore

import (
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"slices"
)

// offer is the SDP that passes the other party's offer on to the leg. A leg that
// has described itself is asked for what is in use.
func (c *call) offer(leg LegID, s said) []byte {
	l := c.leg(leg)
	if now := l.Sound; len(now.Payloads) > 0 || now.Fax {
		l.set(Terms{l.policy(), now.again()})
	}
	if s.sound.Fax {
		l.set(Terms{SRTP: l.policy()})
	}
	return c.tell(leg, s, s.sound, l.ask().shape())
}

// answer is the SDP that answers the leg's offer with the other party's answer.
func (c *call) answer(leg LegID, s said, offer *Sound) []byte {
	return c.tell(leg, s, s.sound.to(offer), offer.shape())
}

// tell is the SDP that the leg is told: the other party's words, our address.
// The version of the o= line grows when the rest has changed (RFC 3264 8), not
// when a 200 repeats what a 183 said.
func (c *call) tell(leg LegID, s said, sound Sound, f shape) []byte {
	l := c.leg(leg)
	rest := s.write(sound, l.Lines, l.Media, f)
	h := fnv.New64a()
	h.Write([]byte(rest))
	if told := hex.EncodeToString(h.Sum(nil)); told != l.Told {
		l.Told = told
		l.SDPs++
	}
	return fmt.Appendf(nil, "v=0\r\no=- %d %d IN %s\r\n%s", c.sessionID(c.slot(leg)), l.SDPs, network(l.Media.Addr), rest)
}

// bridge brings the desired media to what both parties last described: each
// side gets sound when it hears and the other sends.
func (c *call) bridge() {
	legs := []MediaLeg{c.side(LegA), c.side(LegB)}
	if c.service() != "" {
		legs = []MediaLeg{c.alone(legs[0])}
	}
	c.Media.Legs, c.MediaDue = legs, true
	c.res.Save = true
}

func (c *call) side(id LegID) MediaLeg {
	l, far := c.leg(id), c.leg(other(id))
	m := MediaLeg{
		Leg: id, Port: l.Media.Port, Remote: l.Sound.Addr, RTCP: l.Sound.RTCP, Mux: muxed(l, far), Secure: l.Sound.secure(),
		Learn: l.Answers + 1, DTMF: l.Sound.DTMF, Opaque: l.Sound.Fax && far.Sound.Fax,
		Send: l.Sound.Hears && far.Sound.Sends, Recv: l.Sound.Sends && far.Sound.Hears,
	}
	for _, pt := range slices.Concat(l.Sound.Payloads, far.Sound.Payloads) {
		if !slices.Contains(m.Payloads, pt) {
			m.Payloads = append(m.Payloads, pt)
		}
	}
	return m
}

// muxed reports whether RTP and RTCP share the leg's port: always with ICE, else if
// both parties want it.
func muxed(l, far *Leg) bool {
	return l.Sound.secure().is(SecureDTLS) || l.Sound.Mux && far.Sound.Mux
}

// held reports whether either party has put the other on hold: then silence is
// no fault, though a phone that holds may send music. A fax may be silent, too.
func (c *call) held() bool {
	a, b := c.A.Sound, c.B.Sound
	return a.Fax || b.Fax || !(a.Sends && a.Hears && b.Sends && b.Hears)
}
