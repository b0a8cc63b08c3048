package codecore

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pion/sdp/v3"
)

// readSDP reads of a description (RFC 8866) what is asked of it here: media lines,
// addresses, attributes. Phones leave lines out, order them otherwise, name media
// and profiles of which no list knows, and do not end the last line: no reason not
// to have a call. Refused is what cannot be read in one way only.
func readSDP(body string, d *sdp.SessionDescription) error {
	var m *sdp.MediaDescription
	begun := false
	for i, line := range strings.Split(body, "\n") {
		line = strings.TrimRight(line, "\r\t ")
		if line == "" {
			continue
		}
		if begun == (line == "v=0") || len(line) < 2 || line[1] != '=' || strings.ContainsAny(line, "\r\x00") {
			return fmt.Errorf("line %d: %.32q", i+1, line)
		}
		begun = true
		value := line[2:]
		switch line[0] {
		case 'm':
			var ok bool
			if m, ok = readMedia(value); !ok {
				return fmt.Errorf("line %d: %.32q", i+1, line)
			}
			d.MediaDescriptions = append(d.MediaDescriptions, m)
		case 'c':
			w := strings.Fields(value)
			if len(w) != 3 || w[0] != "IN" {
				return fmt.Errorf("line %d: %.32q", i+1, line)
			}
			c := &sdp.ConnectionInformation{NetworkType: w[0], AddressType: w[1], Address: &sdp.Address{Address: w[2]}}
			if m == nil {
				d.ConnectionInformation = c
			} else {
				m.ConnectionInformation = c
			}
		case 'a':
			key, value, _ := strings.Cut(value, ":")
			if a := (sdp.Attribute{Key: key, Value: value}); m == nil {
				d.Attributes = append(d.Attributes, a)
			} else {
				m.Attributes = append(m.Attributes, a)
			}
		}
	}
	return nil
}

// readMedia reads "audio 49170 RTP/AVP 0 8"; one that is refused may be without formats.
func readMedia(value string) (*sdp.MediaDescription, bool) {
	w := strings.Fields(value)
	if len(w) < 3 {
		return nil, false
	}
	first, _, _ := strings.Cut(w[1], "/") // the first of several ports
	port, err := strconv.ParseUint(first, 10, 16)
	if err != nil || port != 0 && len(w) < 4 {
		return nil, false
	}
	if w[0] == "image" && strings.EqualFold(w[2], "udptl") {
		w[2] = "udptl"
	}
	return &sdp.MediaDescription{MediaName: sdp.MediaName{
		Media: w[0], Port: sdp.RangedPort{Value: int(port)}, Protos: strings.Split(w[2], "/"), Formats: w[3:],
	}}, true
}
