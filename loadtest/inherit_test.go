package loadtest

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
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
	for end := time.Now().Add(time.Minute); b.only(t, args[0]).PID != out.PID && time.Now().Before(end); {
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
// talking calls whose phones speak TCP, UDP and TLS: no far end sees anything of it.
func TestInheritEdge(t *testing.T) {
	for _, over := range []string{"tcp", "udp", "tls"} {
		t.Run(over, func(t *testing.T) {
			b, calls := realSwitch(t, 100, func(c *RigConfig) { c.TCP, c.TLS = over == "tcp", over == "tls" })
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
			for _, u := range b.rig.all() {
				if n := u.Lost(); n > 0 {
					t.Errorf("%v has lost %d connections", u.Addr(), n)
				}
			}
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

// pings tells whether a connection is there: RFC 5626's keep-alive is answered.
func pings(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write([]byte("\r\n\r\n")); err != nil {
		return err
	}
	pong := make([]byte, 2)
	_, err := io.ReadFull(c, pong)
	return err
}

// Connections in TLS are reached through the edge that shook hands, two such edges at
// most: one more, and those of the oldest end. Who carries may be killed, and costs
// what it carries.
func TestConnectionsInTLSStayWithTheirEdge(t *testing.T) {
	b, _ := realSwitch(t, 0, func(c *RigConfig) { c.TLS = true })
	var phones []net.Conn
	phone := func() {
		d := tls.Dialer{Config: b.rig.cfg.secure, NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}}
		c, err := d.DialContext(t.Context(), "tcp", b.rig.cfg.Switch.String())
		if err == nil {
			err = pings(c)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		phones = append(phones, c)
	}
	open := func(want ...bool) {
		t.Helper()
		for i, c := range phones {
			err := pings(c)
			for limit := patient(t, 20*time.Second); err == nil && !want[i] && pause(limit, 20*time.Millisecond); err = pings(c) {
			} // it is about to end
			if (err == nil) != want[i] {
				t.Errorf("connection %d: %v", i, err)
			}
		}
	}
	carriers := func(want int) (all []Process) {
		t.Helper()
		for limit := patient(t, time.Minute); ; {
			all, _ = b.sw.Find(t.Context(), "edge-tls")
			if len(all) == want {
				return all
			}
			if !pause(limit, 20*time.Millisecond) {
				t.Fatalf("%d edges carry, want %d", len(all), want)
			}
		}
	}
	phone()
	for i := range 3 { // one carries, however many have been
		b.inherit(t, "edge")
		open(true)
		first := carriers(1)[0]
		if i == 2 {
			phone()
			b.inherit(t, "edge")
			carriers(2)
			open(true, true)
			phone()
			b.inherit(t, "edge")
			open(false, true, true)
			for _, p := range carriers(2) {
				if p.PID == first.PID {
					t.Error("the oldest has stayed")
				}
			}
		}
	}
	edge := b.only(t, RoleEdge)
	for _, p := range carriers(2) {
		if err := b.sw.Kill(p); err != nil {
			t.Fatal(err)
		}
	}
	open(false, false, false)
	carriers(0)
	if now := b.only(t, RoleEdge); now.PID != edge.PID {
		t.Errorf("another edge is at work: %d, was %d", now.PID, edge.PID)
	}
	phone()
	b.inherit(t, "edge")
	b.dies(t, RoleEdge) // and with the edge at work what it is reached through
	open(false, false, false, false)
	carriers(0)
}
