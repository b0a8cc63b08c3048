package near

import (
	"errors"
	"sync"
	"sync/atomic"

	"callswitch/sessions"
)

// boxSize is how many messages of streams wait for one Subscribe's handler.
const boxSize = 1024

// An entry is one subject that a handler here listens to.
type entry struct {
	subject string
	kind    Kind
	box     *box
	h       func(sessions.Msg)
	open    []uint64    // unanswered requests; guarded by Bus.mu
	closed  atomic.Bool // what still waits is dropped
}

// message is what came over a stream.
type message struct {
	subject, reply string
	data           []byte
}

// A box runs one handler, one message at a time, whichever way it came.
type box struct {
	mu sync.Mutex // held while the handler runs

	// nil: the handler does not block, and is called by the reader of the stream
	// itself, a wake-up less.
	queue chan handed
	quit  chan struct{}
	once  sync.Once
}
type handed struct {
	to *entry
	m  message
}

// put gives a message to e's handler; false when it is behind.
func (x *box) put(e *entry, m message) bool {
	if x.queue == nil {
		x.run(e, m)
		return true
	}
	select {
	case x.queue <- handed{e, m}:
		return true
	default:
		return false
	}
}

func (x *box) run(e *entry, m message) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !e.closed.Load() {
		e.h(sessions.Msg{Subject: m.subject, Reply: m.reply, Data: m.data})
	}
}

// far is a handler's other way in.
func (x *box) far(h func(sessions.Msg)) func(sessions.Msg) {
	return func(m sessions.Msg) {
		x.mu.Lock()
		defer x.mu.Unlock()
		h(m)
	}
}

func (x *box) stop() {
	if x.queue != nil {
		x.once.Do(func() { close(x.quit) })
	}
}

// loop runs the handler for what waits.
func (x *box) loop() {
	for {
		select {
		case <-x.quit:
			return
		case w := <-x.queue:
			x.run(w.to, w.m)
		}
	}
}

// Subscribe calls h for each message, one at a time.
func (b *Bus) Subscribe(subject, queue string, h func(sessions.Msg)) (sessions.Subscription, error) {
	kind := b.cfg.Kind(subject)
	if kind == Far || (kind == Group) != (queue != "") {
		return b.far.Subscribe(subject, queue, h)
	}
	x := &box{queue: make(chan handed, boxSize), quit: make(chan struct{})}
	s, err := b.far.Subscribe(subject, queue, x.far(h))
	if err != nil {
		return nil, err
	}
	sub := &sub{bus: b, far: s, e: &entry{subject: subject, kind: kind, box: x, h: h}, own: true}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.subs[subject] = append(b.subs[subject], sub.e)
		b.tasks.Go(x.loop)
	}
	return sub, nil
}

// sub is an interest on both carriers.
type sub struct {
	bus *Bus
	far sessions.Subscription
	e   *entry // nil: the far bus alone
	own bool   // its box ends with it
	in  *mailbox
}

func (s *sub) Unsubscribe() error {
	if s.in != nil {
		s.in.mu.Lock()
		delete(s.in.subs, s)
		s.in.mu.Unlock()
	}
	if s.e == nil || !s.e.closed.CompareAndSwap(false, true) {
		return s.far.Unsubscribe()
	}
	err := s.far.Unsubscribe()
	s.bus.leave(s.e)
	if s.own {
		s.e.box.stop()
	}
	return err
}

// mailbox feeds the subjects of both carriers into one handler.
type mailbox struct {
	bus *Bus
	box *box
	h   func(sessions.Msg)
	far sessions.Mailbox

	mu   sync.Mutex
	subs map[*sub]struct{}
}

// Mailbox feeds many subjects into h, one message at a time. Over a stream h is
// called by the stream's reader: it must not block.
func (b *Bus) Mailbox(h func(sessions.Msg)) sessions.Mailbox {
	x := &box{}
	return &mailbox{bus: b, box: x, h: h, far: b.far.Mailbox(x.far(h)), subs: map[*sub]struct{}{}}
}

func (m *mailbox) Add(subject string) (sessions.Subscription, error) {
	s, err := m.far.Add(subject)
	if err != nil {
		return nil, err
	}
	sub := &sub{bus: m.bus, far: s, in: m}
	if m.bus.cfg.Kind(subject) != One {
		return sub, nil
	}
	sub.e = &entry{subject: subject, kind: One, box: m.box, h: m.h}
	m.mu.Lock()
	m.subs[sub] = struct{}{}
	m.mu.Unlock()
	b := m.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.subs[subject] = append(b.subs[subject], sub.e)
		b.tellAll(subject)
	}
	return sub, nil
}

// Close ends all subjects. It does not wait for the handler.
func (m *mailbox) Close() error {
	m.mu.Lock()
	all := m.subs
	m.subs = map[*sub]struct{}{}
	m.mu.Unlock()
	var errs []error
	for s := range all {
		if s.e.closed.CompareAndSwap(false, true) {
			m.bus.leave(s.e)
		}
	}
	errs = append(errs, m.far.Close())
	return errors.Join(errs...)
}
