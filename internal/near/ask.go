package near

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"callswitch/sessions"
)

// errNobody reports that the other has not taken a request; errGone that it took
// it and left the subject.
var (
	errNobody = errors.New("near: nobody listens there")
	errGone   = errors.New("near: it listens no more")
)

// quietFor is how long a process is not asked over its stream when it has let a
// request time out and said nothing meanwhile: it may have been stopped.
const quietFor = time.Second

// An asked is a stream that we opened, to ask another process.
type asked struct {
	bus  *Bus
	name string
	link *link

	heard atomic.Uint64 // frames read
	quiet atomic.Int64  // until then it is not asked, Unix ns

	mu    sync.Mutex
	next  uint64
	waits map[uint64]*wait
	ended bool
}

// A wait is a request of ours under way.
type wait struct {
	ch    chan outcome // room for "gone" and the answer after it
	asked *asked
	id    uint64
}

type outcome struct {
	data []byte
	err  error
}

// late takes the answer that came after "gone", if it has.
func (w *wait) late() ([]byte, bool) {
	if w == nil {
		return nil, false
	}
	w.over()
	select {
	case o := <-w.ch:
		return o.data, o.err == nil
	default:
		return nil, false
	}
}

// over ends a request that has no answer yet. The other is told: it holds the
// request until it is answered, and whoever had it may never do that.
func (w *wait) over() {
	if w.forget() {
		_ = w.asked.link.send(&frame{kind: kindOver, id: w.id}, true)
	}
}

// forget drops a request; false: it is over already.
func (w *wait) forget() bool {
	if w == nil {
		return false
	}
	w.asked.mu.Lock()
	defer w.asked.mu.Unlock()
	_, waits := w.asked.waits[w.id]
	delete(w.asked.waits, w.id)
	return waits
}

// ask sends a request and waits. Errors: sessions.ErrTimeout; errBroken, it may
// have been taken; errGone, it was taken, and w may yet bring the answer; others,
// it was not.
func (a *asked) ask(ctx context.Context, subject string, data []byte) (answer []byte, w *wait, err error) {
	w = &wait{ch: make(chan outcome, 2), asked: a}
	a.mu.Lock()
	if a.ended {
		a.mu.Unlock()
		return nil, nil, errNobody
	}
	a.next++
	w.id = a.next
	a.waits[w.id] = w
	a.mu.Unlock()
	heard := a.heard.Load()
	if err := a.link.send(&frame{kind: kindAsk, id: w.id, subject: subject, data: data}, true); err != nil {
		w.forget()
		return nil, nil, err
	}
	select {
	case o := <-w.ch:
		if !errors.Is(o.err, errGone) {
			w = nil
		}
		return o.data, w, o.err
	case <-ctx.Done():
	}
	if a.heard.Load() == heard {
		a.quiet.Store(time.Now().Add(quietFor).UnixNano())
	}
	w.over()
	return nil, nil, sessions.ErrTimeout
}

// tell sends a message that wants no answer.
func (a *asked) tell(subject string, data []byte) error {
	return a.link.send(&frame{kind: kindTell, subject: subject, data: data}, true)
}

// usable reports whether a may be asked now.
func (a *asked) usable() bool {
	q := a.quiet.Load()
	return q == 0 || time.Now().UnixNano() >= q
}

// run hands out what the other answers, until the stream ends.
func (a *asked) run() {
	err := a.read()
	a.link.close()
	a.mu.Lock()
	a.ended = true
	for _, w := range a.waits {
		w.put(outcome{err: errBroken})
	}
	clear(a.waits)
	a.mu.Unlock()
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		a.bus.Stats.Fails.Add(1)
		a.bus.log.Warn("near: stream closed", "to", a.name, "err", err)
	}
}

func (w *wait) put(o outcome) {
	select {
	case w.ch <- o:
	default: // twice answered: the first stands
	}
}

func (a *asked) read() error {
	r := bufio.NewReaderSize(a.link.c, readBuf)
	limit := a.bus.cfg.MaxMsg + 1 + maxNews*(2+maxSubject)
	for {
		f, err := readFrame(r, limit)
		if err != nil {
			return err
		}
		a.heard.Add(1)
		if a.quiet.Load() != 0 {
			a.quiet.Store(0)
		}
		var o outcome
		switch f.kind {
		case kindAnswer:
			for _, s := range f.news {
				a.bus.noted(s, a.name)
			}
			o.data = f.data
		case kindNobody:
			o.err = errNobody
		case kindGone:
			o.err = errGone
		case kindDeaf:
			a.bus.forget(f.subject, a.name)
			continue
		case kindHello, kindAsk, kindTell, kindOver:
			return errFrame
		}
		a.mu.Lock()
		if w := a.waits[f.id]; w != nil {
			if f.kind != kindGone {
				delete(a.waits, f.id)
			}
			w.put(o)
		}
		a.mu.Unlock()
	}
}

// peers are the processes that we ask, or have tried to.
type peers struct {
	bus    *Bus
	mu     sync.Mutex
	all    map[string]*peer
	closed bool
}

type peer struct {
	mu    sync.Mutex
	asked *asked
	retry time.Time // not dialled before: it is of another host, or dead
}

const (
	maxPeers   = 256
	retryAfter = 5 * time.Second
)

// get returns a stream to a process, opened if need be; nil: there is none, or
// it had better not be used now.
func (p *peers) get(name string) *asked {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	x := p.all[name]
	if x == nil {
		if len(p.all) >= maxPeers {
			p.trim()
		}
		x = &peer{}
		p.all[name] = x
	}
	p.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	if a := x.asked; a != nil {
		a.mu.Lock()
		ended := a.ended
		a.mu.Unlock()
		if !ended {
			if a.usable() {
				return a
			}
			return nil
		}
		x.asked = nil
	}
	now := time.Now()
	if now.Before(x.retry) {
		return nil
	}
	x.retry = now.Add(retryAfter)
	x.asked = p.open(name)
	return x.asked
}

func (p *peers) open(name string) *asked {
	_, l, err := p.bus.dial(name)
	if err != nil {
		p.bus.log.Debug("near: not reached", "name", name, "err", err)
		return nil
	}
	a := &asked{bus: p.bus, name: name, link: l, waits: map[uint64]*wait{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		l.close()
		return nil
	}
	p.bus.tasks.Go(a.run)
	return a
}

// trim forgets processes to which there is no stream; when there are none such,
// all of them: their streams end with them. p.mu is held.
func (p *peers) trim() {
	for name, x := range p.all {
		if x.mu.TryLock() {
			if x.asked == nil {
				delete(p.all, name)
			}
			x.mu.Unlock()
		}
	}
	if len(p.all) < maxPeers {
		return
	}
	for _, x := range p.all {
		if x.mu.TryLock() {
			if x.asked != nil {
				x.asked.link.close()
			}
			x.mu.Unlock()
		}
	}
	clear(p.all)
}

func (p *peers) close() {
	p.mu.Lock()
	p.closed = true
	all := p.all
	p.all = map[string]*peer{}
	p.mu.Unlock()
	for _, x := range all {
		x.mu.Lock()
		if x.asked != nil {
			x.asked.link.close()
		}
		x.mu.Unlock()
	}
}
