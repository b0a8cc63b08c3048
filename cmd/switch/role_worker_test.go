package main

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/handoff"
	"callswitch/internal/wire"
	"callswitch/sessions"
	"callswitch/sessions/sessionstest"
)

// oneCall is a runner with one call, which nobody steps.
type oneCall struct {
	handoff.Calls
	rec sessions.Record
}

func (c oneCall) List() []codecore.CallID { return []codecore.CallID{c.rec.ID} }
func (c oneCall) Snapshot(codecore.CallID) (sessions.Record, uint64, error) {
	return c.rec, 1, nil
}

func (c oneCall) Freeze(context.Context, codecore.CallID, uint64) (sessions.Record, bool, error) {
	return c.rec, true, nil
}

// lostBus loses every offer, and with the first one the store.
type lostBus struct {
	*sessionstest.MemBus
	store *sessions.MemStore
	lost  chan struct{}
}

func (b lostBus) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	if strings.HasSuffix(subject, handoff.VerbOffer) {
		b.store.SetAway(true)
		close(b.lost)
		return nil, sessions.ErrBusAway
	}
	var p handoff.Prepare
	if err := wire.Open(data, &p); err != nil {
		return nil, err
	}
	return wire.Seal(handoff.Verdicts{Verdicts: []handoff.Verdict{{Call: p.Items[0].Call}}})
}

// A worker that is told to end goes in time, whether or not anybody can say what
// became of the calls that it has offered.
func TestDrainEndsWithoutNATS(t *testing.T) {
	bus := lostBus{sessionstest.NewBus(1), sessions.NewMemStore(), make(chan struct{})}
	ready := make(chan struct{})
	driver := handoff.New(handoff.Config{
		Worker: "w-a", Bus: bus, Store: bus.store, Ready: func() { close(ready) },
		Calls:  oneCall{rec: sessions.Record{ID: "c", Owner: "w-a", Epoch: 1, N: 1, Rev: 1}},
		Living: func() []sessions.Process { return []sessions.Process{{Role: "worker", ID: "w-b"}} },
	})
	serve, stop := context.WithCancel(t.Context())
	defer stop()
	ended, drained := make(chan error, 1), make(chan struct{})
	go func() { ended <- driver.Run(serve) }()
	<-ready
	limit, reached := context.WithCancel(serve)
	defer reached()
	go func() {
		defer close(drained)
		drainWorker(limit, driver, slog.New(slog.DiscardHandler), stop)
	}()
	late := time.After(20 * time.Second)
	select {
	case <-bus.lost:
		reached()
	case <-late:
		t.Fatal("nothing is offered")
	}
	for drained != nil || ended != nil {
		select {
		case <-drained:
			drained = nil
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			ended = nil
		case <-late:
			t.Fatal("it waits for NATS")
		}
	}
}
