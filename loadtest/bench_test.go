package loadtest

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"
)

func TestBenchMeasuresTheFake(t *testing.T) {
	t.Parallel()
	exe, next := nextCopy(t)
	r, err := Bench(t.Context(), BenchConfig{
		SwitchBinary: exe, NextBinary: next, Rates: []int{50}, Seconds: 3, Hold: 50 * time.Millisecond, Calls: 20, HeldSeconds: 6, Rounds: 1, RelayCalls: 4, RelayKinds: []string{SoundPlain},
		Workers: 1, Progress: io.Discard,
		Config: func(s Site) []byte { b, _ := json.Marshal(s); return b },
		Argv:   func(p string) []string { return []string{exe, p} },
		Env:    []string{"RIG_FAKE=serve"},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := r.Setup[0]
	if s.Failed != 0 || s.CPUms <= 0 || s.SetupMS.P50 <= 0 || s.ByeMS.Max <= 0 {
		t.Errorf("setup: %+v", s)
	}
	if h := r.Held; h.Dropped != 0 || h.Error != "" || h.PSSIdle == 0 || len(h.Moves) != 2 || h.Moves[1].Moved != 20 {
		t.Errorf("held: %+v", h)
	}
	if s := r.Relay[0]; s.Lost != 0 || s.Packets < 900 || s.CPUus <= 0 {
		t.Errorf("relay: %+v", s)
	}
}

// What calls cost that failed is no figure.
func TestBenchGivesNoFigureWhereCallsFailed(t *testing.T) {
	t.Parallel()
	before, after := map[string]float64{"edge": 1}, map[string]float64{"edge": 3}
	good, bad := SetupResult{Placed: 1000, Failed: 10, Error: "x"}, SetupResult{Placed: 1000, Failed: 11, Error: "x"}
	if s := good.cost(before, after); good.CPUms != 2 || good.ByRole["edge"] != 2 || s != "2.00 ms of CPU a call, 10 of 1000 failed: x" {
		t.Errorf("%q %+v", s, good)
	}
	s := bad.cost(before, after)
	b, err := json.Marshal(bad)
	if err != nil || s != "no figure, 11 of 1000 failed: x" || strings.Contains(string(b), `"cpu_ms_per_call`) {
		t.Errorf("%q %s %v", s, b, err)
	}
	if bad.CPUms != 0 || bad.ByRole != nil {
		t.Errorf("%+v", bad)
	}
}
