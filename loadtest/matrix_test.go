package loadtest

import (
	"os"
	"strings"
	"testing"
)

// Twenty calls of each kind, each held in its moment by its far end, through a
// release and back, kill -9 of the worker and of the edge: both far ends see what
// they see when nothing happens.
func TestEveryKindThroughEveryEvent(t *testing.T) {
	if os.Getenv("SWITCH_SYSTEM") == "" {
		t.Skip("SWITCH_SYSTEM is not set: tests of the whole switch run in .ci/run")
	}
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	m, err := RunMatrix(t.Context(), MatrixConfig{SwitchBinary: bin[0], NextBinary: bin[1], Progress: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	m.WriteTable(&table)
	t.Logf("%.0f s\n%s\nmoved: %v", m.Seconds, table.String(), m.Moved)
	for _, kind := range m.Kinds {
		for event, want := range map[string]int{EventRelease: m.Calls, EventWorker: m.Calls} {
			if kind == KindChallenged { // refused without a state: there is no call yet
				want = 0
			}
			if got := m.Moved[event][kind]; got != want {
				t.Errorf("%s, %s: the owner of %d calls changed, not of %d", kind, event, got, want)
			}
		}
	}
	for i, p := range m.Problems {
		if i == 12 {
			t.Errorf("and %d more", len(m.Problems)-i)
			break
		}
		t.Error(p)
	}
	for _, kind := range m.Kinds { // a person should read once what is compared
		t.Logf("%s, even:\n%sodd:\n%s", kind, m.Outcomes[EventNone][kind][0], m.Outcomes[EventNone][kind][1])
	}
}
