package media

import (
	"encoding/binary"
	"testing"
)

// What jitters is told where the clock is known, and not by a clock that is another.
func TestJitterIsOfAKnownClock(t *testing.T) {
	for _, c := range []struct {
		pt          byte
		frame       uint32  // of 20 ms
		least, most float64 // ms, where every other packet is 10 ms late
	}{{0, 160, 8, 10}, {6, 320, 8, 10}, {111, 960, 0, 0}} {
		var r receiver
		b := make([]byte, 12)
		for i := range uint32(200) {
			binary.BigEndian.PutUint16(b[2:], uint16(i))
			binary.BigEndian.PutUint32(b[4:], i*c.frame)
			r.note(b, c.pt, true, int64(i)*20e6+int64(i%2)*10e6+1e9)
		}
		if ms := r.jitterMS(); ms < c.least || ms > c.most || r.lost() != 0 {
			t.Errorf("payload type %d: jitter %.1f ms, %d lost", c.pt, ms, r.lost())
		}
	}
}
