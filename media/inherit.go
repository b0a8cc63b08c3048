package media

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"callswitch/codecore"
)

// A planned change of generation: this process stops between two packets and says
// all that it knows; its heir goes on from there with the same sockets, in which
// the kernel keeps what arrives meanwhile, and the same hot memory. Nobody at the
// far end can tell. What the heir is not told begins anew: the clocks of silent
// parties, sources on probation, packets that wait for an order.
//
// Frozen means that both locks are held: no packet, order, check, tone or write
// can begin. Handshakes are let finish before, while all sound flows; new ones wait
// for the heir. One whose party has said nothing but its ClientHello, or nothing at
// all, by the end of that time has not heard us either: it begins anew in the heir,
// which the party cannot tell from a late answer (RFC 6347 section 4.2.4). One that
// is half done can neither go elsewhere nor begin anew, so Freeze fails, and everything
// is as it was; but not for one that has taken shakeLong already, for then whoever
// does not end it could keep this process for ever. Its leg ends in the heir, with
// handshake-cut; after Thaw it goes on.

// handedVersion is the form of what is handed over. An heir that does not read
// it refuses, and nothing has happened.
const handedVersion = 1

// errHanded: what was handed over cannot be read, or not be carried on.
var errHanded = errors.New("media: handed over")

type handed struct {
	V     int                         `json:"v"`
	Calls []handedCall                `json:"calls"`
	Tombs map[codecore.CallID]handedT `json:"tombs,omitempty"`
}

type handedT struct {
	Gen   codecore.Generation `json:"gen"`
	Until time.Time           `json:"until"`
}

// handedCall is a call's cold record as it is now, and what the cold record does
// not say.
type handedCall struct {
	record
	Applied bool        `json:"applied,omitempty"` // else its legs are only allocated
	Rev     uint64      `json:"rev,omitempty"`     // of the record stored; 0: none
	Doubt   bool        `json:"doubt,omitempty"`   // a write had no clear end
	Due     bool        `json:"due,omitempty"`     // the record stored is behind
	Heard   []handedLeg `json:"heard"`             // as record.Legs
}

// handedLeg is what is known of the sound of a leg, for its quality. Transit times
// are by this process's clock, and begin anew.
type handedLeg struct {
	SSRC     uint32            `json:"ssrc,omitempty"`
	Base     uint32            `json:"base,omitempty"`
	Highest  uint32            `json:"highest,omitempty"`
	Got      uint32            `json:"got,omitempty"`
	LostPast int64             `json:"lost_past,omitempty"`
	Jitter   float64           `json:"jitter,omitempty"`
	Clock    uint32            `json:"clock,omitempty"`
	PT       byte              `json:"pt,omitempty"`
	Any      bool              `json:"any,omitempty"`
	Counts   [6]uint64         `json:"counts"` // packets, bytes in; out; RTCP in, out
	Dropped  map[string]uint32 `json:"dropped,omitempty"`
	FarLost  int32             `json:"far_lost,omitempty"`
	FarJit   uint32            `json:"far_jit,omitempty"`
	FarBlock bool              `json:"far_block,omitempty"`
	Anew     bool              `json:"anew,omitempty"` // its DTLS handshake is to begin
	Cut      bool              `json:"cut,omitempty"`  // it is half done, and ends here
	ICE      *handedICE        `json:"ice,omitempty"`
}

// handedICE is what a leg's checks have told. A party amid an ICE restart uses the
// credentials of before until it has our answer.
type handedICE struct {
	Own       string   `json:"own,omitempty"` // label of ours before; "": there are none
	Theirs    string   `json:"theirs,omitempty"`
	Nominated bool     `json:"nominated,omitempty"` // under those of now
	Valid     []string `json:"valid,omitempty"`     // where checks came from
}

func (g *leg) heardSoFar() handedLeg {
	n := &g.counts
	h := handedLeg{
		SSRC: g.in.ssrc, Base: g.in.base, Highest: g.in.highest, Got: g.in.got, LostPast: g.in.lostPast,
		Jitter: g.in.jitter, Clock: g.in.clock, PT: g.in.pt, Any: g.in.any,
		Counts:  [6]uint64{n.packetsIn, n.bytesIn, n.packetsOut, n.bytesOut, n.rtcpIn, n.rtcpOut},
		FarLost: g.farLost, FarJit: g.farJit, FarBlock: g.farBlock,
	}
	for i, d := range n.dropped {
		if d > 0 {
			if h.Dropped == nil {
				h.Dropped = map[string]uint32{}
			}
			h.Dropped[dropNames[i]] = d
		}
	}
	if s := g.sec; s != nil && s.ice != nil {
		h.Anew, h.Cut = s.due, s.pipe != nil
		h.ICE = &handedICE{Own: s.ice.prev.own, Theirs: s.ice.prev.theirs, Nominated: s.ice.nominated}
		for _, a := range s.ice.valid {
			if !a.isZero() {
				h.ICE.Valid = append(h.ICE.Valid, a.String())
			}
		}
	}
	return h
}

// goOnChecking has a leg's checks answered as before.
func (m *Media) goOnChecking(g *leg, h handedLeg) {
	if h.ICE == nil || g.sec == nil || g.sec.ice == nil {
		return
	}
	c := g.sec.ice
	c.nominated = h.ICE.Nominated
	if h.ICE.Own != "" {
		c.prev = m.credentials(g.call.id, h.ICE.Own, h.ICE.Theirs)
	}
	for _, v := range h.ICE.Valid {
		if a, ok := parseSockaddr(v, m.v6); ok {
			c.note(&a)
		}
	}
	switch {
	case h.Cut:
		g.sec.end(reasonCut)
	case h.Anew && g.sec.why == reasonCut:
		g.sec.begin()
	}
}

func (g *leg) goOnHearing(h handedLeg) {
	g.in = receiver{
		ssrc: h.SSRC, base: h.Base, highest: h.Highest, got: h.Got, lostPast: h.LostPast,
		jitter: h.Jitter, clock: h.Clock, pt: h.PT, any: h.Any,
	}
	n := &g.counts
	n.packetsIn, n.bytesIn, n.packetsOut, n.bytesOut, n.rtcpIn, n.rtcpOut = h.Counts[0], h.Counts[1], h.Counts[2], h.Counts[3], h.Counts[4], h.Counts[5]
	for i := range n.dropped {
		n.dropped[i] = h.Dropped[dropNames[i]]
	}
	g.farLost, g.farJit, g.farBlock = h.FarLost, h.FarJit, h.FarBlock
}

// Freeze stops the plane and returns what its heir needs (Config.Handed). After
// an error it goes on, and nothing has happened; after none it does nothing more
// until Thaw. It waits for handshakes under way as long as ctx allows.
func (m *Media) Freeze(ctx context.Context) ([]byte, error) {
	m.yield(true)
	if err := m.settle(ctx); err != nil {
		m.yield(false)
		return nil, err
	}
	state, err := json.Marshal(m.hand())
	if err != nil {
		m.Thaw()
		return nil, fmt.Errorf("%w: %w", errHanded, err)
	}
	return state, nil
}

// Thaw goes on after Freeze. The heir may have made the slots its own; it has
// sealed nothing, and never will.
func (m *Media) Thaw() {
	m.yielding = false
	if m.hot.words != nil {
		m.hot.own()
		m.loop.gen = uint64(m.hot.gen)
		for _, c := range m.calls {
			for _, g := range c.legs {
				if g.sec != nil && g.sec.place != 0 {
					g.sec.own(m.hot.gen)
				}
			}
		}
	}
	m.greetAll()
	m.loop.mu.Unlock()
	m.mu.Unlock()
}

func (m *Media) yield(on bool) {
	m.mu.Lock()
	m.loop.mu.Lock()
	m.yielding = on
	if !on {
		m.greetAll()
	}
	m.loop.mu.Unlock()
	m.mu.Unlock()
}

// settle takes both locks at a moment when no handshake is under way and the
// Keeper has every socket.
func (m *Media) settle(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for late := false; ; {
		if (late || m.shakes.Load() == 0) && m.keep.idle() {
			m.mu.Lock()
			m.loop.mu.Lock()
			if m.restored && m.keep.idle() && (m.shakes.Load() == 0 || late && m.breakOff()) {
				return nil
			}
			m.loop.mu.Unlock()
			m.mu.Unlock()
		}
		if late {
			return fmt.Errorf("%w: handshakes or sockets are under way: %w", errHanded, context.Cause(ctx))
		}
		select {
		case <-ctx.Done():
			late = true
		case <-tick.C:
		}
	}
}

// breakOff ends the handshakes under way in which the party has not answered, to begin
// anew; unless there is one in which it has, and that is still young. Both locks are
// held.
func (m *Media) breakOff() bool {
	var all []*secure
	now := m.loop.now()
	for _, c := range m.calls {
		for _, g := range c.legs {
			switch {
			case g.sec == nil || g.sec.pipe == nil:
			case !g.sec.pipe.deep:
				all = append(all, g.sec)
			case now-g.sec.pipe.began < int64(shakeLong):
				return false
			}
		}
	}
	for _, s := range all {
		_ = s.pipe.Close()
		s.pipe = nil
		s.begin()
	}
	return true
}

// hand writes everything down. Both locks are held.
func (m *Media) hand() handed {
	now := time.Now()
	h := handed{V: handedVersion, Tombs: make(map[codecore.CallID]handedT, len(m.tombs))}
	for id, t := range m.tombs {
		h.Tombs[id] = handedT{t.gen, t.until}
	}
	for _, c := range m.calls {
		r := handedCall{record: c.snapshot(m.cfg.Boot, now), Applied: c.applied, Due: c.dirty}
		var due bool
		r.Rev, r.Doubt, due = m.cold.known(c.id)
		r.Due = r.Due || due
		for _, g := range c.legs {
			r.Heard = append(r.Heard, g.heardSoFar())
		}
		h.Calls = append(h.Calls, r)
	}
	return h
}

// succeed puts everything in place in an heir, before it runs.
func (m *Media) succeed(state []byte) error {
	var h handed
	if err := json.Unmarshal(state, &h); err != nil {
		return fmt.Errorf("%w: %w", errHanded, err)
	}
	if h.V != handedVersion {
		return fmt.Errorf("%w: version %d, this release reads %d", errHanded, h.V, handedVersion)
	}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, t := range h.Tombs {
		m.tombs[id] = tomb{t.Gen, t.Until}
	}
	for i := range h.Calls {
		if err := m.succeedTo(&h.Calls[i], now); err != nil {
			return fmt.Errorf("%w: call %s: %w", errHanded, h.Calls[i].Call, err)
		}
	}
	m.restored = true
	return nil
}

func (m *Media) succeedTo(r *handedCall, now time.Time) error {
	if r.V < 1 || r.V > recordVersion || len(r.Heard) != len(r.Legs) {
		return fmt.Errorf("record of version %d, this release reads 1 to %d", r.V, recordVersion)
	}
	var c *call
	if r.Applied {
		c = &call{id: r.Call}
		if err := m.put(c, r.record, now); err != nil {
			return err
		}
	} else {
		c = &call{id: r.Call, touched: m.loop.now()}
		for _, l := range r.Legs {
			p, err := m.pool.claim(l.Port)
			if err != nil {
				return err
			}
			m.pool.watch(p)
			c.legs = append(c.legs, &leg{id: l.Leg, call: c, pair: p, rtp: p.rtp, rtcp: p.rtcp, fresh: true})
		}
		for _, g := range c.legs {
			g.rtp.leg, g.rtcp.leg = g, g
		}
		m.calls[c.id] = c
	}
	for i, l := range r.Legs {
		if g := find(c.legs, l.Leg); g != nil {
			g.goOnHearing(r.Heard[i])
			m.goOnChecking(g, r.Heard[i])
		}
	}
	m.cold.stored(c.id, r.Rev)
	if r.Doubt || r.Due {
		m.cold.unsure(c.id, r.Doubt, now)
	}
	return nil
}
