package main

import (
	"errors"
	"testing"

	"callswitch/codecore"
	"callswitch/console"
)

// What a call would pass over in silence is refused with a word.
func TestTransfersThatComeToNothing(t *testing.T) {
	plan, err := parsePlan([]byte(`
peers:
  - {name: anna, kind: phone, target: "sip:192.0.2.1"}
  - {name: bert, kind: phone, target: "sip:192.0.2.2"}
routes:
  - {prefix: "2", to: anna}
  - {prefix: "3", to: bert, from: anna}
  - {prefix: "9", to: "service:echo"}
`))
	if err != nil {
		t.Fatal(err)
	}
	talking := console.CallInfo{ID: "c", FromPeer: "anna", ToPeer: "bert", Phase: "talking"}
	busy, ringing := talking, talking
	busy.Transfer, ringing.Phase = true, "inviting"
	for _, c := range []struct {
		call         console.CallInfo
		leg          codecore.LegID
		target, code string
	}{
		{talking, codecore.LegB, "200", ""},
		{talking, codecore.LegA, "sip:300@x", ""},
		{talking, codecore.LegB, "300", "no-route"}, // bert may not call there
		{talking, codecore.LegB, "900", "service"},
		{busy, codecore.LegB, "200", "transfer-under-way"},
		{ringing, codecore.LegB, "200", "not-talking"},
	} {
		var e *console.Error
		if errors.As(mayTransfer(&plan, c.call, c.leg, c.target), &e); (e == nil) != (c.code == "") || e != nil && e.Code != c.code {
			t.Errorf("%s to %s: %+v, want %q", c.leg, c.target, e, c.code)
		}
	}
}
