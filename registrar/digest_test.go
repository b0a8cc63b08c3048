package registrar

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// The examples of RFC 7616 3.9.1 and RFC 2617 3.5 (whose passwords differ by a
// letter), as headers on the wire.
func TestDigestOfTheRFCs(t *testing.T) {
	for _, c := range []struct{ name, password, header string }{
		{"RFC 7616 MD5", "Circle of Life", `Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", algorithm=MD5, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001, cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth, response="8ca523f5e9506fed4657c9700eebdbec", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`},
		{"RFC 7616 SHA-256", "Circle of Life", `Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", algorithm=SHA-256, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001, cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth, response="753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`},
		{"RFC 2617", "Circle Of Life", `Digest username="Mufasa",realm="testrealm@host.com",nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093",uri="/dir/index.html",qop="auth",nc=00000001,cnonce="0a4f113b",response="6629fae49393a05397450978507c4ef1"`},
	} {
		d, ok := parseCredentials(c.header)
		if !ok {
			t.Errorf("%s: not read", c.name)
			continue
		}
		if !d.knows(NewAccount(d.username, d.realm, c.password), "GET") {
			t.Errorf("%s: the right password is not known", c.name)
		}
		if d.knows(NewAccount(d.username, d.realm, c.password+" "), "GET") || d.knows(NewAccount(d.username, d.realm, c.password), "PUT") || d.knows(Account{Name: d.username}, "GET") {
			t.Errorf("%s: a wrong one is", c.name)
		}
	}
}

func TestCredentialsThatAreNone(t *testing.T) {
	good := `Digest username="a",realm="r",nonce="n",uri="sip:x",response="00",nc=00000001,cnonce="c",qop=auth`
	if c, ok := parseCredentials(good); !ok || c.algorithm != MD5 || c.nc != 1 {
		t.Fatalf("%+v %v", c, ok)
	}
	if c, ok := parseCredentials(strings.Replace(good, `"a"`, `"a\"\\b, c=d"`, 1)); !ok || c.username != `a"\b, c=d` {
		t.Errorf("a quoted pair: %q %v", c.username, ok)
	}
	for _, bad := range []string{
		"", "Digest", "Basic YTpi", good + `,username="b"`, good + ",algorithm=SHA-512", strings.Replace(good, "nc=00000001", "nc=1", 1),
		strings.Replace(good, "nc=00000001", "nc=0000000g", 1), strings.Replace(good, `"c",`, `"c`, 1), strings.Replace(good, `"c",`, `"c" x,`, 1),
		good + `,x="` + strings.Repeat("a", 4000) + `"`, strings.Replace(good, `username="a",`, "", 1), good + ",=", good + ",x",
	} {
		if _, ok := parseCredentials(bad); ok {
			t.Errorf("%q is read", bad)
		}
	}
}

func FuzzCredentials(f *testing.F) {
	f.Add(`Digest username="a",realm="r",nonce="n",uri="sip:x",response="00",nc=00000001,cnonce="c",qop=auth`)
	f.Fuzz(func(_ *testing.T, s string) { parseCredentials(s) })
}

// phone answers challenges.
type phone struct {
	acc Account
	nc  uint32
}

func (p *phone) answer(challenge, method string) string {
	p.nc++
	return p.answerWith(challenge, method, p.nc)
}

func (p *phone) answerWith(challenge, method string, nc uint32) string {
	_, rest, _ := strings.Cut(challenge, `nonce="`)
	nonce, _, _ := strings.Cut(rest, `"`)
	algorithm := MD5
	if strings.Contains(challenge, SHA256) {
		algorithm = SHA256
	}
	c := credentials{username: p.acc.Name, realm: "switch", nonce: nonce, uri: "sip:switch", algorithm: algorithm, cnonce: "x", qop: "auth", nc: nc}
	return fmt.Sprintf(`Digest username=%q,realm=%q,nonce=%q,uri=%q,response=%q,algorithm=%s,cnonce=%q,qop=%s,nc=%s`,
		c.username, c.realm, c.nonce, c.uri, answer(c, p.acc.ha1(algorithm), method), algorithm, c.cnonce, c.qop, hex8(nc))
}

var (
	home    = netip.MustParseAddr("192.0.2.1")
	crook   = netip.MustParseAddr("198.51.100.66")
	morning = time.Date(2026, 1, 2, 8, 0, 0, 0, time.UTC)
	bob     = NewAccount("bob", "switch", "secret")
)

func newTestAuth(most int) *Auth {
	return NewAuth(AuthConfig{Key: []byte("0123456789abcdef"), Realm: "switch", Accounts: NewAccounts([]Account{bob}), MaxNonce: most, Born: morning})
}

func TestChallengeAndAnswer(t *testing.T) {
	a, p := newTestAuth(0), phone{acc: bob}
	cs := a.Challenges(StrongFirst, "bob", home, false, morning)
	if len(cs) != 2 || !strings.Contains(cs[0], "algorithm=SHA-256,") || !strings.Contains(cs[1], "algorithm=MD5,") {
		t.Fatalf("%q", cs)
	}
	check := func(what string, want Verdict, header string, from netip.Addr, at time.Time) {
		t.Helper()
		if _, v := a.Check("REGISTER", []string{header}, from, at); v != want {
			t.Errorf("%s: %v, want %v", what, v, want)
		}
	}
	check("none", Missing, "", home, morning)
	first := p.answer(cs[0], "REGISTER")
	check("right", Granted, first, home, morning)
	check("the same again", Stale, first, home, morning)
	check("the next count", Granted, p.answer(cs[0], "REGISTER"), home, morning)
	check("by MD5", Granted, p.answer(cs[1], "REGISTER"), home, morning)
	check("from elsewhere", Stale, p.answer(cs[0], "REGISTER"), crook, morning)
	check("later", Stale, p.answer(cs[0], "REGISTER"), home, morning.Add(5*time.Minute+time.Second))
	check("another method", Wrong, p.answer(cs[0], "INVITE"), home, morning)
	check("count 0", Stale, p.answerWith(cs[0], "REGISTER", 0), home, morning)
	wrong := phone{acc: NewAccount("bob", "switch", "guess")}
	check("wrong", Wrong, wrong.answer(cs[0], "REGISTER"), home, morning)
	check("wrong with an old nonce", Wrong, wrong.answer(cs[0], "REGISTER"), home, morning.Add(time.Hour))
	check("an account that is none", Wrong, (&phone{acc: NewAccount("eve", "switch", "x")}).answer(cs[0], "REGISTER"), home, morning)
	check("another realm", Missing, strings.Replace(first, `realm="switch"`, `realm="other"`, 1), home, morning)
	check("without qop", Missing, strings.Replace(first, "qop=auth", "x=y", 1), home, morning)
	again := newTestAuth(0)
	again.counts.horizon = morning.Add(time.Second)
	if _, v := again.Check("REGISTER", []string{first}, home, morning.Add(time.Second)); v != Stale {
		t.Errorf("replayed to an edge that was born since: %v", v)
	}
	if c := a.Challenges([]string{MD5, SHA256}, "bob", home, true, morning); !strings.Contains(c[0], "algorithm=MD5,") || !strings.Contains(c[0], "stale=true") {
		t.Errorf("%q", c)
	}
}

// A successor in a planned change takes the nonces of before, each count once.
func TestASuccessorTakesTheNoncesOfBefore(t *testing.T) {
	a, p := newTestAuth(0), phone{acc: bob}
	at := morning.Add(10 * time.Minute)
	early := a.Challenges(StrongFirst, "bob", home, false, morning)[0]
	challenge, unused := a.Challenges(StrongFirst, "bob", home, false, at)[0], a.Challenges(StrongFirst, "bob", home, false, at)[0]
	check := func(a *Auth, what string, want Verdict, header string) {
		t.Helper()
		if _, v := a.Check("REGISTER", []string{header}, home, at); v != want {
			t.Errorf("%s: %v, want %v", what, v, want)
		}
	}
	a.Check("REGISTER", []string{p.answer(early, "REGISTER")}, home, morning)
	first := p.answer(challenge, "REGISTER")
	check(a, "right", Granted, first)
	state, err := json.Marshal(a.Seen(at))
	if err != nil {
		t.Fatal(err)
	}
	var seen Seen
	if err := json.Unmarshal(state, &seen); err != nil || len(seen.Used) != 1 {
		t.Fatalf("%s: %v; want the one nonce that is not too old", state, err)
	}
	b := NewAuth(AuthConfig{Key: a.cfg.Key, Realm: a.cfg.Realm, Accounts: a.cfg.Accounts, Born: at.Add(time.Minute)})
	b.Resume(seen)
	check(b, "replayed to the successor", Stale, first)
	check(b, "the next count", Granted, p.answer(challenge, "REGISTER"))
	check(b, "a nonce of before that was not used", Granted, p.answer(unused, "REGISTER"))
}

// Counts may overtake each other; none is taken twice, however full the table.
func TestCounts(t *testing.T) {
	c := newCounts(100, morning)
	for _, nc := range []uint32{3, 1, 2, 70, 69, 100} {
		if !c.take("n", morning, nc) {
			t.Errorf("%d is not taken", nc)
		}
	}
	for _, nc := range []uint32{0, 1, 2, 3, 69, 70, 100, 35} {
		if c.take("n", morning, nc) {
			t.Errorf("%d is taken again", nc)
		}
	}
	if !c.take("n", morning, 36) {
		t.Error("36 is 64 below the highest, and free")
	}
	for i := range 1000 {
		at := morning.Add(time.Duration(i) * time.Second)
		if n := fmt.Sprint(i); !c.take(n, at, 1) || c.take(n, at, 1) {
			t.Fatalf("nonce %d", i)
		}
	}
	if len(c.young)+len(c.old) > 100 {
		t.Errorf("%d nonces are kept", len(c.young)+len(c.old))
	}
	for i := range 1000 {
		if c.take(fmt.Sprint(i), morning.Add(time.Duration(i)*time.Second), 1) {
			t.Fatalf("nonce %d is taken again after it was forgotten", i)
		}
	}
}

// 5,000 wrong passwords: few are looked at, the honest phone gets in, and from
// the guesser's address not even the right one.
func TestGuessing(t *testing.T) {
	a, p := newTestAuth(0), phone{acc: bob}
	cs := a.Challenges(StrongFirst, "bob", crook, false, morning)
	looked, now := 0, morning
	for i := range 5000 {
		now = morning.Add(time.Duration(i) * 12 * time.Millisecond) // a minute
		guess := phone{acc: NewAccount("bob", "switch", fmt.Sprint(i))}
		if _, v := a.Check("REGISTER", []string{guess.answer(cs[0], "REGISTER")}, crook, now); v == Wrong {
			looked++
		}
	}
	if looked < sourceBurst || looked > sourceBurst+11 {
		t.Errorf("%d guesses were looked at in a minute", looked)
	}
	if _, v := a.Check("REGISTER", []string{p.answer(cs[0], "REGISTER")}, crook, now); v != Slowed {
		t.Errorf("the right password from the guesser: %v", v)
	}
	honest := a.Challenges(StrongFirst, "bob", home, false, now)
	if _, v := a.Check("REGISTER", []string{p.answer(honest[0], "REGISTER")}, home, now); v != Granted {
		t.Errorf("the honest phone: %v", v)
	}
	for i := range 1000 { // from everywhere
		from := netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)})
		a.Check("REGISTER", []string{(&phone{acc: NewAccount("bob", "switch", "x")}).answer(cs[0], "REGISTER")}, from, now)
	}
	if _, v := a.Check("REGISTER", []string{p.answer(honest[0], "REGISTER")}, home, now); v != Granted {
		t.Errorf("the honest phone, known here, while all the world guesses: %v", v)
	}
	if _, v := a.Check("REGISTER", []string{p.answer(cs[0], "REGISTER")}, netip.MustParseAddr("192.0.2.99"), now); v != Slowed {
		t.Errorf("a new address while all the world guesses: %v", v)
	}
	if len(a.guard.sources) > maxGuarded {
		t.Error("the table grows")
	}
}

func BenchmarkCheck(b *testing.B) {
	a, p := newTestAuth(0), phone{acc: bob}
	cs := a.Challenges(StrongFirst, "bob", home, false, morning)
	headers := make([]string, 1024)
	for i := range headers {
		headers[i] = p.answer(cs[0], "REGISTER")
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		a.Check("REGISTER", headers[i%1024:i%1024+1], home, morning)
	}
}
