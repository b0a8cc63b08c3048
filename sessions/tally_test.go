package sessions

import (
	"maps"
	"testing"
	"time"

	"callswitch/codecore"
)

// What is counted is what is held: however a call came and went, nothing is left.
func TestTallyFollowsTheCalls(t *testing.T) {
	now := time.Unix(1000, 0)
	plan := &codecore.Plan{Peers: []codecore.PlanPeer{{Name: "t", MaxCalls: 2}, {Name: "q", MaxRate: 4}}, Limits: codecore.PlanLimits{AccountCalls: 1}}
	others := map[string]int{}
	r := &Runner{cfg: Config{Plan: func() *codecore.Plan { return plan }, Others: func() (map[string]int, int) { return others, 2 }}}
	full := func(want map[string]string) {
		t.Helper()
		if got := r.full(plan, now); !maps.Equal(got, want) {
			t.Fatalf("full: %v, want %v", got, want)
		}
	}
	r.tally.set("1", []string{"account:1", "t"}, now)
	full(map[string]string{"account:1": "trunk-full"})
	others["t"] = 1
	full(map[string]string{"account:1": "trunk-full", "t": "trunk-full"})
	others["t"] = 0
	r.tally.set("2", []string{"p", "t"}, time.Time{}) // adopted: no new call
	r.tally.set("2", []string{"p", "t"}, time.Time{}) // saved again
	full(map[string]string{"account:1": "trunk-full", "t": "trunk-full"})
	if got := r.Load(); !maps.Equal(got, map[string]int{"account:1": 1, "t": 2}) {
		t.Fatal(got)
	}
	r.tally.set("2", []string{"p", "q"}, time.Time{}) // transferred
	r.tally.set("1", nil, time.Time{})                // ended
	full(nil)
	r.tally.set("2", nil, time.Time{}) // moved away
	if len(r.tally.n) != 0 || len(r.tally.by) != 0 {
		t.Fatal("something is left", r.tally.n, r.tally.by)
	}
	r.tally.set("3", []string{"a", "q"}, now)
	full(nil)
	r.tally.set("4", []string{"a", "q"}, now) // its half of four a second
	full(map[string]string{"q": "trunk-rate"})
	now = now.Add(time.Second)
	full(nil)
}
