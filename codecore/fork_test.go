package codecore

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestForkOverIsAPlainCall: what a fork adds to the record goes with it, so the
// call can go back to a release that knows no forks.
func TestForkOverIsAPlainCall(t *testing.T) {
	for name, lines := range map[string]string{
		"parallel":    "a INVITE sdp to=2|b 180|c 200 sdp|a ACK|accept|applied|b 200 sdp|b 200 BYE|d 487",
		"serial":      "a INVITE sdp to=3|b 486|c 180|wait 20s|c 487|d 200 sdp|a ACK|accept|applied",
		"redirect":    "a INVITE sdp|b 302 contact=<sip:600@x>|c 200 sdp|a ACK|accept|applied",
		"early media": "a INVITE sdp to=2|c 183 sdp|b 200 sdp|a ACK|accept|applied|c 487|d 487",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			pinned := false
			for _, l := range strings.Split(lines, "|") {
				w.do(l)
				pinned = pinned || Summary(w.s).Pinned != ""
			}
			schema, raw, err := Encode(w.s, SchemaMin)
			if err != nil || schema != SchemaMin || !pinned || Summary(w.s).Pinned != "" {
				t.Fatalf("schema %d, pinned on the way %v, at the end by %q, %v\n%s", schema, pinned, Summary(w.s).Pinned, err, raw)
			}
			if w.s, err = Decode(schema, raw); err != nil {
				t.Fatal(err)
			}
			w.do("a INVITE hold") // and everything works that works in a plain call
			for _, leg := range w.parties()[1:] {
				if w.find(leg, "INVITE", false) != nil && w.s.B.CallID == w.first[leg].Msg.Get("Call-ID") {
					w.do(string(leg)+" 200 held", "a ACK", "a INVITE sdp", "a CANCEL")
					if w.find(leg, "CANCEL", false).Branch != w.find(leg, "INVITE", false).Branch {
						t.Error("a CANCEL of another branch than its INVITE's")
					}
					w.do(string(leg)+" 200 sdp", "a ACK", string(leg)+" BYE")
				}
			}
			if w.s.CDR.HungUpBy != "b" {
				t.Errorf("%+v", w.s.CDR)
			}
			if err := w.finish(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestIdsOfLegsAreNeverMintedTwice: names are handles and used again, what stands
// on the wire is not.
func TestIdsOfLegsAreNeverMintedTwice(t *testing.T) {
	w := newWorld(t)
	w.do("a INVITE sdp")
	seen := map[string]bool{w.s.B.CallID: true, w.s.B.Tag: true}
	for i := range 5 {
		w.do(string(w.parties()[i+1]) + " 302 contact=<sip:6" + string(rune('0'+i)) + "@x>")
		if len(w.s.More) != 0 {
			t.Fatalf("%d legs stay", len(w.s.More))
		}
		if seen[w.s.B.CallID] || seen[w.s.B.Tag] {
			t.Errorf("minted again: %s", w.s.B.Tag)
		}
		seen[w.s.B.CallID], seen[w.s.B.Tag] = true, true
	}
}

func TestForkIsBounded(t *testing.T) {
	w := newWorld(t)
	w.do("a INVITE sdp to=2")
	for range 40 { // every branch forwards to an account with many phones
		for _, leg := range w.parties()[1:] {
			if w.find(leg, "INVITE", false) != nil && len(w.asked[leg]) == 1 && w.s.Phase == PhaseInviting {
				w.do(string(leg) + " 302 contact=<sip:707@x> contact=<sip:61@x> contact=<sip:62@x> contact=<sip:63@x>")
			}
		}
		if len(w.s.More) > maxMore {
			t.Fatalf("%d legs", len(w.s.More))
		}
		if err := Check(w.s); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.finish(); err != nil {
		t.Error(err)
	}
}

func TestRedirectPolicies(t *testing.T) {
	p := *testPlan
	p.Redirect = RedirectRefuse
	w := newWorld(t)
	w.do("a INVITE sdp")
	e, ok := w.event("b 302 contact=<sip:600@x>").(SIPResponse)
	if !ok {
		t.Fatal("no response")
	}
	e.Plan = &p
	w.take(e)
	if !Ended(w.s) || w.s.CDR.Code != 480 {
		t.Errorf("refused: %+v", w.s.CDR)
	}
	for peer, want := range map[string]string{"dave": RedirectPass, "bob": RedirectRefuse, "": RedirectRefuse} {
		if got := p.redirect(peer); got != want {
			t.Errorf("%q: %s", peer, got)
		}
	}
	if got := testPlan.redirect("account:7"); got != RedirectFollow {
		t.Errorf("by default: %s", got)
	}
}

func TestByWeight(t *testing.T) {
	got := byWeight([]string{`"low; q=1" <sip:low@x;q=0.9>;q=0.1`, "sip:none@x", "<sip:half@x>; Q = 0.5", "<sip:bad@x>;q=many", ""})
	want := []string{"sip:none@x", "sip:bad@x", "", "sip:half@x", "sip:low@x;q=0.9"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if n := len(byWeight(make([]string, 100))); n != maxContacts {
		t.Errorf("%d of 100", n)
	}
}

func TestBestFailure(t *testing.T) {
	order := []Failure{{Status: 600}, {Status: 302, Contacts: []string{"x"}}, {Status: 484}, {Status: 486}, {Status: 408}, {Status: 500}, {Status: 503}}
	for i := range order[1:] {
		if rank(order[i]) >= rank(order[i+1]) {
			t.Errorf("%d is not before %d", order[i].Status, order[i+1].Status)
		}
	}
}

func TestPlanWithTargets(t *testing.T) {
	plan := func(r PlanRoute) *Plan {
		return &Plan{Peers: testPlan.Peers, Routes: []PlanRoute{r}, Limits: PlanLimits{NoAnswer: 30}}
	}
	two := []PlanTarget{{To: "bob"}, {To: "account:7"}}
	for name, c := range map[string]struct {
		r  PlanRoute
		ok bool
	}{
		"one":              {PlanRoute{To: "bob"}, true},
		"serial":           {PlanRoute{Targets: two}, true},
		"parallel":         {PlanRoute{Targets: two, Fork: ForkParallel}, true},
		"both":             {PlanRoute{To: "bob", Targets: two}, false},
		"neither":          {PlanRoute{}, false},
		"unknown":          {PlanRoute{Targets: []PlanTarget{{To: "bob"}, {To: "bill"}}}, false},
		"word":             {PlanRoute{Targets: two, Fork: "both"}, false},
		"too late":         {PlanRoute{Targets: []PlanTarget{{To: "bob", Seconds: 30}, {To: "carol"}}}, false},
		"too late by rule": {PlanRoute{Targets: []PlanTarget{{To: "bob"}, {To: "carol"}, {To: "dave"}}}, false},
		"seconds at once":  {PlanRoute{Targets: []PlanTarget{{To: "bob", Seconds: 3}}, Fork: ForkParallel}, false},
		"many":             {PlanRoute{Targets: slices.Repeat(two, 5), Fork: ForkParallel}, false},
		"one with a time":  {PlanRoute{Targets: []PlanTarget{{To: "bob", Seconds: 10}}}, true},
	} {
		if err := plan(c.r).Check(); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrPlan) {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := *testPlan
	if bad.Redirect = "maybe"; bad.Check() == nil {
		t.Error("an unknown policy")
	}
	if err := testPlan.Check(); err != nil {
		t.Error(err)
	}
}
