package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"

	natsgo "github.com/nats-io/nats.go"

	"callswitch/sessions"
)

var _ sessions.Bus = (*Conn)(nil)

// Limits of one Subscribe: what exceeds them is dropped and counted.
const (
	pendingMsgs  = 1 << 16
	pendingBytes = 64 << 20
)

// Publish sends data to whoever listens, once at most.
func (c *Conn) Publish(subject string, data []byte) error {
	if err := c.bus.Publish(subject, data); err != nil {
		return awayErr(err)
	}
	return nil
}

// hdrFrom names, beside an answer, the process that gives it. Who does not know
// it passes over it.
const hdrFrom = "From"

// PublishFrom is Publish with the sender's name beside the data.
func (c *Conn) PublishFrom(subject string, data []byte, from string) error {
	if err := c.bus.PublishMsg(&natsgo.Msg{Subject: subject, Data: data, Header: natsgo.Header{hdrFrom: {from}}}); err != nil {
		return awayErr(err)
	}
	return nil
}

// Request waits for one answer until ctx ends (sessions.ErrTimeout). A ctx
// without a deadline waits for ever: an answer lost with its connection is not
// reported.
func (c *Conn) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	answer, _, err := c.RequestFrom(ctx, subject, data)
	return answer, err
}

// RequestFrom is Request that also returns the name PublishFrom gave the answer,
// "" = none.
func (c *Conn) RequestFrom(ctx context.Context, subject string, data []byte) (answer []byte, from string, err error) {
	r, err := c.ask.request(ctx, &natsgo.Msg{Subject: subject, Data: data}, 0)
	if err != nil {
		return nil, "", err
	}
	if len(r.Header) > 0 {
		from = r.Header.Get(hdrFrom)
	}
	return r.Data, from, nil
}

// Subscribe calls h for each message, one at a time, on a goroutine of its own.
func (c *Conn) Subscribe(subject, queue string, h func(sessions.Msg)) (sessions.Subscription, error) {
	s, err := c.bus.QueueSubscribe(subject, queue, func(m *natsgo.Msg) { h(plain(m)) })
	if err != nil {
		return nil, fmt.Errorf("nats: subscribe %s: %w", subject, awayErr(err))
	}
	if err := s.SetPendingLimits(pendingMsgs, pendingBytes); err != nil {
		return nil, fmt.Errorf("nats: subscribe %s: %w", subject, err)
	}
	return sub{s}, nil
}

func plain(m *natsgo.Msg) sessions.Msg {
	return sessions.Msg{Subject: m.Subject, Reply: m.Reply, Data: m.Data}
}

// sub ends an interest; ending it twice, or after its connection, is no error.
type sub struct{ s *natsgo.Subscription }

func (s sub) Unsubscribe() error {
	err := s.s.Unsubscribe()
	if errors.Is(err, natsgo.ErrBadSubscription) || errors.Is(err, natsgo.ErrConnectionClosed) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("nats: unsubscribe: %w", err)
	}
	return nil
}

// mailbox feeds many subjects through one channel into one goroutine.
type mailbox struct {
	c    *Conn
	ch   chan *natsgo.Msg
	quit chan struct{}

	mu     sync.Mutex
	subs   map[*natsgo.Subscription]struct{}
	closed bool
}

// Mailbox feeds many subjects into h, one message at a time. Up to
// Config.MailboxSize messages wait.
func (c *Conn) Mailbox(h func(sessions.Msg)) sessions.Mailbox {
	b := &mailbox{c: c, ch: make(chan *natsgo.Msg, c.cfg.MailboxSize), quit: make(chan struct{}), subs: map[*natsgo.Subscription]struct{}{}}
	go b.run(h)
	return b
}

func (b *mailbox) run(h func(sessions.Msg)) {
	for {
		select {
		case <-b.quit:
			return
		case m := <-b.ch:
			h(plain(m))
		}
	}
}

func (b *mailbox) Add(subject string) (sessions.Subscription, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("nats: mailbox is closed")
	}
	s, err := b.c.bus.ChanSubscribe(subject, b.ch)
	if err != nil {
		return nil, fmt.Errorf("nats: subscribe %s: %w", subject, awayErr(err))
	}
	b.subs[s] = struct{}{}
	return mailSub{b, s}, nil
}

// Close ends all subjects and drops what waits. It does not wait for h.
func (b *mailbox) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	var errs []error
	for s := range b.subs {
		errs = append(errs, sub{s}.Unsubscribe())
	}
	clear(b.subs)
	close(b.quit)
	return errors.Join(errs...)
}

// mailSub is one subject of a mailbox.
type mailSub struct {
	b *mailbox
	s *natsgo.Subscription
}

func (m mailSub) Unsubscribe() error {
	m.b.mu.Lock()
	_, ok := m.b.subs[m.s]
	delete(m.b.subs, m.s)
	m.b.mu.Unlock()
	if !ok {
		return nil
	}
	return sub{m.s}.Unsubscribe()
}
