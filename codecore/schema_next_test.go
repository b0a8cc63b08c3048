//go:build nextrelease

package codecore

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestNextReleasePinsAndRefuses(t *testing.T) {
	w := newWorld(t)
	w.do("a INVITE sdp note=vip", "b 200 sdp", "a ACK")
	schema, raw, err := Encode(w.s, SchemaMin)
	if err != nil || schema != Schema || Summary(w.s).Pinned != "note" {
		t.Fatalf("schema %d, %v, pinned %q", schema, err, Summary(w.s).Pinned)
	}
	if s, err := Decode(schema, raw); err != nil || s.CallNote != "vip" {
		t.Errorf("%q, %v", s.CallNote, err)
	}

	w = newWorld(t)
	w.do("a INVITE sdp", "b 200 sdp", "a ACK")
	if schema, raw, err = Encode(w.s, SchemaMin); err != nil || schema != 1 {
		t.Fatalf("schema %d, %v", schema, err)
	}
	var old struct{ State Fields }
	if err := json.Unmarshal(raw, &old); err != nil || string(old.State["plan"]) != "7" || string(old.State["no_answer"]) != "60" || old.State["limits"] != nil {
		t.Errorf("%v in the old schema: %s", err, raw)
	}
	if _, err := Decode(1, []byte(strings.Replace(string(raw), `"to":"123"`, `"to":"99900123"`, 1))); !errors.Is(err, ErrRefused) || !IsRefused(err) {
		t.Errorf("a marked number: %v", err)
	}
}

// TestWhatTheShippedSchemaSaysGoesBack: a transferred call, and one that was to be
// protected and is not, cannot go to v0.1.0; to every release of schema 2 they can.
func TestWhatTheShippedSchemaSaysGoesBack(t *testing.T) {
	for _, lines := range []string{
		"a INVITE sdp|b 200 sdp|a ACK|b REFER refer=600 quiet|c 200 sdp|b 200 BYE|accept",
		"a INVITE sdp to=*2|b 200 sdp|a ACK|accept",
		"a INVITE sdes,plain peer=fred|b 200 sdp|a ACK|accept",
	} {
		w := newWorld(t)
		w.do(strings.Split(lines, "|")...)
		if schema, _, err := Encode(w.s, SchemaMin); err != nil || schema != 2 {
			t.Errorf("%s: schema %d, %v", lines, schema, err)
		}
	}
}
