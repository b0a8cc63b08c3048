package loadtest

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sipsak runs it once, as from ip, and returns what it has said.
func sipsak(t *testing.T, ip string, args ...string) (string, error) {
	t.Helper()
	args = append([]string{"-i", "-k", ip}, args...)
	out, err := exec.CommandContext(patient(t, time.Minute), "sipsak", args...).CombinedOutput() //nolint:gosec // our own arguments
	return string(out), err
}

// overflowed is how many datagrams the kernel has dropped at a port, because those
// before them were not read yet (/proc/net/udp).
func overflowed(t *testing.T, port uint16) (n float64) {
	t.Helper()
	b, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); len(f) > 12 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
			v, _ := strconv.ParseFloat(f[12], 64)
			n += v
		}
	}
	return n
}

// sipsak asks a known and an unknown question, registers, takes it back, and
// floods while a call talks.
func TestSipsak(t *testing.T) {
	need(t, "sipsak", "sipsak")
	b, calls := realSwitch(t, 5, nil)
	const peer, stranger, flooder = "127.0.0.40", "127.0.0.41", "127.0.0.42"
	plan := b.rig.Dialplan()
	plan.Peers = append(plan.Peers, DialplanPeer{Name: "sak", Kind: "phone", Sources: []string{peer}, Target: "sip:" + peer})
	if err := b.sw.plan(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	b.account(t, "sak", "sesame", "--md5-only") // it knows no other
	at := b.sw.cfg.Site.SIP.String()
	for _, c := range []struct {
		name, from string
		ok         bool
		want       string
		args       []string
	}{
		{"OPTIONS of a peer", peer, true, "SIP/2.0 200", []string{"-v", "-s", "sip:" + at}},
		{"and what the switch can", peer, true, "REFER", []string{"-v", "-s", "sip:" + at}},
		{"a way to the switch", peer, true, "200", []string{"-T", "-v", "-s", "sip:500@" + at}},
		{"OPTIONS of a stranger", stranger, false, "SIP/2.0 407", []string{"-v", "-s", "sip:" + at}},
		{"wrong password", stranger, false, "authorization failed", []string{"-U", "-C", "sip:sak@127.0.0.9:4000", "-s", "sip:sak@" + at, "-u", "sak", "-a", "wrong", "-x", "300"}},
		{"registers", stranger, true, "completed successful", []string{"-U", "-v", "-C", "sip:sak@127.0.0.9:4000", "-s", "sip:sak@" + at, "-u", "sak", "-a", "sesame", "-x", "300"}},
	} {
		if out, err := sipsak(t, c.from, c.args...); err == nil != c.ok || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v, no %q:\n%s", c.name, err, c.want, tail(out))
		}
	}
	b.registered(t, 1)

	flooded := func() float64 {
		return b.metric(t, "switch_sip_refused_total", `"flood"`) + overflowed(t, b.sw.cfg.Site.SIP.Port())
	}
	before := flooded()
	if out, err := sipsak(t, flooder, "-F", "-e", "5000", "-s", "sip:sak@"+at); err != nil {
		t.Errorf("flood: %v:\n%s", err, tail(out))
	}
	if out, err := sipsak(t, peer, "-v", "-s", "sip:"+at); err != nil {
		t.Errorf("OPTIONS of a peer beside a flood: %v:\n%s", err, tail(out))
	}
	if out, err := sipsak(t, stranger, "-U", "-C", "*", "-s", "sip:sak@"+at, "-u", "sak", "-a", "sesame", "-x", "0"); err != nil {
		t.Errorf("taking a registration back beside a flood: %v:\n%s", err, tail(out))
	}
	b.registered(t, 0)
	for ctx := patient(t, 30*time.Second); flooded()-before < 4900; {
		if !pause(ctx, 50*time.Millisecond) {
			t.Errorf("%v of 5000 datagrams of a flood were dropped", flooded()-before)
			break
		}
	}
	flowing(t, calls)
	b.verdict(t, calls, 0)
}
