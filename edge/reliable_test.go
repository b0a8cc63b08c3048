package edge

import (
	"strings"
	"testing"

	"callswitch/codecore"
	"callswitch/sessions"
)

// ringsReliably answers an INVITE with a reliable 183, and anything else with 200.
func ringsReliably(d sessions.Delivery) *sessions.Answer {
	q, is := d.Event.Event().(codecore.SIPRequest)
	switch {
	case is && q.Msg.Method == "INVITE":
		a := response(q, 183)
		a.Response.Msg.Add("Require", "100rel")
		a.Response.Msg.Add("RSeq", "12")
		return ok(d, action(1, a))
	case is && q.Msg.Method == "PRACK":
		return ok(d, action(2, response(q, 200)))
	}
	return ok(d)
}

func TestAReliable183IsRepeatedUntilItsPrack(t *testing.T) {
	r := newRig(t, patient())
	r.says(ringsReliably)
	r.send(r.request("INVITE", "1", ""))
	for range 3 {
		if m := r.hear("183"); !strings.Contains(m, "RSeq: 12\r\n") {
			t.Fatal(m)
		}
	}
	q := event[codecore.SIPRequest](r, nil)
	r.send(r.request("PRACK", "2", "RAck: 12 7 INVITE\r\nTOTAG="+q.Token+".t"))
	r.hear("200 Fine")
	p := event(r, func(q codecore.SIPRequest) bool { return q.Msg.Method == "PRACK" })
	if p.Msg.Get("RAck") != "12 7 INVITE" {
		t.Fatalf("%+v", p)
	}
	r.edge.mu.Lock()
	defer r.edge.mu.Unlock()
	for _, tx := range r.edge.server {
		if tx.prov != nil {
			t.Error("a 183 with its PRACK is still repeated")
		}
	}
}

func TestWithoutAPrackTheCallHears(t *testing.T) {
	r := newRig(t, quick())
	r.says(ringsReliably)
	r.send(r.request("INVITE", "1", ""))
	q := event[codecore.SIPRequest](r, nil)
	r.send(r.request("PRACK", "2", "RAck: 11 7 INVITE\r\nTOTAG="+q.Token+".t")) // of another
	if n := event[codecore.NoPrack](r, nil); n.Tx != q.Tx || n.RSeq != 12 {
		t.Fatalf("%+v of %+v", n, q)
	}
}

// TestReliableResponsesComeInOrder: RFC 3262 4. A gap is closed by the far end's
// own repetition.
func TestReliableResponsesComeInOrder(t *testing.T) {
	tx := &clientTx{}
	for i, c := range []struct {
		tag, rseq string
		want      bool
	}{{"x", "5", true}, {"x", "7", false}, {"x", "5", false}, {"y", "1", true}, {"x", "6", true}, {"x", "7", true}, {"x", "0", false}, {"x", "q", false}} {
		if got := tx.inOrder(c.tag, c.rseq); got != c.want {
			t.Errorf("%d: RSeq %s of %s: %v", i, c.rseq, c.tag, got)
		}
	}
}

// TestACancelWithoutABranchCancelsWhatIsRinging: the worker that knew the INVITE
// cannot be asked any more.
func TestACancelWithoutABranchCancelsWhatIsRinging(t *testing.T) {
	r := newRig(t, patient())
	r.says(func(d sessions.Delivery) *sessions.Answer {
		switch e := d.Event.Event().(type) {
		case codecore.SIPRequest:
			return ok(d, action(1, r.outgoing(e.Token, "INVITE")))
		case codecore.SIPResponse:
			if e.Msg.Status == 180 {
				return ok(d, action(2, codecore.Effect{Request: &codecore.SendRequest{Msg: codecore.Message{Method: "CANCEL"}}}))
			}
		}
		return ok(d)
	})
	r.send(r.request("INVITE", "1", ""))
	_, rest, _ := strings.Cut(r.hear("INVITE sip:2@"), "\r\n")
	r.send("SIP/2.0 180 Ringing\r\n" + strings.Replace(rest, "To: <sip:2@x>", "To: <sip:2@x>;tag=far", 1))
	got := r.hear("CANCEL sip:2@")
	for _, want := range []string{"CSeq: 1 CANCEL", "To: <sip:2@x>\r\n", "Call-ID: leg2"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	line := func(m string) string { _, v, _ := strings.Cut(m, "Via: "); v, _, _ = strings.Cut(v, "\r\n"); return v }
	if line(got) != line(rest) {
		t.Errorf("its Via is %q, of the INVITE %q", line(got), line(rest))
	}
}
