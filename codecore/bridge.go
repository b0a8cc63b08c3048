package codecore

import "github.com/pion/sdp/v3"

// tell is the SDP that the leg is told: the other party's words, our address.
func (c *call) tell(leg LegID, d *sdp.SessionDescription) []byte {
	l := c.leg(leg)
	l.SDPs++
	return rewrite(d, l.Media, c.sessionID(leg), l.SDPs)
}

// bridge brings the desired media to what both parties last described: each
// side gets sound when it hears and the other sends.
func (c *call) bridge() {
	legs := []MediaLeg{c.side(LegA), c.side(LegB)}
	c.Media.Legs, c.MediaDue = legs, true
	c.res.Save = true
}

func (c *call) side(id LegID) MediaLeg {
	l, far := c.leg(id), c.leg(other(id))
	m := MediaLeg{
		Leg: id, Port: l.Media.Port, Remote: l.Sound.Addr, RTCP: l.Sound.RTCP, Mux: l.Sound.Mux && far.Sound.Mux,
		Learn: l.Answers + 1, DTMF: l.Sound.DTMF,
		Send: l.Sound.Hears && far.Sound.Sends, Recv: l.Sound.Sends && far.Sound.Hears,
	}
	for _, pt := range append(append([]byte{}, l.Sound.Payloads...), far.Sound.Payloads...) {
		if !contains(m.Payloads, pt) {
			m.Payloads = append(m.Payloads, pt)
		}
	}
	return m
}

// held reports whether either party has put the other on hold: then silence is
// no fault, though a phone that holds may send music.
func (c *call) held() bool {
	a, b := c.A.Sound, c.B.Sound
	return !(a.Sends && a.Hears && b.Sends && b.Hears)
}

func contains(s []byte, b byte) bool {
	for _, x := range s {
		if x == b {
			return true
		}
	}
	return false
}
