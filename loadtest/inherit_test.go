package loadtest

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// inherit replaces a role's process and says who went on.
func (b *bed) inherit(t *testing.T, args ...string) {
	t.Helper()
	var out struct {
		Before, PID int
		MS          int
	}
	said := b.cli(t, "", append([]string{"inherit", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(said), &out); err != nil {
		t.Fatal(err, said)
	}
	for end := time.Now().Add(5 * time.Second); b.only(t, args[0]).PID != out.PID && time.Now().Before(end); {
		pause(t.Context(), 20*time.Millisecond) // until the one that left is no longer listed
	}
	if out.PID == out.Before || out.PID == 0 || b.only(t, args[0]).PID != out.PID {
		t.Errorf("%s", said)
	}
	t.Logf("%s: %d -> %d in %d ms", args[0], out.Before, out.PID, out.MS)
}

// The media process is replaced three times under talking calls, once by another
// release, and nobody at the far ends can tell.
func TestInheritMedia(t *testing.T) {
	b, calls := realSwitch(t, 200, nil)
	bin, _ := binaries()
	w := b.watch(t)
	for _, more := range [][]string{nil, {"--binary", bin[1]}, {"--binary", bin[0]}} {
		pause(t.Context(), time.Second)
		b.inherit(t, append([]string{"media"}, more...)...)
	}
	pause(t.Context(), time.Second)
	longest := 0.0
	for _, c := range calls {
		longest = max(longest, c.Hearing().GapMS)
	}
	t.Logf("longest silence %.0f ms; others took %.0f %% of a CPU", longest, 100*w.others(b.watch(t)))
	if longest > 60+20 { // a packet is due every 20 ms
		b.missed(t, w, "somebody heard nothing for %.0f ms", longest)
	}
	b.verdict(t, calls, 0)
}

// The host executes itself anew under talking calls, by another release and back,
// and is killed; its children go on, and it is the supervisor of the same ones.
func TestInheritHost(t *testing.T) {
	b, calls := realSwitch(t, 100, nil)
	bin, _ := binaries()
	media, edge, worker := b.only(t, RoleMedia), b.only(t, RoleEdge), b.only(t, RoleWorker)
	for _, more := range [][]string{nil, {"--binary", bin[1]}, {"--binary", bin[0]}} {
		pause(t.Context(), time.Second)
		t.Log(strings.TrimSpace(b.cli(t, "", append([]string{"inherit", "host"}, more...)...)))
		b.inherit(t, "media")
	}
	for _, p := range []Process{edge, worker} {
		if now := b.only(t, p.Role); now.PID != p.PID {
			t.Errorf("%s: %d, was %d", p.Role, now.PID, p.PID)
		}
	}
	if b.only(t, RoleMedia).PID == media.PID {
		t.Error("media was not replaced")
	}
	b.verdict(t, calls, 0)
}

// The edge is replaced three times, once by another release and once back, under
// talking calls whose phones speak TCP and UDP: no far end sees anything of it.
func TestInheritEdge(t *testing.T) {
	for _, tcp := range []bool{true, false} {
		t.Run(map[bool]string{true: "tcp", false: "udp"}[tcp], func(t *testing.T) {
			b, calls := realSwitch(t, 100, func(c *RigConfig) { c.TCP = tcp })
			bin, _ := binaries()
			ringing := make([]*Call, 0, 15)
			var answers sync.WaitGroup
			for range 15 {
				c := b.rig.NewCall(Mark{}, (*Leg).Ring)
				if err := ring(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				ringing = append(ringing, c)
			}
			for i, more := range [][]string{nil, {"--binary", bin[1]}, {"--binary", bin[0]}} {
				pause(t.Context(), 500*time.Millisecond)
				b.inherit(t, append([]string{"edge"}, more...)...)
				for _, c := range ringing[5*i : 5*i+5] {
					answers.Go(func() {
						if err := answered(t.Context(), c); err != nil {
							t.Errorf("%s: %v", c.Number, err)
						}
					})
				}
			}
			answers.Wait()
			sent := 0
			for _, c := range append(slices.Clone(calls), ringing...) {
				v, n := c.Violations()
				if len(v) > 0 {
					t.Errorf("%s: %q", c.Number, v)
				}
				sent += n
			}
			t.Logf("%d retransmissions", sent)
			b.verdict(t, calls, 0)
		})
	}
}
