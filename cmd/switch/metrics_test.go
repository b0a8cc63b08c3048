package main

import (
	"testing"

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
