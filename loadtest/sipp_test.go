package loadtest

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// pairs are sipp's own scenarios: who calls, who answers.
var pairs = []struct {
	name, caller, callee string
	between              bool // they need the switch between them
}{
	{"talk", "uac.xml", "uas.xml", false},
	{"busy", "uac_busy.xml", "uas_busy.xml", false},
	{"cancel", "uac_cancel.xml", "uas_cancel.xml", false},
	{"hold", "uac_hold.xml", "uas_hold.xml", false},
	{"100rel on both sides", "uac_100rel.xml", "uas_100rel.xml", false},
	{"100rel of the callee alone", "uac.xml", "uas_100rel.xml", true},
	{"delayed offer", "uac_late.xml", "uas_late.xml", false},
	{"update", "uac_update.xml", "uas_update.xml", false},
	{"update to a phone without", "uac_update.xml", "uas_held_once.xml", true},
	{"422", "uac.xml", "uas_422.xml", true},
	{"refresh due", "uac_listens.tmpl", "uas_refresh.tmpl", true},
}

func needSipp(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("sipp"); err != nil {
		t.Skip("sipp is not installed (Debian: sip-tester)")
	}
}

// sippRole is one sipp of a play: its scenario (sippScenario), where it is, and
// what else it is told.
type sippRole struct {
	scenario string
	at       netip.AddrPort
	args     []string
}

// runSipp plays a callee and a caller, ten calls, and fails unless both end well.
func runSipp(t *testing.T, caller, callee string, callerAt, calleeAt, to netip.AddrPort, number string) {
	t.Helper()
	playSipp(t, to, number, sippRole{scenario: caller, at: callerAt}, sippRole{scenario: callee, at: calleeAt})
}

// playSipp is runSipp with any number of callees.
func playSipp(t *testing.T, to netip.AddrPort, number string, caller sippRole, callees ...sippRole) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	type words struct{ screen, faults bytes.Buffer }
	play := func(r sippRole, args ...string) (*exec.Cmd, *words) {
		args = append(append([]string{
			"-sf", sippScenario(t, r.scenario), "-i", r.at.Addr().String(), "-p", strconv.Itoa(int(r.at.Port())), "-m", "10", "-nostdin", "-key", "switch", to.String(),
			"-timeout", "30s", "-timeout_error", "-trace_err", "-error_file", "/dev/stderr", "-mp", strconv.Itoa(int(r.at.Port()) + 100),
		}, r.args...), args...)
		cmd := exec.CommandContext(ctx, "sipp", args...) //nolint:gosec // our own scenarios
		var out words
		cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.WaitDelay = &out.screen, &out.faults, t.TempDir(), time.Second
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, &out
	}
	end := func(r sippRole, cmd *exec.Cmd, said *words) {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s\n%s", r.scenario, err, said.faults.String(), tail(said.screen.String()))
		}
	}
	var running []*exec.Cmd
	var said []*words
	for _, r := range callees {
		b, out := play(r)
		running, said = append(running, b), append(said, out)
		t.Cleanup(func() {
			if b.ProcessState == nil { // it was not waited for
				_, _ = b.Process.Kill(), b.Wait()
				t.Logf("%s:\n%s\n%s", r.scenario, out.faults.String(), tail(out.screen.String()))
			}
		})
		listens(t, b.Process.Pid, r.at)
	}
	a, out := play(caller, "-r", "10", "-s", number, to.String())
	end(caller, a, out)
	for i, b := range running {
		end(callees[i], b, said[i])
	}
}

// listens waits until a process has its port.
func listens(t *testing.T, pid int, at netip.AddrPort) {
	t.Helper()
	for ctx := patient(t, 20*time.Second); ; {
		if ports, err := UDPPorts(pid); err == nil && ports[int(at.Port())] {
			return
		}
		if alive := Alive(pid); !alive || !pause(ctx, 20*time.Millisecond) {
			t.Fatalf("process %d does not listen on %v; it lives: %v", pid, at, alive)
		}
	}
}

func tail(s string) string {
	if len(s) > 2500 {
		return s[len(s)-2500:]
	}
	return s
}

func sippPort(t *testing.T, ip string) netip.AddrPort {
	t.Helper()
	at, err := freePort(netip.MustParseAddr(ip))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// The scenarios fit each other, with nobody between.
func TestSippScenariosAlone(t *testing.T) {
	needSipp(t)
	for _, p := range pairs {
		if p.between {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			callee := sippPort(t, "127.0.0.5")
			runSipp(t, p.caller, p.callee, sippPort(t, "127.0.0.4"), callee, callee, "7")
		})
	}
}

// The same through the switch.
func TestSippThroughTheSwitch(t *testing.T) {
	needSipp(t)
	b, _ := realSwitch(t, 0, nil)
	for _, p := range pairs {
		t.Run(p.name, func(t *testing.T) {
			caller, callee := sippPort(t, "127.0.0.4"), sippPort(t, "127.0.0.5")
			plan := Dialplan{
				Peers: []DialplanPeer{
					{Name: "sippa", Kind: "phone", Sources: []string{caller.String()}, Target: "sip:" + caller.String()},
					{Name: "sippb", Kind: "phone", Sources: []string{callee.String()}, Target: "sip:" + callee.String()},
				},
				Routes: []DialplanRoute{{Prefix: "5", To: "sippb"}},
			}
			if p.caller == "uac.xml" && p.callee == "uas_100rel.xml" { // else it is asked for what the caller can do
				plan.Peers[1].Reliable = "required"
			}
			if err := b.sw.plan(t.Context(), plan); err != nil {
				t.Fatal(err)
			}
			runSipp(t, p.caller, p.callee, caller, callee, b.sw.cfg.Site.SIP, "5551")
		})
	}
}

// The rig's own callee understands another implementation's caller.
func TestSippCallsTheRig(t *testing.T) {
	needSipp(t)
	u, err := NewUA(UAConfig{Local: netip.MustParseAddrPort("127.0.0.5:0"), Accept: func(l *Leg) {
		l.SetSound(netip.MustParseAddrPort("127.0.0.5:9"), false)
		l.Ring()
		l.Answer()
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	path, _ := filepath.Abs("sipp/uac_hold.xml")
	at := sippPort(t, "127.0.0.4")
	cmd := exec.CommandContext(t.Context(), "sipp", "-sf", path, "-i", at.Addr().String(), "-p", strconv.Itoa(int(at.Port())), //nolint:gosec // our own scenario
		"-m", "5", "-r", "5", "-nostdin", "-timeout", "20s", "-timeout_error", "-s", "7", u.Addr().String())
	cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "TERM=dumb")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, tail(string(out)))
	}
}
