package nats

import (
	"context"
	"sync"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

// Inboxes grow with the requests in flight, are used again, and go when idle.
func TestIdleInboxesGo(t *testing.T) {
	c := single(t)
	s, err := c.bus.Subscribe("slow", func(m *natsgo.Msg) {
		time.AfterFunc(20*time.Millisecond, func() { _ = m.Respond([]byte("x")) })
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Unsubscribe() }()
	before := c.bus.NumSubscriptions()
	p := newInboxes(c.bus)
	p.keepFor = 300 * time.Millisecond
	for range 2 {
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if _, err := p.request(context.Background(), natsgo.NewMsg("slow"), 5*time.Second); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	if n := c.bus.NumSubscriptions() - before; n < 1 || n > 20 {
		t.Errorf("%d inboxes for 20 requests in flight", n)
	}
	eventually(t, "idle inboxes have gone", func() bool { return c.bus.NumSubscriptions() == before })
}
