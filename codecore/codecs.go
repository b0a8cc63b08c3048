package codecore

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pion/sdp/v3"
)

// Which codings cross the switch. Nothing is transcoded: what a party codes in, the
// other has to decode, and the order is the offerer's. Browsers offer G.711 and G.722
// beside Opus (RFC 7874), so a phone has something to choose.

// static are the names of payload types without rtpmap (RFC 3551 6).
var static = map[string]string{
	"0": "pcmu/8000", "3": "gsm/8000", "4": "g723/8000", "8": "pcma/8000", "9": "g722/8000", "13": "cn/8000", "15": "g728/8000", "18": "g729/8000",
}

// dropped are codings of a browser that are about the path between two browsers,
// not about sound, and that phones do not know; and comfort noise, which would
// have it fall silent to whom the phone's jitter buffer takes for gone.
var dropped = []string{"red", "rtx", "ulpfec", "flexfec-03", "cn"}

// encodings are the names of a line's formats, like "opus/48000", in its order.
func encodings(m *sdp.MediaDescription) []string {
	names := make([]string, len(m.MediaName.Formats))
	for i, f := range m.MediaName.Formats {
		if names[i] = static[f]; names[i] == "" {
			names[i] = f
		}
	}
	for _, a := range m.Attributes {
		if a.Key != "rtpmap" {
			continue
		}
		pt, name, _ := strings.Cut(a.Value, " ")
		if i := slices.Index(m.MediaName.Formats, pt); i >= 0 {
			name, rest, _ := strings.Cut(strings.ToLower(strings.TrimSpace(name)), "/")
			clock, _, _ := strings.Cut(rest, "/")
			names[i] = name + "/" + clock
		}
	}
	return names
}

// isSound reports whether an encoding is of speech or music.
func isSound(name string) bool {
	name, _, _ = strings.Cut(name, "/")
	return name != "telephone-event" && !slices.Contains(dropped, name)
}

// phoned is a browser's line without what is dropped.
func phoned(m *sdp.MediaDescription) (*sdp.MediaDescription, error) {
	kept := *m
	kept.MediaName.Formats, kept.Attributes = nil, nil
	names := encodings(m)
	for i, f := range m.MediaName.Formats {
		if name, _, _ := strings.Cut(names[i], "/"); !slices.Contains(dropped, name) {
			kept.MediaName.Formats = append(kept.MediaName.Formats, f)
		}
	}
	if !slices.ContainsFunc(names, isSound) {
		return nil, fmt.Errorf("%w: none of %d is sound", ErrCodec, len(names))
	}
	for _, a := range m.Attributes {
		if a.Key == "rtpmap" || a.Key == "fmtp" {
			pt, _, _ := strings.Cut(a.Value, " ")
			if _, err := strconv.Atoi(pt); err == nil && !slices.Contains(kept.MediaName.Formats, pt) {
				continue
			}
		}
		kept.Attributes = append(kept.Attributes, a)
	}
	return &kept, nil
}

// shareCodec reports whether an answer has a coding of its offer, or nothing is
// known of one of them.
func shareCodec(offer *Sound, answer said) bool {
	if offer == nil || offer.Coding == "" || offer.Fax || answer.sound.Fax {
		return true
	}
	offered := encodings(offer.said().audio)
	return slices.ContainsFunc(encodings(answer.audio), func(name string) bool { return isSound(name) && slices.Contains(offered, name) })
}
