package codecore

import (
	"slices"
	"strings"

	"github.com/pion/sdp/v3"
)

// T.38 in place of audio (T.38 annex D): "m=image 49170 udptl t38". The offer and
// its answer go through like any other; the media relays UDPTL as it is, and a
// party that refuses it keeps its audio.

func isFax(m *sdp.MediaDescription) bool {
	return m.MediaName.Media == "image" && slices.Equal(m.MediaName.Protos, []string{"udptl"})
}

// crosses reports whether an attribute is one of passed, or of T.38.
func crosses(key string) bool {
	return slices.Contains(passed, key) || strings.HasPrefix(key, "T38")
}

// readSDP parses an SDP. The parser knows no images and no UDPTL (RFC 4566 8.2.1,
// 8.2.2 do not list them): such a line is read as text over UDP, and named again.
func readSDP(body string, d *sdp.SessionDescription) error {
	if !strings.Contains(body, "m=image ") {
		return d.UnmarshalString(body)
	}
	lines := strings.Split(body, "\n")
	var fax []int
	media := 0
	for i, l := range lines {
		if !strings.HasPrefix(l, "m=") {
			continue
		}
		if w := strings.Fields(l); len(w) > 3 && w[0] == "m=image" && strings.EqualFold(w[2], "udptl") {
			w[0], w[2] = "m=text", "UDP"
			lines[i] = strings.Join(w, " ") + "\r"
			fax = append(fax, media)
		}
		media++
	}
	if err := d.UnmarshalString(strings.Join(lines, "\n")); err != nil {
		return err
	}
	for _, i := range fax {
		if i < len(d.MediaDescriptions) {
			d.MediaDescriptions[i].MediaName.Media, d.MediaDescriptions[i].MediaName.Protos = "image", []string{"udptl"}
		}
	}
	return nil
}
