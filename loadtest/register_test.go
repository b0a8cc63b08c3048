package loadtest

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// cli runs a verb of the switch's own command line, with a line on its input.
func (b *bed) cli(t *testing.T, input string, args ...string) string {
	t.Helper()
	bin, _ := binaries()
	cmd := exec.CommandContext(t.Context(), bin[0], args...) //nolint:gosec // the tree's own
	cmd.Env = append(os.Environ(), "SWITCH_STATE="+b.sw.cfg.Site.StateDir)
	cmd.Stdin = strings.NewReader(input + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("switch %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// account adds an account and waits until all know it.
func (b *bed) account(t *testing.T, name, password string, flags ...string) {
	t.Helper()
	before := b.metric(t, "switch_accounts", `role="api"`)
	b.cli(t, password, append([]string{"account", "add", name}, flags...)...)
	if err := b.sw.heard(t.Context(), "switch_accounts", before+1); err != nil {
		t.Fatal(err)
	}
}

// registered waits until so many registrations are listed.
func (b *bed) registered(t *testing.T, n int) (out []struct{ Account, Contact, Source string }) {
	t.Helper()
	for ctx := patient(t, 30*time.Second); ; {
		out = nil
		if err := json.Unmarshal([]byte(b.cli(t, "", "registrations", "--json")), &out); err != nil {
			t.Fatal(err)
		}
		if len(out) == n {
			return out
		}
		if !pause(ctx, 100*time.Millisecond) {
			t.Fatalf("%d registrations, want %d", len(out), n)
		}
	}
}

// talking waits until so many calls do, and gives them.
func (b *bed) talking(t *testing.T, n int) []CallInfo {
	t.Helper()
	for ctx := patient(t, 20*time.Second); ; {
		all, err := b.sw.API.Calls(ctx)
		talk := slices.DeleteFunc(slices.Clone(all), func(c CallInfo) bool { return c.Phase != "talking" })
		if err == nil && len(talk) == n {
			return talk
		}
		if !pause(ctx, 20*time.Millisecond) {
			t.Fatalf("not %d calls talk: %+v %v", n, all, err)
		}
	}
}

// accountPlan lets accounts call each other, and 5… to a peer.
func accountPlan(callee netip.AddrPort) Dialplan {
	return Dialplan{
		Peers: []DialplanPeer{{Name: "sippb", Kind: "phone", Sources: []string{callee.String()}, Target: "sip:" + callee.String()}},
		Routes: []DialplanRoute{
			{Prefix: "5", To: "sippb", From: "account"},
			{Prefix: "", To: "account:{number}", From: "account"},
		},
	}
}

// mustKeepSecrets looks for a password, a hash or an answer to a challenge in
// everything that the switch has said.
func (b *bed) mustKeepSecrets(t *testing.T, secrets ...string) {
	t.Helper()
	log, err := os.ReadFile(b.sw.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range append(secrets, "response=", "ha1_", "nonce=") {
		if strings.Contains(strings.ToLower(string(log)), s) {
			t.Errorf("the log has %q in it", s)
		}
	}
}

// sipp registers and calls with digest, ten times, as one account.
func TestSippAsAnAccount(t *testing.T) {
	needSipp(t)
	b, _ := realSwitch(t, 0, nil)
	caller, callee := sippPort(t, "127.0.0.4"), sippPort(t, "127.0.0.5")
	if err := b.sw.plan(t.Context(), accountPlan(callee)); err != nil {
		t.Fatal(err)
	}
	b.account(t, "sipp", "sesame", "--md5-only")
	runSipp(t, "uac_account.xml", "uas.xml", caller, callee, b.sw.cfg.Site.SIP, "5551")
	if r := b.registered(t, 1); r[0].Account != "sipp" || r[0].Source != caller.String() {
		t.Errorf("%+v", r)
	}
	b.mustKeepSecrets(t, "sesame")
}

// Two baresips register and talk; the edge is killed while they do, then all of
// the switch: who is registered stays so, and can be called.
func TestBaresipRegistersAndCalls(t *testing.T) {
	b, _ := realSwitch(t, 0, nil)
	at := b.sw.cfg.Site.SIP
	if err := b.sw.plan(t.Context(), accountPlan(netip.MustParseAddrPort("127.0.0.5:9"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alice", "bob"} {
		b.account(t, name, "sesame-"+name, "--md5-only")
	}
	bob := startAccount(t, "127.0.0.7", "bob", at)
	b.registered(t, 1)
	alice := startAccount(t, "127.0.0.6", "alice", at, dial("bob", at)...)
	if c := b.talking(t, 1)[0]; c.FromPeer != "account:alice" || c.ToPeer != "account:bob" {
		t.Errorf("%+v", c)
	}
	pause(t.Context(), 3*time.Second)
	edge := b.only(t, RoleEdge)
	if err := b.sw.Kill(edge); err != nil {
		t.Fatal(err)
	}
	if _, err := b.sw.Successor(patient(t, 20*time.Second), RoleEdge, edge); err != nil {
		t.Fatal(err)
	}
	pause(t.Context(), 2*time.Second)
	alice.stop(t) // hangs up, and goes
	if cdrs := b.cdrs(t, 1); len(cdrs) != 1 || cdrs[0].Result != "answered" || cdrs[0].HungUpBy != "a" {
		t.Errorf("%+v", cdrs)
	}
	b.registered(t, 1) // alice has taken hers back

	b.sw.KillAll()
	if err := b.sw.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.registered(t, 1)
	if err := b.sw.heard(t.Context(), "switch_accounts", 2); err != nil {
		t.Fatal(err)
	}
	again := startAccount(t, "127.0.0.6", "alice", at, dial("bob", at)...)
	b.talking(t, 1)
	pause(t.Context(), 3*time.Second)
	again.stop(t)
	bob.stop(t)
	alice.mustHearTone(t, 4)
	again.mustHearTone(t, 2)
	b.mustKeepSecrets(t, "sesame")
}
