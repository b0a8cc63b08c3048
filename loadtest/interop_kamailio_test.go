package loadtest

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// need skips a test of the whole switch that another program takes part in;
// in .ci/run none is skipped, so a missing program fails there.
func need(t *testing.T, program, debian string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed (Debian: %s)", program, debian)
	}
}

// kamailio runs a Kamailio of testdata/kamailio, with words of its configuration
// replaced (old, new, …) and a definition, if any.
func kamailio(t *testing.T, config string, at netip.AddrPort, define string, words ...string) *peer {
	t.Helper()
	need(t, "kamailio", "kamailio")
	b, err := os.ReadFile(filepath.Join("testdata", "kamailio", config))
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{dir: t.TempDir()}
	path := filepath.Join(p.dir, "kamailio.cfg")
	text := strings.NewReplacer(append([]string{"LISTEN", at.String()}, words...)...).Replace(string(b))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-DD", "-E", "-f", path, "-Y", p.dir, "-P", filepath.Join(p.dir, "kamailio.pid"), "-m", "64", "-M", "8"}
	if define != "" {
		args = append(args, "-A", define)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("kamailio (%s):\n%s", config, lastLines(p.said(t), 40))
		}
		p.stop()
	})
	if err := p.start("kamailio", args...); err != nil {
		t.Fatal(err)
	}
	if err := p.ready(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *peer) said(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, "kamailio.log"))
	if err != nil {
		t.Log(err)
	}
	return string(b)
}

// lines are what the proxy has said after a word, each once: a request that came
// twice passed it once.
func (p *peer) lines(t *testing.T, word string) (out []string) {
	t.Helper()
	for l := range strings.Lines(p.said(t)) {
		if _, s, ok := strings.Cut(l, word+" "); ok {
			out = append(out, strings.TrimSpace(s))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// onward moves every call to the next release and back.
func (b *bed) onward(t *testing.T, calls int) {
	t.Helper()
	bin, _ := binaries()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	moves, err := b.moves(ctx, BenchConfig{NextBinary: bin[1], Rounds: 1, Progress: io.Discard})
	if err != nil || len(moves) != 2 || moves[0].Moved != calls || moves[1].Moved != calls {
		t.Errorf("moves of %d calls: %+v %v", calls, moves, err)
	}
}

// establish places n calls of the rig that are answered at once, and has them talk.
func (b *bed) establish(t *testing.T, n int) (calls []*Call) {
	t.Helper()
	for range n {
		c := b.rig.NewCall(Mark{}, answerAtOnce)
		if err := c.Establish(patient(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
		pause(t.Context(), settle)
		c.Talk()
		calls = append(calls, c)
	}
	return calls
}

// A proxy with Record-Route between the phones and the switch: both legs of each
// call go through it, and every request inside them, whoever sends it, before and
// after the call has moved; what it relays has its phone's contact as Request-URI
// (RFC 3261 12.2.1.1). No packet of sound is lost.
func TestKamailioInFrontRecordRoutes(t *testing.T) {
	b, _ := realSwitch(t, 0, nil)
	at := sippPort(t, "127.0.0.20")
	sw, phone := b.sw.cfg.Site.SIP, b.rig.callees[0].Addr()
	proxy := kamailio(t, "proxy.cfg", at, "", "SWITCHIP", sw.Addr().String(), "SWITCHPORT", strconv.Itoa(int(sw.Port())), "SWITCH", sw.String(), "PHONE", phone.String())
	b.rig.SetSwitch(at)
	if err := b.sw.plan(t.Context(), Dialplan{
		Peers:  []DialplanPeer{{Name: "proxy", Kind: "trunk", Sources: []string{at.String()}, Target: "sip:" + at.String()}},
		Routes: []DialplanRoute{{Prefix: "7", To: "proxy"}},
	}); err != nil {
		t.Fatal(err)
	}
	const n = 6
	calls := b.establish(t, n)
	holdAndResume(t, calls)
	b.onward(t, n)
	holdAndResume(t, calls)
	flowing(t, calls)
	b.hungUpByBoth(t, calls)
	// 8 re-INVITEs and the first, each with its ACK; and a BYE.
	for _, way := range []string{"up", "down"} {
		got := map[string]int{}
		for _, l := range proxy.lines(t, "PASSED "+way) {
			f := strings.Fields(l)
			got[f[0]]++
			if way == "down" && !strings.Contains(f[3], "@"+phone.String()) && !strings.Contains(f[3], "@"+b.rig.callers[0].Addr().String()) {
				t.Errorf("the switch does not ask for the phone's contact: %s", l)
			}
		}
		if want := fmt.Sprint(map[string]int{"ACK": 9 * n, "INVITE": 8 * n, "BYE": n}); fmt.Sprint(got) != want {
			t.Errorf("requests %s through the proxy: %v, want %s", way, got, want)
		}
	}
	if astray := proxy.lines(t, "ASTRAY"); len(astray) != 0 {
		t.Errorf("not by its route: %q", astray)
	}
}

// holdAndResume has both ends of each call hold it and take it back, in silence:
// who is on hold is not heard.
func holdAndResume(t *testing.T, calls []*Call) {
	t.Helper()
	for _, c := range calls {
		c.Hush(t.Context())
		for _, l := range []*Leg{c.A, c.B} {
			for _, direction := range []string{"sendonly", sendRecv} {
				if err := l.Reinvite(patient(t, 20*time.Second), direction); err != nil {
					t.Errorf("%s: %s: %v", c.Number, direction, err)
				}
			}
		}
		pause(t.Context(), settle)
		c.Talk()
	}
}

// hungUpByBoth ends every other call from the callee's side, and checks wire,
// sound and CDRs of all.
func (b *bed) hungUpByBoth(t *testing.T, calls []*Call) {
	t.Helper()
	for i, c := range calls {
		c.Hush(t.Context())
		if err := c.HangUp(patient(t, 20*time.Second), i%2 == 0); err != nil {
			t.Errorf("%s: hanging up: %v", c.Number, err)
		}
		if v, _ := c.Violations(); len(v) > 0 {
			t.Errorf("%s: %q", c.Number, v)
		}
		if h := c.Hearing(); h.Lost+h.WrongSource+h.Foreign+h.Duplicated != 0 || h.Received == 0 && b.rig.sound != nil {
			t.Errorf("%s: sound: %+v", c.Number, h)
		}
	}
	b.once(t, calls)
}

// A carrier of Kamailios behind the switch, two targets one after the other: the
// first asks by 401 and MD5, the second by 407 and SHA-256, in INVITE, re-INVITE
// and BYE; the phone has registered at both, with sipsak. A target that refuses
// (503) and one that is dead lead to the next.
func TestKamailioAsACarrierOfTwoTargets(t *testing.T) {
	need(t, "sipsak", "sipsak")
	secrets := filepath.Join(t.TempDir(), "trunks.yaml")
	if err := os.WriteFile(secrets, []byte("- {trunk: first, user: us, password: trunk-secret}\n- {trunk: second, user: us, password: trunk-secret}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, _ := realSwitchAs(t, 0, nil, func(s Site) []byte { return fmt.Appendf(DefaultConfig(s), "trunks:\n  passwords: %q\n", secrets) })
	at, caller, phone := [4]netip.AddrPort{}, b.rig.callers[0].Addr(), b.rig.callees[0].Addr()
	for i := range at {
		at[i] = sippPort(t, fmt.Sprintf("127.0.0.%d", 21+i))
	}
	first := kamailio(t, "carrier.cfg", at[0], "", "CHALLENGE", "www")
	second := kamailio(t, "carrier.cfg", at[1], "SHA256", "CHALLENGE", "proxy")
	kamailio(t, "carrier.cfg", at[2], "DOWN", "CHALLENGE", "www")
	for _, k := range at[:2] {
		if out, err := sipsak(t, phone.Addr().String(), "-U", "-C", "sip:rig@"+phone.String(), "-s", "sip:phone@"+k.String(), "-u", "phone", "-a", "phone-secret", "-x", "600"); err != nil {
			t.Fatalf("sipsak: %v\n%s", err, out)
		}
	}
	plan := Dialplan{Peers: []DialplanPeer{{Name: "caller", Kind: "phone", Sources: []string{caller.String()}, Target: "sip:" + caller.String()}}}
	for i, name := range []string{"first", "second", "refuses", "dead"} {
		plan.Peers = append(plan.Peers, DialplanPeer{Name: name, Kind: "trunk", Sources: []string{at[i].String()}, Target: "sip:" + at[i].String()})
	}
	route := func(prefix, preferred string) {
		plan.Routes = append(plan.Routes, DialplanRoute{Prefix: prefix, Targets: []DialplanTarget{{To: preferred, Seconds: 5}, {To: "second"}}})
	}
	for _, c := range []struct {
		name, target string
		by           netip.AddrPort // who has the call
	}{{"asks by 401", "first", at[0]}, {"refuses with 503", "refuses", at[1]}, {"is dead", "dead", at[1]}} {
		b.rig.callees[0].tr.(*udpTransport).to = c.by // the route that its requests take
		plan.Routes = nil
		route("7", c.target)
		if err := b.sw.plan(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		t.Run(c.name, func(t *testing.T) {
			calls := b.establish(t, 2)
			holdAndResume(t, calls)
			b.hungUpByBoth(t, calls)
		})
	}
	// Each call is asked once, in its INVITE; two re-INVITEs of ours, and the BYE of
	// each second call, have the password with them.
	for _, c := range []struct {
		name         string
		k            *peer
		asked, known int
	}{{"first", first, 2, 2*3 + 1}, {"second", second, 4, 4*3 + 2}} {
		asked, known := c.k.lines(t, "ASKED"), c.k.lines(t, "KNOWN")
		if len(asked) != c.asked || len(known) != c.known {
			t.Errorf("%s asked %d times, not %d, and was answered %d times, not %d: %q %q", c.name, len(asked), c.asked, len(known), c.known, asked, known)
		}
	}
	b.mustKeepSecrets(t, "trunk-secret")
}
