package media

import (
	"context"
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
		{sessions.SubjectDo(m.name), serveOne(m, "do", func(d sessions.DoMedia) any { return m.order(d, time.Now()) })},
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
		data, err := wire.Seal(answer(q))
		if err != nil || msg.Reply == "" {
			return
		}
		if err := m.cfg.Bus.Publish(msg.Reply, data); err != nil {
			m.log.Debug("media: answer not sent", "what", what, "err", err) // it will be asked again
		}
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
	data, err := wire.Seal(sessions.Announce{Name: m.name, Boot: m.cfg.Boot})
	if err == nil {
		err = m.cfg.Bus.Publish(sessions.SubjectAnnounce(m.name), data)
	}
	if err != nil {
		m.log.Debug("media: not announced", "err", err)
	}
}
