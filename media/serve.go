package media

import (
	"context"
	"sync"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// subscribe opens the node's subjects and announces it.
func (m *Media) subscribe(ctx context.Context) ([]sessions.Subscription, error) {
	var subs []sessions.Subscription
	for _, s := range []struct {
		subject string
		handle  func(sessions.Msg)
	}{
		{sessions.SubjectAlloc(m.name), serveOne(m, "alloc", func(a sessions.Alloc) any { return m.allocate(a, time.Now()) })},
		{sessions.SubjectDo(m.name), m.onOrder},
		{SubjectStats(m.name), serveOne(m, "stats", func(r StatsRequest) any { return m.callStats(r.Call) })},
	} {
		sub, err := m.cfg.Bus.Subscribe(s.subject, "", s.handle)
		if err != nil {
			return subs, err
		}
		subs = append(subs, sub)
	}
	// A subject that the server has not seen yet is a call's lost order; but a bus
	// that is away must not keep sound from flowing.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := m.cfg.Bus.Flush(ctx); err != nil {
		m.log.Warn("media: bus is away", "err", err)
	}
	m.cfg.Bus.OnReconnect(m.announce)
	return subs, nil
}

// serveOne answers one kind of request.
func serveOne[Q any](m *Media, what string, answer func(Q) any) func(sessions.Msg) {
	return func(msg sessions.Msg) {
		var q Q
		if err := wire.Open(msg.Data, &q); err != nil {
			m.log.Warn("media: request unreadable", "what", what, "err", err)
			return
		}
		m.answer(msg.Reply, answer(q))
	}
}

// answer sends one; what does not arrive will be asked again.
func (m *Media) answer(reply string, a any) {
	data, err := wire.Seal(a)
	if err != nil || reply == "" {
		return
	}
	if err := m.cfg.Bus.Publish(reply, data); err != nil {
		m.log.Debug("media: answer not sent", "err", err)
	}
}

// onOrder carries out an order at once. That it has is told with the news of
// other calls' orders: nobody waits for it but the record, which keeps the order
// until then. A refusal is told at once, and that a call's legs are free: these
// orders come for many calls together, and are the last thing a record waits for.
func (m *Media) onOrder(msg sessions.Msg) {
	var d sessions.DoMedia
	if err := wire.Open(msg.Data, &d); err != nil {
		m.log.Warn("media: request unreadable", "what", "do", "err", err)
		return
	}
	now := time.Now()
	done := m.order(d, now)
	for _, more := range d.More { // their owner waits for these
		done.More = append(done.More, m.order(more, now))
	}
	if len(done.More) > 0 || len(d.Media.Legs) == 0 || done.Reason != "" || msg.Reply == "" {
		m.answer(msg.Reply, done)
		return
	}
	m.done.add(told{msg.Reply, done}, now)
}

// told is an answer on its way.
type told struct {
	reply string
	done  sessions.MediaDone
}

// news gathers answers until the end of an interval that is the same for all
// processes of the host: each wake-up of the worker serves many calls.
type news struct {
	every time.Duration
	send  func(told)

	mu    sync.Mutex
	wait  []told
	timer *time.Timer
}

func (n *news) add(t told, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.wait = append(n.wait, t); len(n.wait) > 1 {
		return
	}
	at := now.Truncate(n.every).Add(n.every).Sub(now)
	if n.timer == nil {
		n.timer = time.AfterFunc(at, n.flush)
		return
	}
	n.timer.Reset(at)
}

// flush tells what waits.
func (n *news) flush() {
	n.mu.Lock()
	wait := n.wait
	n.wait = nil
	n.mu.Unlock()
	for _, t := range wait {
		n.send(t)
	}
}

func (m *Media) callStats(id codecore.CallID) CallStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := CallStats{Node: m.cfg.Node, Call: id}
	c := m.calls[id]
	if c == nil {
		return s
	}
	s.Gen = c.gen
	m.loop.mu.Lock()
	defer m.loop.mu.Unlock()
	now := m.loop.now()
	for _, g := range c.legs {
		s.Legs = append(s.Legs, g.quality(now))
	}
	return s
}

func (m *Media) announce() {
	data, err := wire.Seal(sessions.Announce{Name: m.name, Boot: m.cfg.Boot, Began: m.began})
	if err == nil {
		err = m.cfg.Bus.Publish(sessions.SubjectAnnounce(m.name), data)
	}
	if err != nil {
		m.log.Debug("media: not announced", "err", err)
	}
}
