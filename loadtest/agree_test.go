package loadtest

import (
	"os"
	"testing"
)

// What a demo counts at the far ends and in the rollout's document, and what
// /metrics counts in the processes, is the same: moves, refusals, CDRs.
func TestDemoAndMetricsAgree(t *testing.T) {
	if os.Getenv("SWITCH_SYSTEM") == "" {
		t.Skip("SWITCH_SYSTEM is not set: tests of the whole switch run in .ci/run")
	}
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	metrics, results := map[string]float64{}, map[string]int{}
	moved, refused := 0, 0
	v, err := Demo(t.Context(), DemoConfig{
		SwitchBinary: bin[0], NextBinary: bin[1], Calls: 30, Seconds: 6, Out: t.Output(), Err: t.Output(),
		Kinds:  map[string]int{KindCancel: 5, KindBusy: 5, KindRinging: 5, KindPinned: 1, KindRefused: 1, KindTransfer: 4},
		Pinned: Mark{Headers: []string{"X-Call-Note: rig"}}, Refused: Mark{Number: "99900001"},
		atEnd: func(sw *Switch) {
			b := &bed{sw: sw}
			r, err := sw.API.Rollout(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range r.Waves {
				moved, refused = moved+w.Moved, refused+w.Refused
			}
			cdrs, err := sw.API.CDRs(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range cdrs {
				results[c.Result]++
			}
			for _, result := range []string{"moved", "refused", "left", "claimed"} {
				metrics[result] = b.metric(t, "switch_handoffs_total", `result="`+result+`"`)
			}
			for _, result := range []string{"begun", "answered", "cancelled", "busy", "failed", "no-answer"} {
				metrics[result] = b.metric(t, "switch_call_attempts_total", `result="`+result+`"`)
			}
		},
	})
	if err != nil || !v.Passed() {
		t.Fatalf("%v %q", err, v.Problems)
	}
	placed, said := v.Calls, 0
	for _, k := range v.Kinds {
		placed += k.Calls
	}
	for _, s := range v.Releases {
		said += s.Moved
	}
	for _, c := range []struct {
		name        string
		demo, other float64
	}{
		{"moved, by the verdict", float64(said), metrics["moved"]},
		{"moved, by the rollout's waves", float64(moved), metrics["moved"]},
		{"moved and left", metrics["moved"], metrics["left"]},
		{"taken over", 0, metrics["claimed"]},
		{"calls placed", float64(placed), metrics["begun"]},
		{"CDRs: answered", float64(results["answered"]), metrics["answered"]},
		{"CDRs: cancelled", float64(results["cancelled"]), metrics["cancelled"]},
		{"CDRs: busy", float64(results["busy"]), metrics["busy"]},
		{"CDRs: failed", float64(results["failed"]), metrics["failed"]},
	} {
		if c.demo != c.other {
			t.Errorf("%s: %v, and by /metrics %v", c.name, c.demo, c.other)
		}
	}
	// A wave asks up to three times, when calls came or went meanwhile, and says
	// how many would not go in the end; each refusal is counted.
	if n := int(metrics["refused"]); n < refused || n > 3*refused {
		t.Errorf("refused, by the rollout's waves: %d, and by /metrics %d", refused, n)
	}
	if moved < 2*v.Calls || refused < 2 || results["cancelled"] != 5 || results["busy"] != 5 {
		t.Errorf("moved %d, refused %d, %v: too few to compare", moved, refused, results)
	}
	t.Logf("%v %v", metrics, results)
}
