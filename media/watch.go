package media

import (
	"context"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// tend is the housekeeping of one tick.
func (m *Media) tend(ctx context.Context, now time.Time) {
	m.again(now)
	m.gatherDirty(now.Add(m.times.behind))
	if m.cfg.Legs != nil {
		m.cold.tend(ctx, now, m.recordOf)
	}
	m.mu.Lock()
	m.pool.rested(now)
	if m.restored {
		m.pool.tend(now)
	}
	if m.restored && now.Sub(m.began) > m.times.orphan && len(m.hot.left) > 0 {
		m.hot.sweep() // of legs that nobody has spoken of
	}
	for id, t := range m.tombs {
		if now.After(t.until) {
			delete(m.tombs, id)
		}
	}
	silent := m.silent()
	ask := m.forgotten()
	beat := now.Sub(m.lastBeat) >= m.times.beat
	if beat {
		m.lastBeat = now
	}
	m.mu.Unlock()
	if beat {
		m.announce()
	}
	for _, s := range silent {
		m.post.send(ctx, s.call, s.event)
	}
	for _, id := range ask {
		m.post.wg.Go(func() { m.lookup(ctx, id) })
	}
}

// gatherDirty passes on which calls the relay has changed.
func (m *Media) gatherDirty(due time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loop.mu.Lock()
	dirty := m.loop.dirty
	m.loop.dirty = nil
	for _, c := range dirty {
		c.dirty = false
	}
	m.loop.mu.Unlock()
	for _, c := range dirty {
		if m.calls[c.id] == c && c.applied {
			m.cold.changed(c.id, due)
		}
	}
}

// recordOf returns a call's record as of now; nil: it has ended.
func (m *Media) recordOf(id codecore.CallID) *record {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.calls[id]
	if c == nil {
		return nil
	}
	m.loop.mu.Lock()
	defer m.loop.mu.Unlock()
	r := c.snapshot(m.cfg.Boot, time.Now())
	return &r
}

type silence struct {
	call  codecore.CallID
	event codecore.MediaSilent
}

// silent returns the legs that have newly become silent. Media.mu is held.
func (m *Media) silent() (found []silence) {
	m.loop.mu.Lock()
	defer m.loop.mu.Unlock()
	now := m.loop.now()
	crowded := m.shakes.Load() >= shakesMost
	for _, c := range m.calls {
		for _, g := range c.legs {
			if s := g.sec; crowded && s != nil && s.pipe != nil && now-s.pipe.began >= int64(shakeLong) {
				_ = s.pipe.Close() // a place for one that may get on
			}
			if why := g.sec.ended(now); why != "" {
				m.log.Info("media: secure leg has ended", "call", c.id, "leg", g.id, "reason", why)
				found = append(found, silence{c.id, codecore.MediaSilent{Leg: g.id, At: time.Now(), Reason: why}})
			}
			if quiet := g.quietFor(now); m.cfg.Timeout > 0 && quiet >= int64(m.cfg.Timeout) && !g.reported {
				g.reported = true
				found = append(found, silence{c.id, codecore.MediaSilent{Leg: g.id, At: time.Now()}})
			}
		}
	}
	m.did["silent"] += uint64(len(found))
	return found
}

// forgotten returns calls that nobody has spoken of for long, allocations that no
// order has confirmed sooner: at most 32 per tick. Media.mu is held.
func (m *Media) forgotten() (ask []codecore.CallID) {
	at := m.loop.now()
	for id, c := range m.calls {
		quiet := time.Duration(at - c.touched)
		switch {
		case c.asking || len(ask) >= 32:
		case quiet >= m.times.recheck, !c.applied && quiet >= m.times.orphan, c.deny != 0 && quiet >= m.times.orphan/4:
			c.asking = true
			ask = append(ask, id)
		}
	}
	return ask
}

// lookup asks for one call, and frees it when the answer has been "no record"
// for times.orphan. No answer is no answer.
func (m *Media) lookup(ctx context.Context, id codecore.CallID) {
	find := m.cfg.Lookup
	if find == nil {
		find = m.orphan
	}
	exists, known := find(ctx, id)
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.calls[id]
	if c == nil {
		return
	}
	now := m.loop.now()
	c.asking = false
	switch {
	case !known && !c.applied:
		c.touched = now - int64(m.times.orphan)*3/4
	case !known:
		c.touched = now - int64(m.times.recheck) + int64(m.times.orphan)/4
	case exists:
		c.touched, c.deny = now, 0
	case !c.applied: // its first save never came about
		m.log.Info("media: allocation never used, freed", "call", id)
		m.did["unconfirmed"]++
		m.free(c, time.Now())
	case c.deny == 0:
		c.touched, c.deny = now, now
	case now-c.deny >= int64(m.times.orphan):
		m.log.Warn("media: call has no record, freed", "call", id)
		m.did["orphaned"]++
		m.free(c, time.Now())
	default:
		c.touched = now
	}
}

// orphan asks the workers. Only "unknown" means that there is no record.
func (m *Media) orphan(ctx context.Context, id codecore.CallID) (exists, known bool) {
	answer, err := m.askOrphan(ctx, sessions.Delivery{
		Call: id, From: m.name, Boot: m.cfg.Boot,
		Event: codecore.Box(codecore.Accepted{To: m.name, Boot: m.cfg.Boot}),
	}, time.Now())
	if err != nil || answer.Status == sessions.StatusFailed || answer.Status == "" {
		return false, false
	}
	return answer.Status != sessions.StatusUnknown, true
}

func (m *Media) askOrphan(ctx context.Context, d sessions.Delivery, since time.Time) (a sessions.Answer, err error) {
	data, err := wire.Seal(sessions.Orphan{Delivery: d, Since: since})
	if err != nil {
		return a, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	reply, err := m.cfg.Bus.Request(ctx, sessions.SubjectOrphan, data)
	if err != nil {
		return a, err
	}
	return a, wire.Open(reply, &a)
}
