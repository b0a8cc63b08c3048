package registrar

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"callswitch/codecore"
)

// The examples of RFC 7616 3.9.1, whose user, password and nonces they are.
func TestAnswersOfRFC7616(t *testing.T) {
	s := Secret{Trunk: "t", User: "Mufasa", Password: "Circle of Life"}
	for algorithm, want := range map[string]string{
		"MD5":     `response="8ca523f5e9506fed4657c9700eebdbec"`,
		"SHA-256": `response="753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"`,
	} {
		a := codecore.Authorize{
			Realm: "http-auth@example.org", Nonce: "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", Algorithm: algorithm, NC: 1,
			Opaque: "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS", Cnonce: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
		}
		name, value, ok := s.Answer(a, "GET", "/dir/index.html")
		if !ok || name != "Authorization" || !strings.Contains(value, want) {
			t.Errorf("%s: %v %s: %s", algorithm, ok, name, value)
		}
	}
}

// What we answer as a client, we take as a server.
func TestAnswerIsTakenByAuth(t *testing.T) {
	now, from := time.Now(), netip.MustParseAddr("192.0.2.1")
	auth := NewAuth(AuthConfig{Key: []byte("0123456789abcdef"), Realm: `a "b"`, Accounts: NewAccounts([]Account{NewAccount("me", `a "b"`, "pw")}), Born: now})
	challenge := auth.Challenges(StrongFirst, "me", from, false, now)[0]
	_, nonce, _ := strings.Cut(challenge, `nonce="`)
	nonce, _, _ = strings.Cut(nonce, `"`)
	for nc := uint32(1); nc < 3; nc++ {
		a := codecore.Authorize{Realm: `a "b"`, Nonce: nonce, Algorithm: SHA256, Cnonce: "c", NC: nc}
		_, value, _ := Secret{User: "me", Password: "pw"}.Answer(a, "INVITE", "sip:x@y")
		if name, v := auth.Check("INVITE", []string{value}, from, now); v != Granted || name != "me" {
			t.Errorf("nc %d: %q, verdict %d", nc, name, v)
		}
		_, value, _ = Secret{User: "me", Realm: `a "b"`, SHA256: sum(SHA256, `me:a "b":pw`)}.Answer(a, "BYE", "sip:x@y")
		if _, v := auth.Check("BYE", []string{value}, from, now); v != Stale { // the hash is right, the count was used
			t.Errorf("by hash: verdict %d", v)
		}
	}
}

func TestSecretsAreStrict(t *testing.T) {
	for name, s := range map[string]Secret{
		"no user":          {Trunk: "t", Password: "x"},
		"nothing to show":  {Trunk: "t", User: "u"},
		"both":             {Trunk: "t", User: "u", Password: "x", Realm: "r", MD5: strings.Repeat("0", 32)},
		"hash of no realm": {Trunk: "t", User: "u", MD5: strings.Repeat("0", 32)},
		"short hash":       {Trunk: "t", User: "u", Realm: "r", MD5: "00"},
	} {
		if err := s.Check(); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, _, ok := (Secret{User: "u", Password: "p", Realm: "r"}).Answer(codecore.Authorize{Realm: "else", Nonce: "n"}, "BYE", "sip:x"); ok {
		t.Error("a realm that is not the configured one is answered")
	}
}
