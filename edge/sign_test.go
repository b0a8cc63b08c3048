package edge

import (
	"strings"
	"testing"

	"callswitch/codecore"
	"callswitch/registrar"
	"callswitch/sessions"
)

// The worker says what is answered, the edge with which password. Without one
// nothing is sent, and the call hears it.
func TestEdgeSignsWhatTheWorkerAuthorizes(t *testing.T) {
	r := newRig(t, patient())
	r.edge.cfg.Secrets = map[string]registrar.Secret{"carrier": {Trunk: "carrier", User: "u", Password: "secret"}}
	r.says(func(d sessions.Delivery) *sessions.Answer {
		q, is := d.Event.Event().(codecore.SIPRequest)
		if !is || q.Msg.Method != "INVITE" {
			return ok(d)
		}
		known, unknown := r.outgoing(q.Token, "INVITE"), r.outgoing(q.Token, "BYE")
		known.Request.Auth = []codecore.Authorize{{Trunk: "carrier", Realm: "r", Nonce: "n", Proxy: true, Cnonce: "c", NC: 2, Algorithm: "SHA-256"}}
		unknown.Request.Auth = []codecore.Authorize{{Trunk: "other", Realm: "r", Nonce: "n"}}
		unknown.Request.Branch += "x"
		return ok(d, action(1, known), action(2, unknown))
	})
	r.send(r.request("INVITE", "1", ""))
	invite := r.hear("INVITE sip:2@")
	for _, want := range []string{"\r\nProxy-Authorization: Digest username=\"u\", realm=\"r\"", "nc=00000002", "algorithm=SHA-256", "uri=\"sip:2@"} {
		if !strings.Contains(invite, want) {
			t.Errorf("no %q in\n%s", want, invite)
		}
	}
	if strings.Contains(invite, "secret") {
		t.Error("the password is told")
	}
	if n := event[codecore.SIPTimeout](r, nil); n.Code != 407 || !strings.HasSuffix(n.Branch, ".1x") {
		t.Errorf("%+v", n)
	}
}

// Of the challenges of one realm the topmost that we have the hash for is answered
// (RFC 8760 2.4), and no other; a realm that cannot be answered keeps the request.
func TestEdgeSignsByTheAlgorithmItHas(t *testing.T) {
	var e Edge
	e.cfg.Secrets = map[string]registrar.Secret{
		"both": {Trunk: "both", User: "u", Password: "secret"},
		"old":  {Trunk: "old", User: "u", Realm: "r", MD5: "0123456789abcdef0123456789abcdef"},
	}
	ask := func(trunk, realm, algorithm string, proxy bool) codecore.Authorize {
		return codecore.Authorize{Trunk: trunk, Realm: realm, Nonce: "n", Cnonce: "c", NC: 1, Algorithm: algorithm, Proxy: proxy}
	}
	for name, c := range map[string]struct {
		auth []codecore.Authorize
		want string // algorithms answered
		ok   bool
	}{
		"a password":             {[]codecore.Authorize{ask("both", "r", "SHA-256", false), ask("both", "r", "MD5", false)}, "SHA-256", true},
		"a hash by MD5":          {[]codecore.Authorize{ask("old", "r", "SHA-256", false), ask("old", "r", "MD5", false)}, "MD5", true},
		"and the proxy of it":    {[]codecore.Authorize{ask("old", "r", "SHA-256", false), ask("old", "r", "MD5", false), ask("old", "r", "MD5", true)}, "MD5 MD5", true},
		"MD5 is not asked":       {[]codecore.Authorize{ask("old", "r", "SHA-256", false)}, "", false},
		"another realm, too":     {[]codecore.Authorize{ask("old", "r", "MD5", false), ask("old", "s", "MD5", false)}, "MD5", false},
		"nothing is asked":       {nil, "", true},
		"we are nobody's client": {[]codecore.Authorize{ask("none", "r", "MD5", false)}, "", false},
	} {
		headers, ok := e.signed(&codecore.SendRequest{Auth: c.auth})
		var got []string
		for i := 1; i < len(headers); i += 2 {
			_, algorithm, _ := strings.Cut(headers[i], "algorithm=")
			algorithm, _, _ = strings.Cut(algorithm, ",")
			got = append(got, algorithm)
		}
		if strings.Join(got, " ") != c.want || ok != c.ok {
			t.Errorf("%s: answers %q, %v", name, got, ok)
		}
	}
}
