package loadtest

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// leftovers are what a switch at rest has open, by name.
func (b *bed) leftovers(t *testing.T) map[string]int {
	t.Helper()
	u, err := b.pss(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := func(name string, labels ...string) int { return int(b.metric(t, name, labels...)) }
	return map[string]int{
		"records":       n("switch_nats_messages", `stream="rec"`),
		"cold legs":     n("switch_nats_messages", `stream="leg"`),
		"subscriptions": n("switch_nats_open", `kind="subscriptions"`),
		"connections":   n("switch_nats_open", `kind="connections"`),
		"calls":         n("switch_calls"),
		"edge calls":    n("switch_edge_open", `kind="calls"`),
		"transactions":  n("switch_edge_open", `kind="transactions"`),
		"legs":          n("switch_media_legs"),
		"ports used":    n("switch_media_port_pairs", `state="used"`),
		"ports resting": n("switch_media_port_pairs", `state="resting"`),
		"goroutines":    n("go_goroutines"),
		"descriptors":   u.FDs,
	}
}

// slack is what may be there at one moment and not at another: API
// connections, goroutines that wait for work a little, ports bound ahead.
var slack = map[string]int{"goroutines": 60, "descriptors": 40, "subscriptions": 4, "connections": 2}

// After many short calls, once tombstones (60 s), transactions (32 s) and ports
// (2 s) have gone, nothing is left of them. SWITCH_SOAK is how many, 2000.
func TestNothingIsLeftAfterManyShortCalls(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("SWITCH_SOAK"))
	if err != nil {
		n = 2000
	}
	b, _ := realSwitch(t, 0, func(c *RigConfig) { c.RTP, c.Mux = false, true })
	// The first calls make pools grow to their working size.
	if r, err := b.shortCalls(t.Context(), 400, 200, 50*time.Millisecond); err != nil || r.Failed > 0 {
		t.Fatalf("%d failed: %s %v", r.Failed, r.Error, err)
	}
	rest := func(like map[string]int) map[string]int {
		t.Helper()
		ctx := patient(t, 150*time.Second)
		for {
			now := b.leftovers(t)
			over := false
			for what, v := range now {
				over = over || v > like[what]+slack[what]
			}
			if !over {
				return now
			}
			if !pause(ctx, 2*time.Second) {
				t.Log("not everything has gone, and nothing more will")
				return now
			}
		}
	}
	empty := map[string]int{"goroutines": 1 << 20, "descriptors": 1 << 20, "subscriptions": 1 << 20, "connections": 1 << 20}
	before := rest(empty)
	t.Logf("before %v", before)
	r, err := b.shortCalls(t.Context(), n, 200, 50*time.Millisecond)
	if err != nil || r.Failed > 0 {
		t.Fatalf("%d failed: %s %v", r.Failed, r.Error, err)
	}
	after := rest(before)
	t.Logf("after  %v", after)
	if before["descriptors"] == 0 || before["goroutines"] == 0 || before["subscriptions"] == 0 {
		t.Error("figures are missing")
	}
	for what, v := range after {
		if v > before[what]+slack[what] {
			t.Errorf("%s: %d before, %d after %d calls", what, before[what], v, n)
		}
	}
	if got, err := b.sw.API.CDRs(t.Context()); err != nil || len(got) != n+400 {
		t.Errorf("%d CDRs of %d calls: %v", len(got), n+400, err)
	}
}
