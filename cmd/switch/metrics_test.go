package main

import (
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"callswitch/codecore"
	"callswitch/internal/metrics"
)

// A rollout's gate must not go back because a held call is silent.
func TestSilenceOfAHeldCallIsNoGap(t *testing.T) {
	m := newWorkerMetrics(metrics.New(), "v0")
	step := m.observer().Step
	step("media silent", string(codecore.PhaseTalking), 0)
	if n := m.health(0).MediaGaps; n != 0 {
		t.Errorf("%d gaps after the silence of a call that goes on, want 0", n)
	}
	step("media silent", string(codecore.PhaseEnded), 0)
	if n := m.health(0).MediaGaps; n != 1 {
		t.Errorf("%d gaps after a silence that ended a call, want 1", n)
	}
}

// A refused call is counted under its code; whatever else stands as a cause makes
// no series, and a call that was answered was not refused.
func TestRefusalsAreCountedByReason(t *testing.T) {
	r := prometheus.NewRegistry()
	seen := newWorkerMetrics(r, "v0").observer()
	ended := seen.Ended
	ended(codecore.CDR{Result: "failed", Cause: "sdp-family"})
	ended(codecore.CDR{Result: "failed", Cause: "night shift, 23:10"})
	ended(codecore.CDR{Result: "busy"})
	ended(codecore.CDR{Result: "answered", Cause: "max-call", Answer: time.Now()})
	each := map[string]float64{"other": 1}
	for _, code := range append(codecore.Reasons(), "night shift, 23:10") {
		seen.Reason(code)
		if codecore.IsReason(code) {
			each[code] = 1
		}
	}
	all, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]map[string]float64{
		"switch_calls_refused_total": {"sdp-family": 1, "other": 1},
		"switch_refusals_total":      each,
	} {
		got := map[string]float64{}
		for _, f := range all {
			if f.GetName() == name {
				for _, c := range f.GetMetric() {
					got[c.GetLabel()[0].GetValue()] = c.GetCounter().GetValue()
				}
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
