package edge

import (
	"strings"
	"testing"

	"callswitch/codecore"
	"callswitch/sessions"
)

func TestAMergedRequestGets482(t *testing.T) {
	r := newRig(t, patient())
	r.send(r.request("INVITE", "1", ""))
	r.hear("100 Trying")
	r.send(r.request("INVITE", "2", "")) // the same, by another way
	if msg := r.hear("SIP/2.0 "); !strings.HasPrefix(msg, "SIP/2.0 482") || !strings.Contains(msg, `text="merged"`) {
		t.Fatal(msg)
	}
	r.send(r.request("INVITE", "1", ""))
	r.hear("100 Trying") // a retransmission is none
}

func TestOurOwnInviteComeBackGets482(t *testing.T) {
	r := newRig(t, patient())
	r.says(func(d sessions.Delivery) *sessions.Answer {
		if q, is := d.Event.Event().(codecore.SIPRequest); is && q.Msg.Method == "INVITE" {
			return ok(d, action(1, r.outgoing(q.Token, "INVITE")))
		}
		return ok(d)
	})
	r.send(r.request("INVITE", "1", ""))
	ours := r.hear("INVITE sip:2@")
	head, rest, _ := strings.Cut(ours, "\r\n")
	back := "\r\nVia: SIP/2.0/UDP " + r.far.LocalAddr().String() + ";branch=z9hG4bKproxy\r\n" + rest
	r.send(head + back)
	if msg := r.hear("SIP/2.0 4"); !strings.HasPrefix(msg, "SIP/2.0 482") || !strings.Contains(msg, `text="loop"`) {
		t.Fatal(msg)
	}
	_, port, _ := strings.Cut(r.far.LocalAddr().String(), ":")
	r.send("INVITE sip:other@127.0.0.1:" + port + " SIP/2.0" + strings.Replace(back, "z9hG4bKproxy", "z9hG4bKproxy2", 1))
	r.hear("100 Trying") // with another Request-URI it is a spiral
}
