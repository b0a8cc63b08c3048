package registrant

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"callswitch/codecore"
)

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	plan1 = planOf(1, codecore.Enlist{AOR: "sip:49301234@carrier.example"})
	nodes = []string{"n1"}
)

func planOf(version uint64, rs ...codecore.Enlist) *codecore.Plan {
	p := &codecore.Plan{Version: version}
	for i := range rs {
		p.Peers = append(p.Peers, codecore.PlanPeer{Name: "carrier", Kind: "trunk", Register: &rs[i]})
	}
	return p
}

func fresh() State {
	id := codecore.EnlistID("carrier")
	return New("carrier", plan1, string(id)+"0123456789ab", 42, start)
}

// asked is a registration whose first REGISTER is under way.
func asked(t *testing.T) State {
	t.Helper()
	s := fresh().Tick(plan1, nodes, start)
	if s.Tx == nil || s.CSeq != 1 {
		t.Fatalf("%+v", s)
	}
	return s
}

// says is an answer to the REGISTER under way: status and headers.
func says(s State, status int, headers ...string) codecore.SIPResponse {
	m := codecore.Message{Method: "REGISTER", Status: status}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		m.Add(name, value)
	}
	return codecore.SIPResponse{Branch: s.Tx.Branch, Msg: m}
}

func bound(t *testing.T) State {
	t.Helper()
	s := asked(t)
	s = s.Answered(says(s, 200, "Expires: 600"), start)
	if !s.Bound(start) {
		t.Fatalf("%+v", s)
	}
	return s
}

func TestTheREGISTER(t *testing.T) {
	p := planOf(1, codecore.Enlist{AOR: "sip:49301234@carrier.example", URI: "sip:reg.example", Proxy: "sip:192.0.2.9;transport=tcp", Expires: 300})
	s := New("carrier", p, "tok", 42, start).Tick(p, nodes, start)
	a, ok := s.Request()
	r := a.Request
	if !ok || a.To != "edge.n1" || a.Seq != 1 || !a.First || r.Target != "sip:192.0.2.9;transport=tcp" || r.ContactUser != "tok" || !strings.HasPrefix(r.Branch, "z9hG4bKtok.") {
		t.Errorf("%+v", a)
	}
	got := r.Msg.Method + " " + r.Msg.URI
	for _, h := range []string{"Route", "From", "To", "CSeq", "Expires"} {
		got += "|" + r.Msg.Get(h)
	}
	want := "REGISTER sip:reg.example|<sip:192.0.2.9;transport=tcp;lr>|<sip:49301234@carrier.example>;tag=" + s.Tag + "|<sip:49301234@carrier.example>|1 REGISTER|300"
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if again, _ := s.Request(); again.Request.Branch != r.Branch || again.Request.Msg.Get("Call-ID") != r.Msg.Get("Call-ID") {
		t.Error("a repeated REGISTER is another one")
	}
}

// TestAnswers: what each answer to the first REGISTER leads to.
func TestAnswers(t *testing.T) {
	const challenge = `WWW-Authenticate: Digest realm="c", nonce="n1", qop="auth", algorithm=SHA-256`
	token := fresh().Token
	for name, c := range map[string]struct {
		status  int
		headers []string
		reason  string
		until   time.Duration // of the binding; 0 = none
		least   time.Duration // until the next REGISTER
		most    time.Duration
		again   string // the next REGISTER is sent at once: its Expires and nonce
	}{
		"as asked":                   {200, nil, "", time.Hour, 30 * time.Minute, time.Hour - 10*time.Minute, ""},
		"less, by Expires":           {200, []string{"Expires: 600"}, "", 600 * time.Second, 300 * time.Second, 500 * time.Second, ""},
		"less, by the Contact":       {200, []string{"Expires: 600", "Contact: <sip:other@h>;expires=9", "Contact: <sip:" + token + "@192.0.2.1>;q=1;expires=120"}, "", 120 * time.Second, 20 * time.Second, 60 * time.Second, ""},
		"a minute":                   {200, []string{"Expires: 60"}, "", time.Minute, 10 * time.Second, 25 * time.Second, ""},
		"very little":                {200, []string{"Expires: 3"}, "", 3 * time.Second, 100 * time.Millisecond, 2 * time.Second, ""},
		"for ever":                   {200, []string{"Expires: 4294967295"}, "", mostGranted, time.Hour, mostGranted, ""},
		"nothing":                    {200, []string{"Expires: 0"}, ReasonNotBound, 0, 15 * time.Second, 30 * time.Second, ""},
		"garbage in Expires":         {200, []string{"Expires: soon"}, "", time.Hour, 30 * time.Minute, time.Hour, ""},
		"a challenge":                {401, []string{challenge}, "", 0, 0, 0, "3600 n1"},
		"a proxy's challenge":        {407, []string{strings.Replace(challenge, "WWW", "Proxy", 1)}, "", 0, 0, 0, "3600 n1"},
		"a challenge by two ways":    {401, []string{challenge, strings.NewReplacer("n1", "n2", "SHA-256", "MD5").Replace(challenge)}, "", 0, 0, 0, "3600 n1n2"},
		"a challenge of another art": {401, []string{`WWW-Authenticate: Negotiate x`}, ReasonChallenge, 0, 11 * time.Minute, 23 * time.Minute, ""},
		"too brief":                  {423, []string{"Min-Expires: 7200"}, "", 0, 0, 0, "7200 "},
		"too brief for nobody":       {423, []string{"Min-Expires: 60"}, ReasonInterval, 0, 11 * time.Minute, 23 * time.Minute, ""},
		"too brief without a word":   {423, nil, ReasonInterval, 0, 11 * time.Minute, 23 * time.Minute, ""},
		"forbidden":                  {403, []string{"Retry-After: 1"}, ReasonForbidden, 0, 11 * time.Minute, 23 * time.Minute, ""},
		"not found":                  {404, nil, ReasonRefused, 0, 11 * time.Minute, 23 * time.Minute, ""},
		"busy":                       {503, nil, ReasonBusy, 0, 15 * time.Second, 30 * time.Second, ""},
		"busy for two minutes":       {503, []string{"Retry-After: 120 (see you);duration=5"}, ReasonBusy, 0, 120 * time.Second, 120 * time.Second, ""},
		"busy for a year":            {503, []string{"Retry-After: 31536000"}, ReasonBusy, 0, mostAfter, mostAfter, ""},
		"moved":                      {302, []string{"Contact: <sip:else.example>"}, ReasonRefused, 0, 11 * time.Minute, 23 * time.Minute, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := asked(t)
			s = s.Answered(says(s, c.status, c.headers...), start)
			if s.Reason != c.reason {
				t.Errorf("reason %q, want %q", s.Reason, c.reason)
			}
			if got := s.Until; c.until != 0 && !got.Equal(start.Add(c.until)) || c.until == 0 && !got.IsZero() {
				t.Errorf("bound until %v", got)
			}
			if c.again != "" {
				if s.Tx == nil || s.CSeq != 2 {
					t.Fatalf("not asked again: %+v", s)
				}
				got := strconv.Itoa(int(s.Tx.Expires)) + " "
				for _, a := range s.Tx.Auth {
					got += a.Nonce
				}
				if got != c.again {
					t.Errorf("asked again for %q, want %q", got, c.again)
				}
				return
			}
			if wait := s.Next.Sub(start); s.Tx != nil || wait < c.least || wait > c.most {
				t.Errorf("again after %v, want %v to %v", wait, c.least, c.most)
			}
			if next := s.Tick(plan1, nodes, s.Next); next.CSeq != 2 || next.CallID != s.CallID || next.Tag != s.Tag {
				t.Errorf("the next one: %+v", next)
			}
		})
	}
}

func TestChallenges(t *testing.T) {
	challenge := func(realm, nonce, more string) string {
		return `WWW-Authenticate: Digest realm="` + realm + `", nonce="` + nonce + `", qop="auth"` + more
	}
	s := asked(t)
	s = s.Answered(says(s, 401, challenge("a", "n1", "")), start)
	s = s.Answered(says(s, 401, challenge("a", "n2", ", stale=true")), start)
	s = s.Answered(says(s, 407, strings.Replace(challenge("b", "n3", ""), "WWW", "Proxy", 1)), start)
	if s.CSeq != 4 || len(s.Tx.Auth) != 2 || s.Tx.Auth[0].Nonce != "n2" || s.Tx.Auth[0].NC != 2 || s.Tx.Auth[1].NC != 1 || !s.Tx.Auth[1].Proxy {
		t.Fatalf("%+v", s.Tx)
	}
	s = s.Answered(says(s, 200), start)
	s = s.Tick(plan1, nodes, s.Next)
	if s.Tx.Auth[0].NC != 3 || s.Tx.Auth[1].NC != 2 || s.Tx.Auth[0].Cnonce == s.Tx.Auth[1].Nonce {
		t.Fatalf("the refresh does not answer at once: %+v", s.Tx)
	}
	// A nonce for one use: the refresh is challenged without stale, and that is no wrong password.
	s = s.Answered(says(s, 401, challenge("a", "n4", "")), start)
	if s.Reason != "" || s.CSeq != 6 || s.Tx.Auth[1].Nonce != "n4" {
		t.Fatalf("%+v", s)
	}
	if s = s.Answered(says(s, 401, challenge("a", "n5", "")), start); s.Reason != ReasonWrong || len(s.Challenges) != 0 || s.Tx != nil {
		t.Fatalf("%+v", s)
	}
	for s = s.Tick(plan1, nodes, s.Next); s.Tx != nil; { // a registrar that finds every nonce stale
		if s = s.Answered(says(s, 401, challenge("a", "n"+strconv.Itoa(int(s.CSeq)), ", stale=true")), start); s.CSeq > 20 {
			t.Fatal("asked for ever")
		}
	}
}

func TestBackOff(t *testing.T) {
	s := asked(t)
	now := start
	last := time.Duration(0)
	for range 12 {
		now = now.Add(txGiveUp + time.Second)
		if s = s.Tick(plan1, nodes, now); s.Tx != nil || s.Reason != ReasonNoAnswer {
			t.Fatalf("not given up: %+v", s)
		}
		last = s.Next.Sub(now)
		if last < quickFirst/2 || last > quickMost {
			t.Fatalf("after %d failures %v", s.Fails, last)
		}
		now = s.Next
		s = s.Tick(plan1, nodes, now)
	}
	if last < quickMost/2 {
		t.Errorf("after 12 failures %v", last)
	}
	// While something can be saved it is tried more often.
	s = bound(t)
	s = s.Tick(plan1, nodes, s.Next)
	now = s.Tx.At.Add(32 * time.Second)
	if s = s.TimedOut(codecore.SIPTimeout{Branch: s.Tx.Branch, Code: 408}, now); s.Next.After(s.Until.Add(-32 * time.Second)) {
		t.Errorf("again at %v, the binding ends at %v", s.Next, s.Until)
	}
	for code, reason := range map[int]string{408: ReasonNoAnswer, 503: ReasonUnreachable, 407: ReasonNoPassword} {
		s := asked(t)
		if s = s.TimedOut(codecore.SIPTimeout{Branch: s.Tx.Branch, Code: code}, start); s.Reason != reason {
			t.Errorf("%d: %q", code, s.Reason)
		}
	}
}

// A refresh comes early enough for one REGISTER to time out and the next to get
// through, whatever was granted from two minutes on.
func TestRefreshLeavesTimeForASecondOne(t *testing.T) {
	for seed := range uint64(50) {
		for _, span := range []time.Duration{2 * time.Minute, 5 * time.Minute, time.Hour, 24 * time.Hour} {
			s := New("carrier", plan1, "t", seed, start)
			at := s.refresh(start, span)
			s.Until, s.Fails, s.Tx = start.Add(span), 0, new(Tx)
			s.fail(408, ReasonNoAnswer, 0, at.Add(32*time.Second))
			if left := s.Until.Sub(s.Next); left < 10*time.Second || at.Before(start.Add(span/4)) {
				t.Errorf("%v: refreshed at %v, again %v before the end", span, at.Sub(start), left)
			}
		}
	}
}

// A registrar of several addresses: the next one is asked at once, with what was
// learned, until all have failed.
func TestAddressesOfARegistrar(t *testing.T) {
	s := asked(t)
	s = s.Answered(says(s, 401, `WWW-Authenticate: Digest realm="a", nonce="n", qop="auth"`), start)
	s = s.TimedOut(codecore.SIPTimeout{Branch: s.Tx.Branch, Code: 408, Failed: "udp/192.0.2.1:5060"}, start)
	if a, _ := s.Request(); s.CSeq != 3 || len(a.Request.Auth) != 1 || strings.Join(a.Request.Avoid, " ") != "udp/192.0.2.1:5060" {
		t.Fatalf("%+v", a)
	}
	busy := says(s, 503)
	busy.Failed = "udp/192.0.2.2:5060"
	s = s.Answered(busy, start)
	s = s.Answered(says(s, 401, `WWW-Authenticate: Digest realm="a", nonce="n2", stale=true, qop="auth"`), start)
	if a, _ := s.Request(); s.CSeq != 5 || len(a.Request.Avoid) != 2 {
		t.Fatalf("%+v", a)
	}
	if again := s.TimedOut(codecore.SIPTimeout{Branch: s.Tx.Branch, Code: 408, Failed: "udp/192.0.2.2:5060"}, start); again.Tx != nil || again.Reason != ReasonNoAnswer {
		t.Errorf("all have failed: %+v", again)
	}
	if s = s.Answered(says(s, 200), start).Tick(plan1, nodes, start.Add(time.Hour)); s.Tx == nil || len(s.Tx.Avoid) != 0 {
		t.Errorf("the next round does not begin anew: %+v", s.Tx)
	}
}

func TestLeaving(t *testing.T) {
	gone, old := planOf(2), planOf(0)
	s := bound(t)
	if s = s.Tick(old, nodes, start); s.Leaving {
		t.Fatal("a plan that was not read is no plan")
	}
	s = s.Tick(gone, nodes, start)
	if a, _ := s.Request(); !s.Leaving || a.Request.Msg.Get("Expires") != "0" || s.Doing(start) != Removing {
		t.Fatalf("%+v", s)
	}
	if was := s.Tick(plan1, nodes, start); !was.Leaving {
		t.Error("an older plan brings it back")
	}
	if back := s.Tick(planOf(3, plan1.Enlisted()["carrier"]), nodes, start); back.Leaving || back.Gone() {
		t.Error("a newer plan does not bring it back")
	}
	if over := s.Answered(says(s, 200), start); !over.Gone() {
		t.Errorf("not gone: %+v", over)
	}
	for i := 0; !s.Gone(); i++ { // nobody answers: the binding ends by itself
		s = s.TimedOut(codecore.SIPTimeout{Branch: s.Tx.Branch, Code: 408}, start)
		if !s.Gone() {
			s = s.Tick(gone, nodes, s.Next)
		}
		if i > leaveTries {
			t.Fatal("left for ever")
		}
	}
	if s := asked(t).Tick(gone, nodes, start); s.Gone() || s.Tx == nil {
		t.Error("a REGISTER under way is not waited for")
	} else if s = s.Answered(says(s, 200), start).Tick(gone, nodes, start); s.Tx == nil || s.Tx.Expires != 0 {
		t.Errorf("what it bound is not removed: %+v", s)
	}
	if s := fresh().Tick(gone, nil, start); !s.Gone() {
		t.Error("never asked for, and not gone")
	}
}

func TestAnotherAccount(t *testing.T) {
	next := planOf(2, codecore.Enlist{AOR: "sip:777@other.example"})
	s := bound(t).Tick(next, nodes, start)
	if a, _ := s.Request(); a.Request.Msg.URI != "sip:carrier.example" || a.Request.Msg.Get("Expires") != "0" {
		t.Fatalf("%+v", a)
	}
	call, cseq := s.CallID, s.CSeq
	s = s.Answered(says(s, 200), start).Tick(next, nodes, start)
	if a, _ := s.Request(); a.Request.Msg.URI != "sip:other.example" || s.CallID != call || s.CSeq != cseq+1 {
		t.Fatalf("%+v", s)
	}
	sooner := planOf(2, codecore.Enlist{AOR: "sip:49301234@carrier.example", Expires: 120})
	if s := bound(t).Tick(sooner, nodes, start); s.Tx == nil || s.Tx.Expires != 120 {
		t.Errorf("another interval is not asked for: %+v", s)
	}
}

func TestEdges(t *testing.T) {
	s := asked(t)
	if w := s.Tick(plan1, nil, start); w.Tx != s.Tx || w.Edge != "n1" {
		t.Error("without any edge the REGISTER is not kept")
	}
	w := s.Tick(plan1, []string{"n2"}, start)
	if a, _ := w.Request(); a.To != "edge.n2" || w.CSeq != 2 {
		t.Errorf("%+v", w)
	}
	if late := w.Answered(says(s, 200), start); late.Bound(start) {
		t.Error("the answer to an abandoned REGISTER was taken")
	}
}

// A record goes through JSON between any two steps and loses nothing.
func TestRecordIsWhole(t *testing.T) {
	s := bound(t)
	s = s.Tick(plan1, nodes, s.Next)
	s = s.Answered(says(s, 401, `WWW-Authenticate: Digest realm="a", nonce="n", opaque="o", qop="auth"`), start)
	s.Min, s.Fails, s.Reason, s.Status, s.Failed, s.Leaving = 3, 2, "x", 500, start, true
	in := Record{Form: Form, Owner: "w", Epoch: 3, N: 9, Release: "v", Claimed: start, State: s}
	value, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := Decode(value)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := json.Marshal(out)
	if string(again) != string(value) {
		t.Errorf("%s\n%s", value, again)
	}
	newer := strings.Replace(string(value), `"form":1`, `"form":2`, 1)
	if r, err := Decode([]byte(newer)); err != ErrForm || r.Owner != "w" || r.State.Peer != "" { //nolint:errorlint // as given
		t.Errorf("%+v %v", r, err)
	}
	for _, bad := range []string{"", "x", "{}", `{"form":1,"owner":"w","state":[]}`, `{"form":1,"owner":"w","state":{"peer":"x"}}`} {
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// What v0.2.0 has stored is read for ever.
func TestStoredRecord(t *testing.T) {
	value, err := os.ReadFile("testdata/record-1.json")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Decode(value)
	if err != nil {
		t.Fatal(err)
	}
	again, err := json.MarshalIndent(r, "", "  ")
	if err != nil || string(again)+"\n" != string(value) {
		t.Errorf("written anew it is another: a stored name has changed\n%s", again)
	}
	s := r.State
	if a, ok := s.Request(); !ok || a.Seq != 3 || len(a.Request.Auth) != 1 || s.Doing(start) != Registered {
		t.Errorf("%+v", s)
	}
}
