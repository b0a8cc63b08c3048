package media

import (
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// TestOrdersAreDoneAtOnceAndToldTogether: nobody waits to hear that an order has
// been carried out; that it has not, the worker hears at once.
func TestOrdersAreDoneAtOnceAndToldTogether(t *testing.T) {
	n := start(t, config(&memBus{}), func(m *Media) { m.times.gather = 100 * 365 * 24 * time.Hour }) // none ends while this runs
	heard := make(chan sessions.MediaDone, 4)
	if _, err := n.bus.Subscribe("here", "", func(m sessions.Msg) {
		var d sessions.MediaDone
		if err := wire.Open(m.Data, &d); err != nil {
			t.Error(err)
		}
		heard <- d
	}); err != nil {
		t.Fatal(err)
	}
	order := func(call string, port int) {
		t.Helper()
		data, err := wire.Seal(sessions.DoMedia{
			Call: codecore.CallID(call), Gen: codecore.Generation{Epoch: 1, N: 1},
			Media: codecore.Media{Node: "n1", Legs: []codecore.MediaLeg{{Leg: "a", Port: port}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range n.bus.handlers(sessions.SubjectDo("media.n1")) {
			h(sessions.Msg{Subject: sessions.SubjectDo("media.n1"), Reply: "here", Data: data})
		}
	}
	order("one", n.alloc("one")[0])
	order("two", n.alloc("two")[0])
	if s := n.Stats(); s.Calls != 2 || len(heard) != 0 {
		t.Errorf("%d calls, %d answers; want both done, none told", s.Calls, len(heard))
	}
	order("three", 1)
	if len(heard) != 1 || (<-heard).Reason != reasonNoLeg {
		t.Error("a refusal is told at once")
	}
	n.stop() // tells what it knows
	if len(heard) != 2 {
		t.Errorf("%d answers, want two", len(heard))
	}
}
