package media

import (
	"errors"
	"fmt"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// Reasons in answers. Stable.
const (
	reasonPortsOut = "ports-out"  // none left in the range or the budget of descriptors
	reasonAway     = "media-away" // the node does not know yet which ports are taken
	reasonNoLeg    = "no-leg"     // the order names a port that the call cannot have
)

// allocate answers Alloc: all legs or none. A repeat gets the same ports.
func (m *Media) allocate(a sessions.Alloc, now time.Time) codecore.Allocated {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.restored {
		return codecore.Allocated{Node: m.cfg.Node, Reason: reasonAway}
	}
	c := m.calls[a.Call]
	fresh := c == nil
	if fresh {
		c = &call{id: a.Call, touched: m.loop.now()}
	}
	var added []*leg
	out := codecore.Allocated{Node: m.cfg.Node}
	for _, id := range a.Legs {
		g := find(c.legs, id)
		if g == nil {
			g = find(added, id)
		}
		if g == nil {
			p, err := m.pool.take(now)
			if err != nil {
				for _, g := range added {
					m.pool.giveBack(g.pair, now) // no packet was ever due there
				}
				m.did["refused_ports_out"]++
				return codecore.Allocated{Node: m.cfg.Node, Reason: reasonPortsOut}
			}
			g = &leg{id: id, call: c, pair: p, rtp: p.rtp, rtcp: p.rtcp, fresh: true}
			added = append(added, g)
		}
		out.Legs = append(out.Legs, codecore.MediaEndpoint{Leg: id, Addr: m.cfg.Advertise.String(), Port: g.rtp.num})
	}
	if len(c.legs)+len(added) == 0 {
		return out
	}
	m.loop.mu.Lock()
	for _, g := range added {
		if b := g.rtp.before; b != nil {
			g.rtp.before = b.since(m.loop.now() - int64(time.Second))
		}
	}
	m.attach(c, added)
	m.loop.mu.Unlock()
	if fresh {
		m.calls[a.Call] = c
		m.did["allocated"]++
	}
	return out
}

// attach gives legs their sockets. Both locks are held.
func (m *Media) attach(c *call, added []*leg) {
	for _, g := range added {
		g.rtp.leg, g.rtcp.leg = g, g
	}
	c.legs = append(c.legs, added...)
}

func find(legs []*leg, id codecore.LegID) *leg {
	for _, g := range legs {
		if g.id == id {
			return g
		}
	}
	return nil
}

// order brings a call to a desired state, if that is newer than the last one.
func (m *Media) order(d sessions.DoMedia, now time.Time) sessions.MediaDone {
	m.mu.Lock()
	defer m.mu.Unlock()
	done := sessions.MediaDone{Boot: m.cfg.Boot}
	c := m.calls[d.Call]
	switch {
	case c == nil:
		if t, ok := m.tombs[d.Call]; ok && !d.Gen.Newer(t.gen) {
			done.Gen = t.gen
			return done
		}
		if len(d.Media.Legs) == 0 { // freed already, or never here
			m.tombs[d.Call] = tomb{d.Gen, now.Add(m.times.tomb)}
			done.Gen = d.Gen
			return done
		}
		c = &call{id: d.Call}
	case c.applied && !d.Gen.Newer(c.gen):
		c.touched, c.deny = m.loop.now(), 0 // its owner lives
		done.Gen = c.gen
		m.did["orders_repeated"]++
		return done
	case c.applied && c.want.Same(d.Media) && len(c.legs) == len(d.Media.Legs):
		// Another owner says what stands already: nothing to do, nothing to store.
		c.gen, c.touched, c.deny = d.Gen, m.loop.now(), 0
		done.Gen = c.gen
		m.did["orders_repeated"]++
		return done
	case len(d.Media.Legs) == 0:
		c.gen = d.Gen
		m.free(c, now)
		done.Gen = d.Gen
		return done
	}
	if err := m.apply(c, d, nil, now); err != nil {
		done.Gen, done.Reason = c.gen, reasonNoLeg
		if errors.Is(err, errPortsOut) {
			done.Reason = reasonPortsOut
		} else if errors.Is(err, errSecure) {
			done.Reason = reasonNoKeys
		} else if errors.Is(err, errTone) {
			done.Reason = reasonTone
		}
		m.did["refused_no_leg"]++
		m.log.Warn("media: order refused", "call", d.Call, "epoch", d.Gen.Epoch, "n", d.Gen.N, "err", err)
		return done
	}
	m.cold.changed(c.id, now.Add(m.times.behind))
	done.Gen = d.Gen
	return done
}

// apply carries out d: legs that it does not name go, legs whose ports this
// process does not have yet (it restarted before their record was stored) get
// them again. With was, the legs begin where that record left them.
func (m *Media) apply(c *call, d sessions.DoMedia, was *record, now time.Time) error {
	legs := make([]*leg, 0, len(d.Media.Legs))
	guards := make([]*guard, len(d.Media.Legs))
	for i, w := range d.Media.Legs {
		var err error
		if guards[i], err = m.guardOf(c.id, w); err == nil {
			err = checkService(w)
		}
		if err != nil {
			return fmt.Errorf("media: leg %s: %w", w.Leg, err)
		}
	}
	var added []*leg
	for _, w := range d.Media.Legs {
		g := find(c.legs, w.Leg)
		if g == nil || w.Port != 0 && g.rtp.num != w.Port {
			p, err := m.pool.claim(w.Port)
			if err != nil {
				for _, g := range added {
					m.pool.giveBack(g.pair, now.Add(m.pool.rest))
				}
				return fmt.Errorf("media: leg %s: %w", w.Leg, err)
			}
			g = &leg{id: w.Leg, call: c, pair: p, rtp: p.rtp, rtcp: p.rtcp}
			p.rtp.before = nil // it had them before: who sends there is its party
			added = append(added, g)
		}
		if find(legs, w.Leg) == nil {
			legs = append(legs, g)
		}
	}
	l := m.loop
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range c.legs {
		if find(legs, g.id) != g {
			m.detach(g, now)
		}
	}
	c.legs = nil
	m.attach(c, legs)
	at := l.now()
	for i, w := range d.Media.Legs {
		g := find(legs, w.Leg)
		if err := m.protect(g, guards[i], at); err != nil {
			m.log.Error("media: leg not protected", "call", c.id, "leg", w.Leg, "err", err)
			g.sec.end(reasonNoKeys)
		}
		g.program(w, m.v6, at, int64(m.times.window))
		if err := l.serve(g, w); err != nil {
			m.log.Error("media: no tone", "call", c.id, "leg", w.Leg, "err", err)
		}
		g.peer = nil
	}
	if len(legs) == 2 {
		legs[0].peer, legs[1].peer = legs[1], legs[0]
	}
	if was != nil {
		for _, r := range was.Legs {
			if g := find(legs, r.Leg); g != nil {
				g.restore(r, max(0, now.Sub(was.At)), m.v6, at)
				m.restoreICE(g, r.Before)
			}
		}
	}
	for _, g := range legs {
		m.pool.watch(g.pair)
		l.unpark(g, at)
	}
	c.gen, c.want, c.applied, c.touched, c.deny = d.Gen, d.Media, true, at, 0
	m.calls[c.id] = c
	delete(m.tombs, c.id)
	m.did["orders"]++
	return nil
}

// detach ends a leg: its pair rests. Both locks are held.
func (m *Media) detach(g *leg, now time.Time) {
	g.rtp.leg, g.rtcp.leg, g.rtp.before, g.early = nil, nil, nil, nil
	m.loop.silence(g)
	defer m.unprotect(g) // its quality tells of it
	m.loop.total.lostPast += g.in.lost()
	m.pool.giveBack(g.pair, now.Add(m.pool.rest))
	if m.cfg.Observe != nil {
		m.cfg.Observe(g.quality(m.loop.now()))
	}
}

// free ends a call.
func (m *Media) free(c *call, now time.Time) {
	m.loop.mu.Lock()
	for _, g := range c.legs {
		m.detach(g, now)
		g.peer = nil
	}
	c.legs = nil
	m.loop.mu.Unlock()
	delete(m.calls, c.id)
	m.tombs[c.id] = tomb{c.gen, now.Add(m.times.tomb)}
	m.cold.ended(c.id, now)
	m.post.forget(c.id)
	m.did["freed"]++
}
