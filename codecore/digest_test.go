package codecore

import (
	"slices"
	"testing"
)

// posed is what a 401 with these headers asks.
func posed(values ...string) []Posed {
	m := Message{Status: 401}
	for _, v := range values {
		m.Add("WWW-Authenticate", v)
	}
	return ChallengesOf(&m)
}

// A carrier may offer several algorithms: all that we know are kept, in its order,
// for the edge knows which it has a hash for (RFC 8760 2.4).
func TestChallengesOfSeveralAlgorithms(t *testing.T) {
	asked := posed(
		`Digest realm="r", nonce="1", algorithm=SHA-512-256, qop="auth"`,
		`Digest realm="r", nonce="2", algorithm=SHA-256, qop="auth"`,
		`Digest realm="r", nonce="3", qop="auth"`,
		`Digest realm="r", nonce="4", algorithm=MD5, qop="auth"`, // the one without said the same
		`Digest realm="s", nonce="5", algorithm=MD5`,
	)
	var nonces []string
	for _, q := range asked {
		nonces = append(nonces, q.Nonce)
	}
	if want := []string{"2", "3", "5"}; !slices.Equal(nonces, want) {
		t.Errorf("nonces %q, want %q", nonces, want)
	}
	before := []Challenge{{Realm: "r", Nonce: "old"}, {Realm: "r", Nonce: "proxy's", Proxy: true}}
	if now := Pose(before, asked); len(now) != 4 || now[0].Nonce != "proxy's" || now[1].Nonce != "2" || now[2].Nonce != "3" {
		t.Errorf("%+v", now)
	}
	var many []Challenge
	for range 5 {
		many = Pose(many, asked)
	}
	for _, realm := range []string{"1", "2", "3", "4", "5", "6"} {
		many = Pose(many, posed(`Digest realm="`+realm+`", nonce="n"`))
	}
	if len(many) != maxChallenges || many[maxChallenges-1].Realm != "6" {
		t.Errorf("%+v", many)
	}
}

// An answer was wrong when its realm asks again, unless one of its challenges says
// that the nonce was too old; another realm says nothing of it.
func TestRefused(t *testing.T) {
	given := []Authorize{{Realm: "r", Algorithm: "SHA-256"}, {Realm: "r", Algorithm: "MD5"}}
	for name, c := range map[string]struct {
		asked []Posed
		want  bool
	}{
		"again":         {posed(`Digest realm="r", nonce="2", algorithm=SHA-256`, `Digest realm="r", nonce="2", algorithm=MD5`), true},
		"too old":       {posed(`Digest realm="r", nonce="2", algorithm=SHA-256, stale=true`, `Digest realm="r", nonce="2", algorithm=MD5`), false},
		"another realm": {posed(`Digest realm="s", nonce="2"`), false},
		"both realms":   {posed(`Digest realm="s", nonce="2", stale=true`, `Digest realm="r", nonce="2"`), true},
		"nobody":        {nil, false},
	} {
		if got := Refused(given, c.asked); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
