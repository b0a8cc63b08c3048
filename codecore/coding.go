package codecore

import (
	"strconv"
	"strings"

	"github.com/pion/sdp/v3"
)

// What a party said of its coding, kept so that it can be said again when the
// party itself is not asked: in a re-INVITE of ours that takes an offer back, or
// refreshes the session.

// maxCoding bounds what is kept. More is not: then it cannot be said again.
const maxCoding = 1 << 10

// sameCoding stands in a record for the coding of the other party.
const sameCoding = "="

// codingOf is the kept form of a media line: its formats ("*": the payload types
// of the Sound), then the attributes that cross the switch, one a line.
func codingOf(m *sdp.MediaDescription, payloads []byte) string {
	var b strings.Builder
	if f := strings.Join(m.MediaName.Formats, " "); f != formats(payloads) {
		b.WriteString(f)
	} else {
		b.WriteString("*")
	}
	for _, a := range m.Attributes {
		if crosses(a.Key) {
			b.WriteString("\n" + a.String())
		}
	}
	if b.Len() > maxCoding || b.String() == sameCoding {
		return ""
	}
	return b.String()
}

func formats(payloads []byte) string {
	var b strings.Builder
	for i, pt := range payloads {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(strconv.Itoa(int(pt)))
	}
	return b.String()
}

// saidBy is what the leg's party last said, as far as it is kept.
func (c *call) saidBy(leg LegID) (said, bool) {
	sound := c.leg(leg).Sound
	if sound.Coding == "" {
		return said{}, false
	}
	return sound.said(), true
}

// said is a Sound whose coding is known, as its party would say it.
func (sound Sound) said() said {
	lines := strings.Split(sound.Coding, "\n")
	if lines[0] == "*" {
		lines[0] = formats(sound.Payloads)
	}
	m := sdp.MediaDescription{MediaName: sdp.MediaName{Media: "audio", Protos: []string{"RTP", "AVP"}, Formats: strings.Fields(lines[0])}}
	if sound.Fax {
		m.MediaName.Media, m.MediaName.Protos = "image", []string{"udptl"}
	}
	for _, l := range lines[1:] {
		key, value, _ := strings.Cut(l, ":")
		m.Attributes = append(m.Attributes, sdp.Attribute{Key: key, Value: value})
	}
	return said{audio: &m, sound: sound}
}
