package sessions_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"maps"
	"strings"
	"testing"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// TestEveryReasonIsLoggedAndCounted: what the call logic refuses, and what a
// tombstone does, has its code in the log, in the story and in the observer's ear.
func TestEveryReasonIsLoggedAndCounted(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var log bytes.Buffer
		counted, logged, told := map[string]int{}, map[string]int{}, map[string]int{}
		e := r.edge("edge.n1", "b1")
		_, stop := r.worker("w-1", func(c *sessions.Config) {
			c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			c.Observe.Reason = func(code string) { counted[code]++ }
		})
		e.invite(script{})
		want := map[string]int{}
		for _, code := range codecore.Reasons() {
			e.ask("INFO", script{Act: []string{"edge.n1"}, Reason: code})
			want[code] = 1
		}
		e.ask("BYE", script{End: true})
		data, _ := wire.Seal(sessions.Orphan{Delivery: e.delivery("INFO", script{Reason: "no-dialog"})})
		if _, err := r.bus.Request(t.Context(), sessions.SubjectOrphan, data); err != nil {
			t.Fatal(err)
		}
		want["no-dialog"]++
		stop()
		for line := range strings.Lines(log.String()) {
			var l struct{ Msg, Reason string }
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatal(err)
			}
			if l.Msg == "step" && l.Reason != "" {
				logged[l.Reason]++
			}
		}
		for _, l := range r.store.Story(theCall) {
			if l.Reason != "" {
				told[l.Reason]++
			}
		}
		if !maps.Equal(counted, want) {
			t.Errorf("counted %v", counted)
		}
		want["no-dialog"]-- // a tombstone has no story
		if !maps.Equal(logged, want) || !maps.Equal(told, want) {
			t.Errorf("logged %v\ntold %v", logged, told)
		}
	})
}
