package edge

import (
	"strings"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// answers200 has every INVITE answered.
func answers200(d sessions.Delivery) *sessions.Answer {
	if q, is := d.Event.Event().(codecore.SIPRequest); is && q.Msg.Method == "INVITE" {
		return ok(d, action(1, response(q, 200)))
	}
	return ok(d)
}

// methods reads the methods of the requests delivered until the last one.
func methods(r *rig, last string) (all []string) {
	event(r, func(q codecore.SIPRequest) bool {
		all = append(all, q.Msg.Method)
		return q.Msg.Method == last
	})
	return all
}

// TestAnAckWaitsForOthersAndTheNextEventTakesItAlong: nobody waits for what an
// ACK brings, so many calls' go to the workers together; order is kept.
func TestAnAckWaitsForOthersAndTheNextEventTakesItAlong(t *testing.T) {
	lim := patient()
	lim.Gather, lim.Confirm = time.Hour, time.Hour
	r := newRig(t, lim)
	r.says(answers200)
	r.send(r.request("INVITE", "1", ""))
	r.hear("200 Fine")
	q := event[codecore.SIPRequest](r, nil)
	r.send(r.request("ACK", "2", "TOTAG="+q.Token+".t"))
	r.send(strings.ReplaceAll(r.request("INVITE", "3", ""), "c-", "d-"))
	methods(r, "INVITE")
	r.edge.mu.Lock()
	if c := r.edge.calls[codecore.CallID(q.Token[:idLen])]; c.busy || len(c.queue) != 1 {
		t.Errorf("busy %t, %d events wait, want the ACK", c.busy, len(c.queue))
	}
	r.edge.mu.Unlock()
	r.send(r.request("BYE", "4", "TOTAG="+q.Token+".t"))
	if got := strings.Join(methods(r, "BYE"), " "); got != "ACK BYE" {
		t.Errorf("%s delivered, want the ACK before the BYE", got)
	}
}

// TestAnOwnerThatMissedTheAckHearsOfIt: the ACK is not saved, so after a crash the
// next owner repeats the 2xx; the phone does not hear it again, the owner hears ACK.
func TestAnOwnerThatMissedTheAckHearsOfIt(t *testing.T) {
	r := newRig(t, patient())
	r.says(answers200)
	r.send(r.request("INVITE", "1", ""))
	r.hear("200 Fine")
	q := event[codecore.SIPRequest](r, nil)
	isAck := func(q codecore.SIPRequest) bool { return q.Msg.Method == "ACK" }
	repeat := func() {
		t.Helper()
		data, err := wire.Seal(sessions.Do{Call: codecore.CallID(q.Token[:idLen]), Actions: []codecore.Action{action(1, response(q, 200))}})
		if err == nil {
			err = r.bus.Publish(sessions.SubjectDo("edge.n1"), data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	repeat() // nobody has acknowledged it yet: nothing is made up
	r.send(r.request("ACK", "2", "TOTAG="+q.Token+".t"))
	first := event(r, isAck)
	if first.Msg.Get("Via") == "" {
		t.Fatal("an ACK was made up")
	}
	for end := time.Now().Add(guard); ; time.Sleep(time.Millisecond) { // until that one is delivered
		r.edge.mu.Lock()
		waits := len(r.edge.calls[codecore.CallID(q.Token[:idLen])].queue)
		r.edge.mu.Unlock()
		if waits == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the ACK is not taken")
		}
	}
	repeat()
	again := event(r, isAck)
	for _, name := range []string{"From", "To", "Call-ID", "CSeq"} {
		if again.Msg.Get(name) != first.Msg.Get(name) {
			t.Errorf("%s: %s, and again %s", name, first.Msg.Get(name), again.Msg.Get(name))
		}
	}
	if again.Tx != q.Tx || again.Token != first.Token || again.Edge != first.Edge {
		t.Errorf("%+v", again)
	}
}

// TestAnEdgeKilledWithAnAckCostsARetransmission: the 2xx is pending still, so it
// is repeated to the next incarnation, and the phone acknowledges it again.
func TestAnEdgeKilledWithAnAckCostsARetransmission(t *testing.T) {
	lim := patient()
	lim.Gather = time.Hour
	r := newRig(t, lim)
	r.says(answers200)
	r.send(r.request("INVITE", "1", ""))
	r.hear("200 Fine")
	q := event[codecore.SIPRequest](r, nil)
	ack := r.request("ACK", "2", "TOTAG="+q.Token+".t")
	r.send(ack)
	r.await(func() bool { return r.edge.stats.Received.Load() == 2 })
	lim.Gather = 20 * time.Millisecond
	r.again("b2", lim)
	again := action(1, response(q, 200))
	again.First = true
	data, err := wire.Seal(sessions.Do{Call: codecore.CallID(q.Token[:idLen]), Actions: []codecore.Action{again}})
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(guard); ; time.Sleep(time.Millisecond) {
		if err = r.bus.Publish(sessions.SubjectDo("edge.n1"), data); err != nil || time.Now().After(end) {
			t.Fatal("nobody took the 2xx", err)
		}
		if r.edge.stats.Actions.Load() > 0 {
			break
		}
	}
	r.hear("200 Fine")
	r.send(ack)
	if a := event(r, func(q codecore.SIPRequest) bool { return q.Msg.Method == "ACK" }); a.Tx != q.Tx {
		t.Error("the ACK has not found its INVITE")
	}
}
