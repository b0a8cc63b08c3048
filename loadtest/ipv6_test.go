package loadtest

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

func needIPv6(t *testing.T) {
	t.Helper()
	c, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here:", err)
	}
	_ = c.Close()
}

// Signalling and sound on ::1 alone, through a release and back and a kill -9 of
// the edge: nothing of a call is bound to IPv4.
func TestIPv6ThroughAReleaseAndBack(t *testing.T) {
	needIPv6(t)
	b, calls := realSwitch(t, 20, func(c *RigConfig) {
		c.CallerIP, c.CalleeIP = netip.IPv6Loopback(), netip.IPv6Loopback()
	})
	if at := b.sw.cfg.Site; !at.SIP.Addr().Is6() || !at.MediaIP.Is6() {
		t.Fatalf("it listens on %v and %v", at.SIP, at.MediaIP)
	}
	bin, _ := binaries()
	b.moveAll(t, bin[1])
	if err := b.say(t, "undo"); err != nil {
		t.Fatal(err)
	}
	b.inState(t, RolloutRolledBack)
	for _, role := range []string{RoleEdge} {
		old := b.only(t, role)
		if err := b.sw.Kill(old); err != nil {
			t.Fatal(err)
		}
		if _, err := b.sw.Successor(patient(t, 20*time.Second), role, old); err != nil {
			t.Fatal(err)
		}
	}
	pause(t.Context(), time.Second)
	b.verdict(t, calls, 0)
}

// A phone whose sound is on IPv4 is refused by a switch whose media is on IPv6:
// at once, with the reason, and counted.
func TestMediaOfOneIPVersionRefusesTheOther(t *testing.T) {
	needIPv6(t)
	b, _ := realSwitch(t, 0, func(c *RigConfig) {
		c.RTP = false
		c.CallerIP, c.CalleeIP = netip.IPv6Loopback(), netip.IPv6Loopback()
	})
	c := b.rig.NewCall(Mark{}, answerAtOnce)
	defer c.Close()
	four := netip.MustParseAddrPort("127.0.0.2:20000")
	c.caller = func(l *Leg) { l.SetSound(four, false) }
	if err := c.Place(); err != nil {
		t.Fatal(err)
	}
	if code, err := c.A.Final(patient(t, 20*time.Second)); code != 488 || err != nil {
		t.Errorf("%d %v", code, err)
	}
	if c.here.Is() {
		t.Error("the callee was called")
	}
	cdrs := b.cdrs(t, 1)
	for ctx := patient(t, 30*time.Second); b.metric(t, "switch_calls_refused_total", `reason="sdp-family"`) != 1; {
		if !pause(ctx, 50*time.Millisecond) {
			t.Error("not counted, or more than once")
			break
		}
	}
	if cdrs[0].Result != "failed" || cdrs[0].Cause != "sdp-family" {
		t.Errorf("%+v", cdrs)
	}
}
