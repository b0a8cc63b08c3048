package edge

import (
	"fmt"
	"strings"
	"testing"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/registrar"
	"callswitch/sessions"
)

// A registration at a carrier is to the edge a call that nobody has begun: its
// REGISTER is performed once, the carrier's answer is delivered, and what the
// Answer holds goes out with the trunk's password.
func TestRegisterAtACarrier(t *testing.T) {
	r := newRig(t, patient())
	r.stop()
	r.own = func(c *Config) {
		c.Secrets = map[string]registrar.Secret{"club": {Trunk: "club", User: "us", Password: "open"}}
	}
	r.start("b2", "udp:127.0.0.1:0", patient())
	id := codecore.EnlistID("club")
	token := Token(key, id)
	request := func(seq uint64, auth ...codecore.Authorize) codecore.Action {
		m := codecore.Message{Method: "REGISTER", URI: "sip:club.example"}
		m.Add("From", "<sip:1@club.example>;tag=f")
		m.Add("To", "<sip:1@club.example>")
		m.Add("Call-ID", "c")
		m.Add("CSeq", fmt.Sprintf("%d REGISTER", seq))
		return codecore.Action{To: "edge.n1", Seq: seq, First: true, Effect: codecore.Effect{Request: &codecore.SendRequest{
			Msg: m, Branch: cookie + token + fmt.Sprintf(".%d", seq), Target: "sip:" + r.far.LocalAddr().String(), ContactUser: token, Auth: auth,
		}}}
	}
	r.says(func(d sessions.Delivery) *sessions.Answer {
		if e, is := d.Event.Event().(codecore.SIPResponse); is && e.Msg.Status == 401 {
			return ok(d, request(2, codecore.Authorize{Trunk: "club", Realm: "r", Nonce: "n", Cnonce: "x", NC: 1}))
		}
		return ok(d)
	})
	data, _ := wire.Seal(sessions.Do{Call: id, Actions: []codecore.Action{request(1)}})
	for range 3 { // the owner says it until there is an answer
		r.edge.onDo(sessions.Msg{Data: data}) // not by the bus, which it may not listen to yet
	}
	first := r.hear("REGISTER sip:club.example")
	if !strings.Contains(first, "Contact: <sip:"+token+"@"+r.edge.Addrs()[0].String()+">") || strings.Contains(first, "Authorization") {
		t.Fatalf("%s", first)
	}
	answer := func(to, status string) {
		head, _, _ := strings.Cut(to, "Max-Forwards")
		head = head[strings.Index(head, "\r\n")+2:]
		head, _, _ = strings.Cut(head, "Contact:")
		r.send("SIP/2.0 " + status + "\r\n" + head + "WWW-Authenticate: Digest realm=\"r\", nonce=\"n\", qop=\"auth\"\r\nContent-Length: 0\r\n\r\n")
	}
	answer(first, "401 Unauthorized")
	second := r.hear("REGISTER")
	for strings.Contains(second, "CSeq: 1 ") { // repeated before the 401 came
		second = r.hear("REGISTER")
	}
	if !strings.Contains(second, "CSeq: 2 REGISTER") || !strings.Contains(second, `Authorization: Digest username="us", realm="r", nonce="n"`) || strings.Contains(second, "open") {
		t.Fatalf("%s", second)
	}
	answer(second, "200 OK")
	event(r, func(e codecore.SIPResponse) bool { return e.Msg.Status == 200 && e.Branch == cookie+token+".2" })
}

// Who calls the Contact of a registration is that carrier, from wherever, and may
// say BYE too; who invents one is nobody.
func TestCallToTheContactOfARegistration(t *testing.T) {
	r := newRig(t, patient())
	r.plan.Store(&codecore.Plan{Peers: []codecore.PlanPeer{
		{Name: "club", Kind: "trunk", Register: &codecore.Enlist{AOR: "sip:1@club.example"}},
		{Name: "pub", Kind: "trunk", Register: &codecore.Enlist{AOR: "sip:1@pub.example", Contact: "us"}},
	}})
	invite := func(user, branch string) string {
		return strings.Replace(r.request("INVITE", branch, ""), "sip:100@", "sip:"+user+"@", 1)
	}
	club := Token(key, codecore.EnlistID("club"))
	for i, user := range []string{"us", club[:len(club)-1] + "x", Token(key, codecore.EnlistID("pub")), Token(key, codecore.EnlistID("none"))} {
		r.send(invite(user, fmt.Sprint("no", i)))
		r.hear("403")
	}
	r.send(invite(club, "yes"))
	q := event[codecore.SIPRequest](r, nil)
	if q.Peer != "club" {
		t.Errorf("%+v", q)
	}
	r.send(r.request("BYE", "bye", "TOTAG="+q.Token+".t"))
	event(r, func(e codecore.SIPRequest) bool { return e.Msg.Method == "BYE" })
}
