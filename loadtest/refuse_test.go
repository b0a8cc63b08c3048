package loadtest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// metric is sum, which must be had.
func (b *bed) metric(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	sum, err := b.sum(patient(t, 30*time.Second), name, labels...)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// rawUA is a socket of which the test writes every byte.
type rawUA struct {
	*udpTransport
	got chan *message
}

func newRaw(t *testing.T, ip string, to netip.AddrPort) *rawUA {
	t.Helper()
	tr, err := newUDP(netip.AddrPortFrom(netip.MustParseAddr(ip), 0), to)
	if err != nil {
		t.Fatal(err)
	}
	u := &rawUA{udpTransport: tr, got: make(chan *message, 64)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		tr.serve(func(b []byte, _ func([]byte) error) {
			if m, err := parseMessage(b); err == nil {
				select {
				case u.got <- m:
				default:
				}
			}
		})
	}()
	t.Cleanup(func() { _ = tr.close(); <-done })
	return u
}

// request is a plain one of this socket; change replaces in its text, in pairs.
func (u *rawUA) request(method, number, toTag, body string, change ...string) string {
	id := randomHex(6)
	at := u.local().String()
	s := method + " sip:" + number + "@" + u.to.String() + " SIP/2.0\r\n" +
		"Via: SIP/2.0/UDP " + at + ";rport;branch=z9hG4bK" + id + "\r\n" +
		"Max-Forwards: 70\r\nFrom: <sip:raw@" + at + ">;tag=f" + id + "\r\nTo: <sip:" + number + "@" + u.to.String() + ">" + toTag + "\r\n" +
		"Call-ID: " + id + "@raw\r\nCSeq: 1 " + method + "\r\nContact: <sip:raw@" + at + ">\r\n"
	if body != "" {
		s += "Content-Type: application/sdp\r\n"
	}
	s += "Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
	return strings.NewReplacer(change...).Replace(s)
}

// final sends a request, again as RFC 3261 says, and gives its final response.
func (u *rawUA) final(t *testing.T, request string) *message {
	t.Helper()
	ctx := patient(t, 20*time.Second)
	id := callIDOf(request)
	for wait := timerT1; ; wait *= 2 {
		if err := u.send([]byte(request)); err != nil {
			t.Fatal(err)
		}
		again, cancel := context.WithTimeout(ctx, wait)
		for again.Err() == nil {
			select {
			case m := <-u.got:
				if m.code >= 200 && (id == "" || m.callID() == id) {
					cancel()
					return m
				}
			case <-again.Done():
			}
		}
		cancel()
		if ctx.Err() != nil {
			t.Fatalf("no final response to\n%s", request)
		}
	}
}

func callIDOf(request string) string {
	_, rest, _ := strings.Cut(request, "Call-ID: ")
	id, _, _ := strings.Cut(rest, "\r\n")
	return id
}

const goodSDP = "v=0\r\no=raw 1 1 IN IP4 127.0.0.8\r\ns=-\r\nc=IN IP4 127.0.0.8\r\nt=0 0\r\nm=audio 20000 RTP/AVP 0\r\n"

// What the switch does not take gets its code and is counted.
func TestRefusals(t *testing.T) {
	b, calls := realSwitch(t, 5, nil)
	at := b.sw.cfg.Site.SIP
	u := newRaw(t, "127.0.0.8", at)
	plan := b.rig.Dialplan()
	plan.Peers = append(plan.Peers, DialplanPeer{Name: "raw", Kind: "phone", Sources: []string{u.local().String()}, Target: "sip:" + u.local().String()})
	if err := b.sw.plan(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	number := "70999999" // routed, and of no call of the rig
	for _, c := range []struct {
		name, request, metric, label string
		code                         int
	}{
		{"stranger", "", "switch_sip_refused_total", `reason="stranger"`, 403},
		{"unknown number", u.request("INVITE", "404404", "", goodSDP), "", "", 404},
		{"broken SDP", u.request("INVITE", number, "", "v=0\r\nm=audio x RTP/AVP 0\r\n"), "switch_call_attempts_total", "", 400},
		{"no CSeq", u.request("INVITE", number, "", goodSDP, "CSeq: 1 INVITE\r\n", ""), "switch_sip_refused_total", `reason="header-missing"`, 400},
		{"CSeq of another method", u.request("INVITE", number, "", goodSDP, "CSeq: 1 INVITE", "CSeq: 1 BYE"), "switch_sip_refused_total", `reason="cseq"`, 400},
		{"version", u.request("OPTIONS", number, "", "", " SIP/2.0\r\nVia", " SIP/3.0\r\nVia"), "switch_sip_refused_total", `reason="version"`, 505},
		{"too many hops", u.request("INVITE", number, "", goodSDP, "Max-Forwards: 70", "Max-Forwards: 0"), "switch_sip_refused_total", `reason="hops-out"`, 483},
		{"dialog of nobody", u.request("BYE", number, ";tag=unknown", ""), "", "", 481},
		{"unknown extension", u.request("INVITE", number, "", goodSDP, "Max-Forwards: 70", "Max-Forwards: 70\r\nRequire: levitate"), "", "", 420},
		{"method", u.request("PUBLISH", number, "", ""), "", "", 405},
	} {
		t.Run(c.name, func(t *testing.T) {
			from := u
			if c.name == "stranger" {
				from = newRaw(t, "127.0.0.9", at)
				c.request = from.request("INVITE", number, "", goodSDP)
			}
			before := 0.0
			if c.metric != "" {
				before = b.metric(t, c.metric, c.label)
			}
			if c.code == 0 { // nothing to answer with, RFC 3261 8.2.6.2: dropped
				if err := from.send([]byte(c.request)); err != nil {
					t.Fatal(err)
				}
			} else if m := from.final(t, c.request); m.code != c.code {
				t.Errorf("%d %s, not %d", m.code, m.reason, c.code)
			}
			for ctx := patient(t, 30*time.Second); c.metric != "" && b.metric(t, c.metric, c.label) <= before; {
				if !pause(ctx, 50*time.Millisecond) {
					t.Fatalf("%s{%s} has not grown", c.metric, c.label)
				}
			}
		})
	}
	flowing(t, calls)
	b.verdict(t, calls, 0)
}

// When no port is left a call is refused for now, and the next one is taken
// once ports have rested.
func TestPortsRunOut(t *testing.T) {
	b, calls := realSwitchAs(t, 2, nil, func(s Site) []byte {
		s.PortMax = s.PortMin + 7 // two legs, a pair each: two calls
		return DefaultConfig(s)
	})
	third := b.rig.NewCall(Mark{}, answerAtOnce)
	if err := third.Place(); err != nil {
		t.Fatal(err)
	}
	code, err := third.A.Final(patient(t, 20*time.Second))
	if code != 503 {
		t.Fatalf("third call: %d %v, not 503", code, err)
	}
	m := third.A.invite.final
	if m.get("retry-after") == "" || m.get("reason") == "" {
		t.Errorf("503 without Retry-After or Reason:\n%s", m.raw)
	}
	calls[0].Hush(t.Context())
	if err := calls[0].HangUp(patient(t, 20*time.Second), true); err != nil {
		t.Fatal(err)
	}
	ctx := patient(t, 30*time.Second)
	for {
		c := b.rig.NewCall(Mark{}, answerAtOnce)
		if c.Establish(ctx) == nil {
			b.verdict(t, []*Call{calls[1], c}, 0)
			return
		}
		if !pause(ctx, 200*time.Millisecond) {
			t.Fatal("ports of an ended call are not used again")
		}
	}
}

// The dialplan changes while calls are up: they stay, new ones follow it.
func TestDialplanChangesUnderCalls(t *testing.T) {
	b, calls := realSwitch(t, 10, nil)
	plan := b.rig.Dialplan()
	routes := plan.Routes
	plan.Routes = []DialplanRoute{{Prefix: "999", To: routes[0].To}}
	if err := b.sw.plan(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	refused := func(want int) {
		t.Helper()
		ctx := patient(t, 20*time.Second)
		for {
			c := b.rig.NewCall(Mark{}, answerAtOnce)
			if err := c.Place(); err != nil {
				t.Fatal(err)
			}
			code, err := c.A.Final(ctx)
			if code == want {
				if code == 200 {
					calls = append(calls, c)
				}
				return
			}
			if code == 200 {
				_ = c.HangUp(ctx, true)
			}
			if !pause(ctx, 100*time.Millisecond) {
				t.Fatalf("a new call gets %d %v, not %d", code, err, want)
			}
		}
	}
	refused(404)
	flowing(t, calls)
	if _, err := b.sw.API.PutDialplan(t.Context(), Dialplan{Routes: []DialplanRoute{{Prefix: "1", To: "nobody"}}}); err == nil {
		t.Error("a plan with a route to nobody was taken")
	}
	plan.Routes = routes
	if err := b.sw.plan(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	refused(200)
	flowing(t, calls[:10])
	n := len(calls)
	b.empty(t.Context(), calls, 100)
	for _, c := range calls[:n] {
		if v, _ := c.Violations(); len(v) > 0 {
			t.Errorf("%s: %q", c.Number, v)
		}
	}
}

// ended waits for the end of a rollout, one way or another.
func (b *bed) ended(t *testing.T, within time.Duration) Rollout {
	t.Helper()
	ctx := patient(t, within)
	for {
		r, err := b.sw.API.Rollout(ctx)
		if err == nil && (r.State == RolloutRolledBack || r.State == RolloutFailed) {
			return r
		}
		if !pause(ctx, 50*time.Millisecond) {
			t.Fatalf("the rollout did not end: %+v %v", r, err)
		}
	}
}

// broken writes a release that answers `version` and does sorry things else.
func broken(t *testing.T, release, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "switch")
	text := fmt.Sprintf("#!/bin/sh\ncase \"$1\" in version) exec %q \"$@\";; esac\n%s\n", release, script)
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil { //nolint:gosec // it must be executable
		t.Fatal(err)
	}
	return path
}

// A release that dies at its start moves nothing and hurts nobody.
func TestReleaseThatPanicsAtStart(t *testing.T) {
	b, calls := realSwitch(t, 20, nil)
	bin, _ := binaries()
	if _, err := b.sw.API.StartRollout(t.Context(), RolloutStart{
		Binary: broken(t, bin[1], "echo 'panic: at start' >&2; exit 2"), Steps: []int{100}, Pause: "100ms",
	}); err != nil {
		t.Fatal(err)
	}
	if r := b.ended(t, 90*time.Second); r.State != RolloutFailed || r.Error == "" {
		t.Errorf("state %s, error %q", r.State, r.Error)
	}
	b.verdict(t, calls, 0)
}

// Nobody confirms: all calls go back by themselves.
func TestRolloutNotConfirmedGoesBack(t *testing.T) {
	b, calls := realSwitch(t, 20, nil)
	bin, _ := binaries()
	old, err := b.sw.API.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.sw.API.StartRollout(t.Context(), RolloutStart{Binary: bin[1], Steps: []int{100}, Pause: "100ms", ConfirmWithin: "3s"}); err != nil {
		t.Fatal(err)
	}
	if r := b.ended(t, 90*time.Second); r.State != RolloutRolledBack {
		t.Errorf("state %s, error %q", r.State, r.Error)
	}
	now, err := b.sw.API.Calls(t.Context())
	if err != nil || len(now) != len(calls) {
		t.Errorf("%d calls of %d: %v", len(now), len(calls), err)
	}
	for _, c := range now {
		if c.Release != old.Release {
			t.Errorf("%s is on %s, and was on %s", c.To, c.Release, old.Release)
		}
	}
	b.verdict(t, calls, 0)
}

// With descriptors for a few calls only, the next one is refused for now; those
// that are up, the sockets between the processes, and a media process that comes
// again have what they need.
func TestDescriptorsRunOut(t *testing.T) {
	if os.Getenv("SWITCH_SYSTEM") == "" {
		t.Skip("SWITCH_SYSTEM is not set: tests of the whole switch run in .ci/run")
	}
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	few := filepath.Join(t.TempDir(), "switch")
	if err := os.WriteFile(few, fmt.Appendf(nil, "#!/bin/sh\nulimit -n 300\nexec %q \"$@\"\n", bin[0]), 0o755); err != nil { //nolint:gosec // it must be executable
		t.Fatal(err)
	}
	b, calls := realSwitchOf(t, few, 5, nil, nil)
	for ctx := patient(t, time.Minute); ; {
		c := b.rig.NewCall(Mark{}, answerAtOnce)
		if err := c.Place(); err != nil {
			t.Fatal(err)
		}
		code, err := c.A.Final(ctx)
		if code == 200 && len(calls) < 100 {
			calls = append(calls, c)
			c.Talk()
			continue
		}
		m := c.A.invite.final
		if code != 503 || m.get("retry-after") == "" || !strings.Contains(m.get("reason"), "ports-out") {
			t.Fatalf("after %d calls: %d %v\n%s", len(calls), code, err, m.raw)
		}
		break
	}
	t.Logf("%d calls", len(calls))
	// Cold records of media are written behind: the first of each call, and what it has learned since.
	for ctx := patient(t, 30*time.Second); b.metric(t, "switch_nats_messages", `stream="leg"`) < float64(len(calls)); {
		if !pause(ctx, 50*time.Millisecond) {
			t.Fatal("media has not written its records")
		}
	}
	pause(t.Context(), time.Second)
	flowing(t, calls)
	media, err := b.sw.Find(t.Context(), RoleMedia)
	if err != nil || len(media) != 1 {
		t.Fatalf("media processes: %v %v", media, err)
	}
	if err := b.sw.Kill(media[0]); err != nil {
		t.Fatal(err)
	}
	pause(t.Context(), 3*time.Second)
	if now, err := b.sw.API.Calls(t.Context()); err != nil || len(now) != len(calls) {
		t.Errorf("%d calls of %d: %v", len(now), len(calls), err)
	}
	flowing(t, calls)
}
