package loadtest

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// RFC 7616 3.9.1, both algorithms: the rig's digest is right without the switch's.
func TestDigestOfTheRFC(t *testing.T) {
	t.Parallel()
	for alg, want := range map[string]string{
		"MD5":     "8ca523f5e9506fed4657c9700eebdbec",
		"SHA-256": "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
	} {
		p := digestParams(`Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", algorithm=` + alg +
			`, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001, cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth`)
		if got := digestResponse(p, "GET", "Circle of Life"); got != want {
			t.Errorf("%s: %s, want %s", alg, got, want)
		}
	}
}

// heldCall is a call between two UAs of the rig, with nobody between.
func heldCall(t *testing.T, plan func(*Leg)) (a, b *Leg) {
	t.Helper()
	came := make(chan *Leg, 1)
	callee, err := NewUA(UAConfig{Accept: func(l *Leg) {
		l.SetSound(l.ua.Addr(), false)
		plan(l)
		came <- l
	}, Local: netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(callee.Close)
	caller, err := NewUA(UAConfig{Local: netip.MustParseAddrPort("127.0.0.1:0"), Switch: callee.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(caller.Close)
	callee.tr.(*udpTransport).to = caller.Addr()
	a, err = Invite(caller, "1", "2", func(l *Leg) { l.SetSound(caller.Addr(), false); l.user = rigUser; l.prackLate = true })
	if err != nil {
		t.Fatal(err)
	}
	return a, <-came
}

// What an end sees is told in order; a change of any of it is another outcome.
func TestOutcomeTellsWhatIsHeld(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a, b := heldCall(t, func(l *Leg) { l.Withhold("INFO", "PRACK"); l.ProgressReliably() })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(await(ctx, a.Reliable, "183"))
	b.Release("PRACK")
	must(a.Prack(ctx))
	b.Answer()
	must(await(ctx, b.Accepted, "ACK"))
	told := make(chan error, 1)
	go func() { told <- a.Info(ctx, "7") }()
	must(await(ctx, b.Held("INFO"), "INFO"))
	before := b.saw()
	select {
	case err := <-told:
		t.Fatalf("the INFO was answered while it was held: %v", err)
	default:
	}
	b.Release("INFO")
	must(<-told)
	must(a.Update(ctx, sendOnly))
	must(a.Bye(ctx))
	const want = "got INVITE(sendrecv) 200, PRACK(1 1 INVITE) 200, ACK, INFO(7) 200, UPDATE(sendonly) 200, BYE 200; asked "
	if got := b.saw(); got != want || before == got {
		t.Errorf("%s\nand before the release %s", got, before)
	}
	c := &Call{A: a, B: b}
	if whole := c.outcome(nil, []CDR{{Result: "answered", Code: 200, HungUpBy: "a"}}); strings.Contains(whole, "CDRs") ||
		whole == c.outcome(nil, nil) || whole == c.outcome(nil, []CDR{{}, {}}) || whole == c.outcome(ErrTimeout, nil) {
		t.Error(whole)
	}
}

// The rig's carrier takes nothing but the right answer to its challenge.
func TestCarrierOfTheRigLooksAtThePassword(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, spoil := range map[string]func(*message){
		"right": func(*message) {},
		"wrong": func(m *message) {
			for i, h := range m.headers {
				if h.name == "proxy-authenticate" {
					m.headers[i].value = strings.Replace(h.value, `nonce="n`, `nonce="m`, 1)
				}
			}
		},
	} {
		a, b := heldCall(t, (*Leg).Challenge)
		if err := await(ctx, a.Asked, "407"); err != nil {
			t.Fatal(err)
		}
		spoil(a.ask401)
		done := make(chan int, 1)
		go func() { code, _ := a.Authorize(ctx); done <- code }()
		if name == "right" {
			if err := await(ctx, b.Asked, "INVITE with the password"); err != nil {
				t.Fatal(err)
			}
			if got := b.saw(); !strings.HasPrefix(got, "got INVITE(sendrecv) 407"+ackedMark+", INVITE(sendrecv) 0;") {
				t.Error(got)
			}
			b.Answer()
		}
		if code := <-done; (code == 200) != (name == "right") {
			t.Errorf("%s password: %d", name, code)
		}
	}
}

// A call that ends otherwise than in the quiet run is found, and said how.
func TestMatrixFindsWhatDiffers(t *testing.T) {
	t.Parallel()
	m := &matrix{out: Matrix{
		Calls: 2, Kinds: []string{KindInfo}, Events: []string{EventNone, EventEdge}, Same: map[string]map[string]int{},
		Outcomes: map[string]map[string][]string{EventNone: {KindInfo: {"x\n", "y\n"}}, EventEdge: {KindInfo: {"x\n", "z\n"}}},
	}}
	m.compare()
	if m.out.Same[EventEdge][KindInfo] != 1 || len(m.out.Problems) != 1 || !strings.Contains(m.out.Problems[0], "calls 1:\nz\nwhere the quiet run has\ny\n") {
		t.Errorf("%v %q", m.out.Same, m.out.Problems)
	}
	var w strings.Builder
	m.out.WriteTable(&w)
	if !strings.Contains(w.String(), "| dtmf-info | 2/2 | 1/2 |") {
		t.Error(w.String())
	}
}
