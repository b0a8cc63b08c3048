package nats

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

// Inboxes grow with the requests in flight, are used again, and go when idle.
func TestIdleInboxesGo(t *testing.T) {
	c := single(t)
	var before, most atomic.Int64                           // subscriptions
	s, err := c.bus.Subscribe("slow", func(m *natsgo.Msg) { // one at a time
		most.Store(max(most.Load(), int64(c.bus.NumSubscriptions())-before.Load()))
		time.AfterFunc(20*time.Millisecond, func() { _ = m.Respond([]byte("x")) })
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Unsubscribe() }()
	before.Store(int64(c.bus.NumSubscriptions()))
	p := newInboxes(c.bus)
	p.keepFor = 300 * time.Millisecond
	for range 2 {
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if _, err := p.request(context.Background(), natsgo.NewMsg("slow"), patient); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	if n := most.Load(); n < 1 || n > 20 {
		t.Errorf("%d inboxes for 20 requests in flight", n)
	}
	eventually(t, "idle inboxes have gone", func() bool { return int64(c.bus.NumSubscriptions()) == before.Load() })
}
