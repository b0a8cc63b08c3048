package codecore

import "slices"

// wordsOf is what a party would offer again: both ways, whatever it holds today.
// What is kept of its coding (coding.go) is said as it said it; else, of a call
// that v0.1.0 has had, the payload types whose meaning is fixed (RFC 3551 6), and
// telephone-event. False when nothing is left to say.
func (c *call) wordsOf(leg LegID) (said, bool) {
	s, ok := c.saidBy(leg)
	if !ok {
		sound := c.leg(leg).Sound
		sound.Payloads = slices.DeleteFunc(slices.Clone(sound.Payloads), func(pt byte) bool { return pt > lastStatic && pt != sound.DTMF })
		if sound.Coding = codingKnown(sound); sound.Coding == "" {
			return s, false
		}
		s = sound.said()
	}
	s.sound.Sends, s.sound.Hears = true, true
	return s, true
}

// codingKnown is the coding of payload types alone.
func codingKnown(s Sound) string {
	if !slices.ContainsFunc(s.Payloads, func(pt byte) bool { return pt <= lastStatic && pt != comfortNoise }) {
		return ""
	}
	if s.DTMF == 0 || !slices.Contains(s.Payloads, s.DTMF) {
		return "*"
	}
	pt := formats([]byte{s.DTMF})
	return "*\nrtpmap:" + pt + " telephone-event/8000\nfmtp:" + pt + " 0-15"
}

const (
	lastStatic   = 34
	comfortNoise = 13
)
