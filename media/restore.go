package media

import (
	"context"
	"fmt"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// restoreAll reads the cold records and puts their calls back, but those that
// an owner's order has already brought.
func (m *Media) restoreAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	start, n := time.Now(), 0
	err := m.cfg.Legs.Scan(ctx, m.cfg.Node, func(id codecore.CallID, body []byte, rev uint64) error {
		ok, err := m.restore(id, body, rev)
		if ok {
			n++
		}
		if err != nil {
			m.mu.Lock()
			m.failed = append(m.failed, failed{id, body, rev, time.Now()})
			m.mu.Unlock()
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("media: scan: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.restored = true
	if m.pool.nfree < m.pool.ahead {
		m.pool.grow(m.pool.ahead - m.pool.nfree)
	}
	m.log.Info("media: restored", "calls", n, "pairs", m.pool.bound(), "ms", time.Since(start).Milliseconds())
	return nil
}

// restore puts one call back. An error means that it may go later: a port is not
// free. Otherwise ok tells whether the call is here because of this record.
func (m *Media) restore(id codecore.CallID, body []byte, rev uint64) (ok bool, err error) {
	r, err := decodeRecord(body)
	if err != nil || r.Call != id {
		m.log.Error("media: cold record unreadable, left alone", "call", id, "err", err)
		return false, nil
	}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cold.stored(id, rev)
	if _, ended := m.tombs[id]; ended {
		m.cold.ended(id, now)
		return false, nil
	}
	if c := m.calls[id]; c != nil { // its owner was faster
		m.recall(c, &r, now)
		m.cold.changed(id, now)
		return false, nil
	}
	c := &call{id: id}
	if err := m.put(c, r, now); err != nil {
		m.did["restore_failed"]++
		m.log.Warn("media: call not restored yet", "call", id, "err", err)
		return false, err
	}
	// Ask for it soon: its end may have been ordered while nobody was here.
	c.touched -= int64(m.times.recheck) - int64(m.times.recheck)/20
	m.did["restored"]++
	return true, nil
}

// put brings a call to where its record says.
func (m *Media) put(c *call, r record, now time.Time) error {
	want := r.Want
	want.Legs = append([]codecore.MediaLeg(nil), want.Legs...)
	for i := range want.Legs {
		for _, lr := range r.Legs {
			if lr.Leg == want.Legs[i].Leg {
				want.Legs[i].Port = lr.Port
			}
		}
	}
	return m.apply(c, sessions.DoMedia{Call: c.id, Gen: r.Gen, Media: want}, &r, now)
}

// recall gives legs that an order alone has brought what their record knows
// besides, unless they have found their party meanwhile.
func (m *Media) recall(c *call, r *record, now time.Time) {
	m.loop.mu.Lock()
	defer m.loop.mu.Unlock()
	for _, was := range r.Legs {
		g := find(c.legs, was.Leg)
		if g == nil || g.rtp.num != was.Port {
			continue
		}
		for _, w := range r.Want.Legs {
			if w.Leg != was.Leg {
				continue
			}
			old := was.Before
			if s := w.Secure; s != nil && g.sec != nil && s.Own != g.sec.want.Own {
				old = &oldICE{s.Own, s.Ufrag} // the order was of a restart that the record does not know
			}
			m.restoreICE(g, old)
			if w.Learn == g.learn && !g.latch.fresh && !g.out.started {
				g.restore(was, max(0, now.Sub(r.At)), m.v6, m.loop.now())
			}
		}
	}
}

// again tries the failed once more, and gives their records up after the time of
// an orphan.
func (m *Media) again(now time.Time) {
	m.mu.Lock()
	todo := m.failed
	m.failed = nil
	m.mu.Unlock()
	for _, f := range todo {
		_, err := m.restore(f.id, f.body, f.rev)
		if err == nil {
			continue
		}
		m.mu.Lock()
		if now.Sub(f.since) < m.times.orphan {
			m.failed = append(m.failed, f)
		} else {
			m.log.Error("media: call lost, its ports are taken", "call", f.id, "err", err)
			m.cold.ended(f.id, now)
		}
		m.mu.Unlock()
	}
}
