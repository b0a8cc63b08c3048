package sessionstest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"callswitch/sessions"
)

// Faults are what a MemBus does to messages: chances in [0,1] of each.
type Faults struct {
	Lose      float64
	Duplicate float64
	Reorder   float64 // swapped with the one queued before it
}

// MemBus is a sessions.Bus inside one process, for tests only. Subjects may be
// subscribed with the wildcards of NATS: * for a token, > for the rest.
type MemBus struct {
	mu      sync.Mutex
	rng     *rand.Rand
	faults  Faults
	cut     bool
	subs    []*memSub
	replies map[string]chan []byte
	back    []func()
	inbox   atomic.Uint64
	sent    atomic.Uint64
}

// NewBus returns a faultless bus; seed decides which messages SetFaults hits.
func NewBus(seed uint64) *MemBus {
	return &MemBus{rng: rand.New(rand.NewPCG(seed, seed)), replies: map[string]chan []byte{}}
}

// SetFaults changes what happens to messages from now on.
func (b *MemBus) SetFaults(f Faults) { b.mu.Lock(); b.faults = f; b.mu.Unlock() }

// Cut makes the bus ErrBusAway; Restore ends that and calls back.
func (b *MemBus) Cut() { b.mu.Lock(); b.cut = true; b.mu.Unlock() }

// Restore brings the bus back.
func (b *MemBus) Restore() {
	b.mu.Lock()
	b.cut = false
	back := slices.Clone(b.back)
	b.mu.Unlock()
	for _, f := range back {
		f()
	}
}

// Subjects lists what is subscribed, for tests that look for leaks.
func (b *MemBus) Subjects() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]string, 0, len(b.subs))
	for _, s := range b.subs {
		out = append(out, s.subject)
	}
	return out
}

// Sent counts messages published or requested.
func (b *MemBus) Sent() uint64 { return b.sent.Load() }

// Publish implements sessions.Bus.
func (b *MemBus) Publish(subject string, data []byte) error {
	_, err := b.send(sessions.Msg{Subject: subject, Data: data})
	return err
}

// PublishReply is Publish with a subject for the answer.
func (b *MemBus) PublishReply(subject, reply string, data []byte) error {
	_, err := b.send(sessions.Msg{Subject: subject, Reply: reply, Data: data})
	return err
}

// Request implements sessions.Bus.
func (b *MemBus) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	inbox := fmt.Sprintf("_INBOX.%d", b.inbox.Add(1))
	answer := make(chan []byte, 1)
	b.mu.Lock()
	b.replies[inbox] = answer
	b.mu.Unlock()
	defer func() { b.mu.Lock(); delete(b.replies, inbox); b.mu.Unlock() }()
	heard, err := b.send(sessions.Msg{Subject: subject, Reply: inbox, Data: data})
	if err != nil {
		return nil, err
	}
	if !heard {
		return nil, sessions.ErrNoResponders
	}
	select {
	case a := <-answer:
		return a, nil
	case <-ctx.Done():
		return nil, sessions.ErrTimeout
	}
}

// send gives m to every plain subscriber and to one of each queue group.
func (b *MemBus) send(m sessions.Msg) (heard bool, err error) {
	b.sent.Add(1)
	m.Data = slices.Clone(m.Data)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut {
		return false, sessions.ErrBusAway
	}
	lost := b.rng.Float64() < b.faults.Lose
	if answer, ok := b.replies[m.Subject]; ok {
		if !lost {
			select {
			case answer <- m.Data:
			default:
			}
		}
		return true, nil
	}
	groups := map[string][]*memSub{}
	for _, s := range b.subs {
		if !matches(s.subject, m.Subject) {
			continue
		}
		heard = true
		if s.queue != "" {
			groups[s.queue] = append(groups[s.queue], s)
		} else if !lost {
			b.put(s, m)
		}
	}
	for _, g := range groups {
		if !lost {
			b.put(g[b.rng.IntN(len(g))], m)
		}
	}
	return heard, nil
}

func (b *MemBus) put(s *memSub, m sessions.Msg) {
	s.box.put(m, b.rng.Float64() < b.faults.Reorder)
	if b.rng.Float64() < b.faults.Duplicate {
		m.Data = slices.Clone(m.Data)
		s.box.put(m, false)
	}
}

// Subscribe implements sessions.Bus.
func (b *MemBus) Subscribe(subject, queue string, h func(sessions.Msg)) (sessions.Subscription, error) {
	box := newMemBox(h)
	return b.add(&memSub{bus: b, subject: subject, queue: queue, box: box, own: true}), nil
}

func (b *MemBus) add(s *memSub) *memSub {
	b.mu.Lock()
	b.subs = append(b.subs, s)
	b.mu.Unlock()
	return s
}

// Mailbox implements sessions.Bus.
func (b *MemBus) Mailbox(h func(sessions.Msg)) sessions.Mailbox {
	return &memMailbox{bus: b, box: newMemBox(h)}
}

// Flush implements sessions.Bus: a send has been seen when it returns.
func (b *MemBus) Flush(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut {
		return sessions.ErrBusAway
	}
	return nil
}

// OnReconnect implements sessions.Bus.
func (b *MemBus) OnReconnect(f func()) { b.mu.Lock(); b.back = append(b.back, f); b.mu.Unlock() }

type memMailbox struct {
	bus *MemBus
	box *memBox
}

func (m *memMailbox) Add(subject string) (sessions.Subscription, error) {
	return m.bus.add(&memSub{bus: m.bus, subject: subject, box: m.box}), nil
}

func (m *memMailbox) Close() error {
	m.bus.mu.Lock()
	m.bus.subs = slices.DeleteFunc(m.bus.subs, func(s *memSub) bool { return s.box == m.box })
	m.bus.mu.Unlock()
	m.box.close()
	return nil
}

type memSub struct {
	bus            *MemBus
	subject, queue string
	box            *memBox
	own            bool // its box ends with it
}

func (s *memSub) Unsubscribe() error {
	s.bus.mu.Lock()
	s.bus.subs = slices.DeleteFunc(s.bus.subs, func(o *memSub) bool { return o == s })
	s.bus.mu.Unlock()
	if s.own {
		s.box.close()
	}
	return nil
}

// matches reports whether subject falls under a pattern of NATS.
func matches(pattern, subject string) bool {
	if pattern == subject {
		return true
	}
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		switch {
		case token == ">":
			return len(s) > i
		case i >= len(s), token != "*" && token != s[i]:
			return false
		}
	}
	return len(p) == len(s)
}
