package codecore

import "testing"

// sent are the messages of a Step with that start: a method, or a status.
func sent(r Result, method string, status int) *Action {
	for _, a := range r.Actions {
		switch {
		case a.Request != nil && status == 0 && a.Request.Msg.Method == method,
			a.Response != nil && a.Response.Msg.Method == method && a.Response.Msg.Status == status:
			return &a
		}
	}
	return nil
}

// Who speaks RFC 2543 may have no tag: then none is said to him (RFC 3261 12.2.1.1).
func TestWhoHasNoTagIsToldNone(t *testing.T) {
	w := newWorld(t)
	r := w.do("a INVITE sdp untagged", "b 200 sdp", "a ACK untagged", "b BYE")
	if a := sent(r, "BYE", 0); a == nil || a.Request.Msg.Get("To") != `"Alice" <sip:100@192.0.2.1>` {
		t.Errorf("%+v", r.Actions)
	}
}

// A 2xx to REFER has a Contact (RFC 3515 2.2): the subscription is a usage of its own.
func TestREFERIsAcceptedWithAContact(t *testing.T) {
	w := newWorld(t)
	r := w.do("a INVITE sdp", "b 200 sdp", "a ACK", "b REFER refer=600")
	if a := sent(r, "REFER", 202); a == nil || a.Response.ContactUser != testToken {
		t.Errorf("%+v", r.Actions)
	}
}
