package codecore

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestAttendedTransfer: Bob talks with Alice in one call and with Carol in
// another, and joins them. What the first call sends by the loop is what the
// second gets, and the other way round; each moves after every event.
func TestAttendedTransfer(t *testing.T) {
	for _, side := range []LegID{LegA, LegB} { // Bob called Carol, or she called him
		first, second := newWorld(t), newWorld(t)
		n := 0
		for _, w := range []*world{first, second} {
			w.step = func(s State, now time.Time, e Event) (State, Result) {
				s, r := Step(s, now, e)
				if r.Locate == "" && len(r.Allocate) == 0 && s.Phase != "" {
					n++
					var err error
					if s, err = move(s, n); err != nil {
						t.Fatal(err)
					}
				}
				return s, r
			}
		}
		its := strings.Replace(testToken, "0", "f", 1)
		second.token = its
		first.do("a INVITE sdp", "b 200 sdp", "a ACK", "b INVITE hold", "a 200 held", "b ACK")
		second.do("a INVITE sdp", "b 200 sdp", "a ACK")
		l := second.s.leg(side)
		e := first.event("b REFER").(SIPRequest)
		d := Replaces{CallID: l.CallID, To: l.Tag, From: l.Dialogs[0].Tag}
		e.Msg.Add("Refer-To", "<sip:"+its+"@198.51.100.1:5060?Replaces="+url.QueryEscape(d.String())+">")
		loop(t, first, second, first.take(e))
		first.do("b 200 BYE")
		second.do(string(side) + " 200 BYE")
		if first.s.Transfer != nil || second.s.Transfer != nil || len(first.s.More)+len(second.s.More) > 0 {
			t.Fatalf("something is left: %+v %+v", first.s.Transfer, second.s.Transfer)
		}
		if a, b := first.s.A.Sound, second.s.leg(other(side)).Sound; !a.Sends || !a.Hears || !b.Sends || !b.Hears {
			t.Errorf("they do not hear each other: %+v %+v", a, b)
		}
		// One hangs up: the other hears it through both calls.
		loop(t, first, second, first.do("a BYE"))
		if !Ended(first.s) || !Ended(second.s) || second.find(other(side), "BYE", false) == nil {
			t.Errorf("%s: the calls are %s and %s", side, first.s.Phase, second.s.Phase)
		}
		if c := first.s.CDR; c.TransferredTo != "call:"+callOf(its) || c.TransferredBy != "bob" {
			t.Errorf("the CDR says %+v", c)
		}
	}
}

// loop carries what one call sends to the other, until both are quiet. What goes
// to phones is answered as they would.
func loop(t *testing.T, from, to *world, r Result) {
	for _, a := range r.Actions {
		var e Event
		switch {
		case a.Request != nil && a.Request.Flow == LoopFlow:
			m := a.Request.Msg
			m.Headers = append([]Header{{"Via", "SIP/2.0/UDP 198.51.100.1;branch=" + a.Request.Branch}, {"Contact", "<sip:" + from.s.Token + "@198.51.100.1>"}}, m.Headers...)
			e = SIPRequest{Edge: "n1", Flow: LoopFlow, Token: to.s.Token, Tx: "loop-" + a.Request.Branch, At: to.now, Msg: m}
			if m.Method == "ACK" {
				e = SIPRequest{Edge: "n1", Flow: LoopFlow, Token: to.s.Token, At: to.now, Msg: m}
			}
		case a.Response != nil && a.Response.Flow == LoopFlow:
			m := a.Response.Msg
			m.Headers = append([]Header{{"Contact", "<sip:" + from.s.Token + "@198.51.100.1>"}}, m.Headers...)
			e = SIPResponse{Branch: strings.TrimPrefix(a.Response.Tx, "loop-"), At: to.now, Msg: m}
		case a.Request != nil && a.Request.Msg.Method == "INVITE":
			leg := from.party(a.Request.Msg.Get("Call-ID"))
			loop(t, from, to, from.do(string(leg)+" 200 sdp"))
			continue
		case a.Request != nil && a.Request.Msg.Method == "NOTIFY":
			loop(t, from, to, from.do("b 200 NOTIFY"))
			continue
		default:
			continue
		}
		loop(t, to, from, to.take(e))
	}
}
