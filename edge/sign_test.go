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
	r := newRig(t, quick())
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
