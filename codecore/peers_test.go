package codecore

import (
	"fmt"
	"maps"
	"testing"
	"time"
)

func TestNote(t *testing.T) {
	var s State
	before := s
	for i, c := range []struct {
		boot string
		num  uint64
		want Noted
	}{
		{"b1", 5, NotedNew}, {"b1", 5, NotedRepeat}, {"b1", 4, NotedRepeat}, {"b1", 9, NotedNew}, // numbers may leave gaps
		{"b1", 0, NotedNew}, {"b2", 1, NotedNew}, {"b1", 10, NotedStale}, {"b2", 1, NotedRepeat}, {"b2", 2, NotedNew},
	} {
		if got := s.Note("edge.n1", c.boot, c.num); got != c.want {
			t.Errorf("%d: %s/%d is %d, want %d", i, c.boot, c.num, got, c.want)
		}
	}
	if before.Peers != nil {
		t.Error("a copy of the state was changed")
	}
	s.Peers["edge.n1"] = Peer{Boot: "b2", Event: 2, Accepted: 7, Minted: 9}
	s.Note("edge.n1", "b3", 1)
	if p := s.Peers["edge.n1"]; p != (Peer{Boot: "b3", Event: 1, Minted: 9}) {
		t.Errorf("a new incarnation has taken nothing, and numbers go on: %+v", p)
	}
}

// TestPendingFor: First stands on the oldest, and on each whose predecessor is
// over: without that, a receiver would wait for ever for a number that nobody
// sends any more.
func TestPendingFor(t *testing.T) {
	s := State{Peers: map[string]Peer{"e": {Boot: "b1", Accepted: 4, Minted: 9}}}
	for _, n := range []uint64{3, 4, 7, 8} {
		s.Pending = append(s.Pending, Action{To: "e", Seq: n}, Action{To: "other", Seq: n})
	}
	show := func(boot string) (out string) {
		for _, a := range PendingFor(s, "e", boot) {
			out += fmt.Sprint(a.Seq)
			if a.First {
				out += "F"
			}
			out += " "
		}
		return out
	}
	if got := show("b1"); got != "7F 8 " {
		t.Errorf("the incarnation that has up to 4 gets %s", got)
	}
	if got := show("b2"); got != "3F 4 7F 8 " {
		t.Errorf("a new incarnation gets %s", got)
	}
	if s.Pending[0].First {
		t.Error("the state was changed")
	}
}

func TestAcceptedOfAnOldIncarnationIsNothing(t *testing.T) {
	w := newWorld(t)
	w.do("a INVITE sdp", "b 200 sdp")
	if w.s.Note("edge.n1", "b2", 1) != NotedNew {
		t.Fatal("not new")
	}
	before := len(w.s.Pending)
	w.take(Accepted{To: "edge.n1", Boot: "b1", Seq: 99})
	if len(w.s.Pending) != before {
		t.Error("forgot what the new incarnation has not taken")
	}
	w.take(Accepted{To: "edge.n1", Boot: "b2", Seq: 99})
	if len(w.s.Pending) >= before || w.s.Peers["edge.n1"].Accepted > w.s.Peers["edge.n1"].Minted {
		t.Errorf("%d pending, peers %+v", len(w.s.Pending), w.s.Peers)
	}
}

// TestRecordDoesNotGrow: requests that were answered are forgotten.
func TestRecordDoesNotGrow(t *testing.T) {
	w := newWorld(t)
	w.do("a INVITE sdp", "b 200 sdp", "a ACK", "accept", "applied")
	size := func() int {
		_, raw, err := Encode(w.s, SchemaMin)
		if err != nil {
			t.Fatal(err)
		}
		return len(raw)
	}
	small := size()
	for range 200 {
		w.do("a INVITE moved", "b 488", "b INVITE moved", "a 200 sdp", "b ACK", "a OPTIONS", "accept", "applied")
	}
	if n := size(); n > small+1500 {
		t.Errorf("%d bytes after 800 requests, %d before", n, small)
	}
	for range 100 { // nobody answers
		w.do("a INFO dtmf")
	}
	if n := len(w.s.A.Srv); n > maxWaiting {
		t.Errorf("%d requests wait", n)
	}
	for i := range 100 { // a fork without end
		w.take(SIPResponse{Branch: w.s.branchOfInvite(), Msg: Message{Method: "INVITE", Status: 200, Headers: []Header{
			{"To", fmt.Sprintf("<sip:x@y>;tag=f%d", i)}, {"Call-ID", w.s.B.CallID}, {"CSeq", "1 INVITE"},
		}}})
	}
	if n := len(w.s.B.Dialogs); n > maxDialogs {
		t.Errorf("%d dialogs", n)
	}
}

func (s State) branchOfInvite() string {
	return (&call{State: s}).branch(LegB, "INVITE", 1, "")
}

// TestCaretaker: what the stub alone can do for a call that was set aside.
func TestCaretaker(t *testing.T) {
	w := newWorld(t)
	w.do("a INVITE sdp", "b 200 sdp", "accept", "a ACK", "wait 10s")
	_, raw, err := Encode(w.s, SchemaMin)
	if err != nil {
		t.Fatal(err)
	}
	stub, err := DecodeStub(raw)
	if err != nil {
		t.Fatal(err)
	}
	w.s = Caretaken(stub, w.now)
	if err := Check(w.s); err != nil {
		t.Fatal(err)
	}
	w.do("a OPTIONS", "b BYE")
	if w.find(LegA, "BYE", false) == nil || w.s.CDR.Seconds != 10 {
		t.Errorf("no BYE for the other party, or %g s", w.s.CDR.Seconds)
	}
	if err := w.finish(); err != nil {
		t.Error(err)
	}

	asks := newWorld(t) // a carrier that wants a password for the BYE gets it
	asks.do("a INVITE sdp", "b 200 sdp", "accept", "a ACK", "accept")
	asks.s = Caretaken(StubOf(asks.s), asks.now)
	asks.do("a BYE", "accept", "b 401 BYE auth=n1")
	if bye := asks.find(LegB, "BYE", false); bye == nil || len(bye.Auth) != 1 || bye.Auth[0].Nonce != "n1" || bye.Auth[0].Trunk != asks.s.CDR.ToPeer {
		t.Errorf("the challenge stays unanswered: %+v", bye)
	}
	asks.do("accept", "b 200 BYE")
	if err := asks.finish(); err != nil {
		t.Error(err)
	}

	ringing := newWorld(t)
	ringing.do("a INVITE sdp", "b 180")
	ringing.s = Caretaken(StubOf(ringing.s), ringing.now.Add(time.Second))
	if !Ended(ringing.s) || ringing.s.CDR.Result != "set-aside" {
		t.Errorf("a call nobody has answered: %s, %q", ringing.s.Phase, ringing.s.CDR.Result)
	}
	cancels := PendingFor(ringing.s, "edge.n1", "b1")
	if len(cancels) != 1 || cancels[0].Request.Msg.Method != "CANCEL" || cancels[0].Request.Branch != "" {
		t.Errorf("the callee goes on ringing: %+v", cancels)
	}
	if ringing.do("accept", "stored", "applied"); !Settled(ringing.s) {
		t.Errorf("a call set aside while it rings is not settled: %+v", ringing.s.Pending)
	}
	ended := newWorld(t)
	ended.do("a INVITE sdp", "b 486")
	ended.s = Caretaken(StubOf(ended.s), ended.now)
	if n := len(ended.s.Pending); !Ended(ended.s) || n != 1 || ended.s.Pending[0].CDR.Result != "busy" {
		t.Errorf("an ended call keeps its CDR: %+v", ended.s.Pending)
	}
}

func FuzzDecode(f *testing.F) {
	for _, lines := range [][]string{{"a INVITE sdp"}, {"a INVITE video", "b 200 sdp", "a ACK"}, {"a INVITE sdp", "b 486"}, {"a INVITE sdp to=2", "c 183 sdp"}, {"a INVITE sdp to=3", "wait 15s"}} {
		w := newWorld(f)
		w.do(lines...)
		_, raw, err := Encode(w.s, SchemaMin)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for schema := SchemaMin; schema <= Schema; schema++ {
			s, err := Decode(schema, raw)
			if err != nil || Check(s) != nil {
				continue
			}
			for _, e := range []Event{HangUp{Cause: "x"}, Fired{TimerTarget}, Fired{TimerNoAnswer}, Fired{TimerAck}, Fired{TimerMaxCall}, Fired{TimerGiveUp}, NoAck{Tx: "tx1"}} {
				Step(s, testStart, e)
			}
			if _, _, err := Encode(s, SchemaMin); err != nil {
				t.Errorf("read, but not written: %v", err)
			}
		}
		_, _ = DecodeStub(raw)
	})
}

// TestRequestsSayWhoseTheyAre: an edge leads a request to a connection of that
// account alone. A party that is none is nobody's.
func TestRequestsSayWhoseTheyAre(t *testing.T) {
	w := newWorld(t)
	w.do("a INVITE sdp to=720 peer=account:100", "b 200 webrtc,active", "a ACK", "a INFO dtmf", "b INFO dtmf")
	moved, err := move(w.s, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []State{w.s, moved} {
		whose := map[string]string{}
		for _, a := range PendingFor(s, "edge.n1", "b1") {
			if a.Request != nil && a.Request.Msg.Method != "ACK" {
				whose[string(w.party(a.Request.Msg.Get("Call-ID")))] = a.Request.Account
			}
		}
		if want := map[string]string{"a": "100", "b": "720"}; !maps.Equal(whose, want) {
			t.Errorf("%v, want %v", whose, want)
		}
	}
	again := w.do("b 200 webrtc,active") // its ACK once more
	if r := again.Actions[0].Request; r.Msg.Method != "ACK" || r.Account != "720" {
		t.Errorf("%+v", r)
	}
	plain := newWorld(t)
	plain.do("a INVITE sdp")
	if a := PendingFor(plain.s, "edge.n1", "b1"); a[0].Request.Account != "" {
		t.Errorf("%+v", a)
	}
}
