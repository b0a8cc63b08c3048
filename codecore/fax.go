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
