package codecore

import (
	"strings"
	"testing"
)

// TestCodingIsSaidAgain: an offer made from what is kept of a party's words says
// what the party itself said, on both sides of a record.
func TestCodingIsSaidAgain(t *testing.T) {
	for _, word := range []string{"sdp", "hold", "mux", "video"} {
		w := newWorld(t)
		first := w.do("a INVITE " + word).Actions[0].Request.Msg.Body
		w.do("b 200 sdp", "a ACK")
		schema, raw, err := Encode(w.s, SchemaMin)
		if err != nil || schema != 1 {
			t.Fatalf("%s: schema %d, %v", word, schema, err)
		}
		s, err := Decode(schema, raw)
		if err != nil {
			t.Fatal(err)
		}
		c := call{State: s}
		a, ok := c.saidBy(LegA)
		if !ok {
			t.Fatalf("%s: nothing is kept of what a said", word)
		}
		if again := c.offer(LegB, a); string(again) != string(first) {
			t.Errorf("%s: said again\n%s\nwas\n%s", word, again, first)
		}
	}
	if s, err := describe([]byte(head+"m=audio 4000 RTP/AVP 0\r\na=fmtp:0 "+strings.Repeat("x", maxCoding)+"\r\n"), want{}); err != nil || s.sound.Coding != "" {
		t.Errorf("%d bytes kept, %v", len(s.sound.Coding), err)
	}
}
