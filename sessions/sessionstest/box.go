package sessionstest

import (
	"sync"

	"callswitch/sessions"
)

// memBox calls one handler with one message at a time.
type memBox struct {
	mu      sync.Mutex
	queue   []sessions.Msg
	handler func(sessions.Msg)
	running bool
	closed  bool
}

func newMemBox(h func(sessions.Msg)) *memBox { return &memBox{handler: h} }

func (b *memBox) put(m sessions.Msg, swap bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.queue = append(b.queue, m)
	if n := len(b.queue); swap && n > 1 {
		b.queue[n-1], b.queue[n-2] = b.queue[n-2], b.queue[n-1]
	}
	if !b.running {
		b.running = true
		go b.run()
	}
}

func (b *memBox) run() {
	for {
		b.mu.Lock()
		if b.closed || len(b.queue) == 0 {
			b.running = false
			b.mu.Unlock()
			return
		}
		m := b.queue[0]
		b.queue = b.queue[1:]
		b.mu.Unlock()
		b.handler(m)
	}
}

func (b *memBox) close() {
	b.mu.Lock()
	b.closed, b.queue = true, nil
	b.mu.Unlock()
}
