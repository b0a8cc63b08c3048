package near

import (
	"bufio"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
)

const (
	maxServed = 1024    // streams to this process
	maxOpen   = 1 << 16 // requests that handlers here have not answered
	readBuf   = 32 << 10
)

// served is a stream that another process opened, to ask us.
type served struct {
	bus  *Bus
	link *link

	news []string // subjects served here that the other may not know; guarded by Bus.mu
}

// An openAsk is a request that a handler has and has not answered. Guarded by Bus.mu.
type openAsk struct {
	from *served
	id   uint64 // the asker's
	by   *entry
}

// run takes what the other asks, until the stream ends.
func (s *served) run() {
	b := s.bus
	err := s.read()
	s.link.close()
	b.mu.Lock()
	delete(b.served, s)
	for n, o := range b.open {
		if o.from == s {
			b.drop(n, o)
		}
	}
	b.mu.Unlock()
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		b.Stats.Fails.Add(1)
		b.log.Warn("near: stream closed", "err", err)
	}
}

// read ends with the reason why, never nil.
func (s *served) read() error {
	r := bufio.NewReaderSize(s.link.c, readBuf)
	limit := s.bus.cfg.MaxMsg + 2 + maxSubject
	f, err := readFrame(r, limit)
	if err == nil && f.kind != kindHello {
		err = errFrame
	}
	for err == nil {
		if f, err = readFrame(r, limit); err != nil {
			break
		}
		switch f.kind {
		case kindAsk:
			if !s.bus.hand(s, &f) {
				err = s.link.send(&frame{kind: kindNobody, id: f.id}, false)
			}
		case kindTell:
			if !s.bus.hand(s, &f) {
				err = s.link.send(&frame{kind: kindDeaf, subject: f.subject}, false)
			}
		case kindOver:
			s.bus.unask(s, f.id)
		case kindHello, kindAnswer, kindNobody, kindGone, kindDeaf:
			err = errFrame
		}
	}
	return err
}

// hand gives a message to the one handler here that listens; false: there is
// none, or it is behind.
func (b *Bus) hand(s *served, f *frame) bool {
	b.mu.Lock()
	all := b.subs[f.subject]
	if len(all) != 1 || b.closed || len(b.open) >= maxOpen {
		b.mu.Unlock()
		return false
	}
	e := all[0]
	reply, n := "", uint64(0)
	if f.kind == kindAsk {
		b.opened++
		n = b.opened
		o := &openAsk{from: s, id: f.id, by: e}
		b.open[n], reply = o, replySubject(n)
		e.open = append(e.open, n)
	}
	b.mu.Unlock()
	if e.box.put(e, message{subject: f.subject, reply: reply, data: f.data}) {
		return true
	}
	if n > 0 {
		b.mu.Lock()
		if o := b.open[n]; o != nil {
			b.drop(n, o)
		}
		b.mu.Unlock()
	}
	return false
}

// drop forgets an open request. b.mu is held.
func (b *Bus) drop(n uint64, o *openAsk) {
	delete(b.open, n)
	if i := slices.Index(o.by.open, n); i >= 0 {
		o.by.open = slices.Delete(o.by.open, i, i+1)
	}
}

// unask forgets a request whose asker waits no more. They are few: a search.
func (b *Bus) unask(s *served, id uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n, o := range b.open {
		if o.from == s && o.id == id {
			b.drop(n, o)
			return
		}
	}
}

// answer sends a handler's answer to the asker whose reply subject ends in word.
// An asker that is gone is no error.
func (b *Bus) answer(word string, data []byte) {
	n, err := strconv.ParseUint(word, 36, 64)
	if err != nil {
		return
	}
	b.mu.Lock()
	o := b.open[n]
	if o == nil {
		b.mu.Unlock()
		return
	}
	b.drop(n, o)
	var news []string
	if k := min(len(o.from.news), maxNews); k > 0 {
		news = slices.Clone(o.from.news[:k])
		o.from.news = slices.Delete(o.from.news, 0, k)
	}
	b.mu.Unlock()
	f := &frame{kind: kindAnswer, id: o.id, news: news, data: data}
	if len(data) > b.cfg.MaxMsg {
		f = &frame{kind: kindGone, id: o.id} // it asks again by the far bus, whose limit then speaks
	}
	_ = o.from.link.send(f, false)
}

// tellAll lets those who ask us know, with the next answer, that a subject is
// served here now: who has just made something is asked for it next. b.mu is held.
func (b *Bus) tellAll(subject string) {
	for s := range b.served {
		if len(s.news) >= 4*maxNews {
			s.news = slices.Delete(s.news, 0, maxNews)
		}
		s.news = append(s.news, subject)
	}
}

// leave sends those who wait for an answer from e elsewhere.
func (b *Bus) leave(e *entry) {
	b.mu.Lock()
	b.remove(e)
	var waiting []*openAsk
	if e.kind == One {
		for _, n := range e.open {
			waiting = append(waiting, b.open[n])
		}
	}
	b.mu.Unlock()
	for _, o := range waiting {
		_ = o.from.link.send(&frame{kind: kindGone, id: o.id}, false)
	}
}

// remove takes e's subject away. b.mu is held.
func (b *Bus) remove(e *entry) {
	e.closed.Store(true)
	rest := slices.DeleteFunc(b.subs[e.subject], func(o *entry) bool { return o == e })
	if len(rest) == 0 {
		delete(b.subs, e.subject)
	} else {
		b.subs[e.subject] = rest
	}
	if e.kind != One {
		return
	}
	for s := range b.served { // what was not told yet need not be
		if i := slices.Index(s.news, e.subject); i >= 0 {
			s.news = slices.Delete(s.news, i, i+1)
		}
	}
}
