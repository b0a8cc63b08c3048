package media

import (
	"context"
	"errors"
	"sync"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// poster delivers events to calls: numbered, one unacknowledged per call, sent
// again until answered (R1).
type poster struct {
	m  *Media
	wg sync.WaitGroup

	mu    sync.Mutex
	boxes map[codecore.CallID]*box
}

// box is what is on its way to one call. It outlives its last event, for its
// number must not begin anew.
type box struct {
	num    uint64
	queue  []codecore.Event
	flying bool
	cancel context.CancelFunc // of the delivery under way
}

// send queues an event and, if none is under way, delivers it.
func (p *poster) send(ctx context.Context, id codecore.CallID, e codecore.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.boxes == nil {
		p.boxes = map[codecore.CallID]*box{}
	}
	b := p.boxes[id]
	if b == nil {
		b = &box{}
		p.boxes[id] = b
	}
	b.queue = append(b.queue, e)
	if b.flying {
		return
	}
	b.flying = true
	ctx, b.cancel = context.WithCancel(ctx)
	p.wg.Go(func() {
		defer b.cancel()
		p.empty(ctx, id, b)
	})
}

// forget ends deliveries to a call that is gone.
func (p *poster) forget(id codecore.CallID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.boxes[id]; b != nil && b.cancel != nil {
		b.cancel()
	}
	delete(p.boxes, id)
}

func (p *poster) wait() { p.wg.Wait() }

// empty delivers a box's events in order.
func (p *poster) empty(ctx context.Context, id codecore.CallID, b *box) {
	for {
		p.mu.Lock()
		if len(b.queue) == 0 || ctx.Err() != nil {
			b.flying = false
			p.mu.Unlock()
			return
		}
		e := b.queue[0]
		b.queue = b.queue[1:]
		b.num++
		num := b.num
		p.mu.Unlock()
		p.deliver(ctx, sessions.Delivery{Call: id, From: p.m.name, Boot: p.m.cfg.Boot, Num: num, Event: codecore.Box(e)})
	}
}

// deliver sends until an answer settles it.
func (p *poster) deliver(ctx context.Context, d sessions.Delivery) {
	data, err := wire.Seal(d)
	if err != nil {
		p.m.log.Error("media: event not sent", "call", d.Call, "err", err)
		return
	}
	since := time.Now()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		a, err := p.try(ctx, d, data, since)
		if err == nil && a.Status != sessions.StatusLater && a.Status != "" {
			p.m.log.Debug("media: event delivered", "call", d.Call, "num", d.Num, "status", a.Status)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (p *poster) try(ctx context.Context, d sessions.Delivery, data []byte, since time.Time) (a sessions.Answer, err error) {
	one, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	reply, err := p.m.cfg.Bus.Request(one, sessions.SubjectCall(d.Call), data)
	if errors.Is(err, sessions.ErrNoResponders) && time.Since(since) >= 500*time.Millisecond {
		return p.m.askOrphan(ctx, d, since)
	}
	if err != nil {
		return a, err
	}
	return a, wire.Open(reply, &a)
}
