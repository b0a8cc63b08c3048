package edge

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The trunks of the dialplan: where they are, whether they live. One that has
// "ping: seconds" gets an OPTIONS at each of its addresses so often; any answer
// but 408 and 503 is a sign of life. After a ping that failed the next comes
// sooner. Each edge has its own view, which is its own way there.

// trunkBranch is what the branch of a ping begins with, after the cookie.
const trunkBranch = "tk."

const (
	watchEvery = 2 * time.Second // the dialplan and the names are looked at
	pingAgain  = time.Second     // after one that failed
	maxTrunks  = 4096            // addresses
)

// trunks is what the pings need, and what the view shows.
type trunks struct {
	mu    sync.Mutex
	peers []trunk          // of the dialplan
	out   map[string]probe // by the random part of the branch
}

// trunk is a peer of kind trunk with a target.
type trunk struct {
	name, target string
	every        time.Duration
	hops         []hop
	due          map[hop]time.Time
}

// probe is a ping without an answer.
type probe struct {
	at    hop
	sent  time.Time
	again time.Time // to be repeated, over UDP
	wait  time.Duration
	flow  flow
	bytes []byte
}

// A TrunkView is one trunk as this edge sees it.
type TrunkView struct {
	Name      string         `json:"name"`
	Target    string         `json:"target"`
	Resolved  bool           `json:"resolved"` // its addresses are known
	Addresses []TrunkAddress `json:"addresses,omitempty"`
}

// A TrunkAddress is one of its addresses, in no call's order.
type TrunkAddress struct {
	Address string        `json:"address"` // "udp/192.0.2.1:5060"
	Circuit string        `json:"circuit"` // "up", "down", "half-open"
	Since   time.Time     `json:"since"`   // that has changed last
	Pinged  time.Time     `json:"pinged,omitzero"`
	RTT     time.Duration `json:"rtt,omitempty"` // of the last ping that was answered
	Fails   int           `json:"fails,omitempty"`
	Failed  time.Time     `json:"failed,omitzero"`  // last
	Why     string        `json:"reason,omitempty"` // then
}

// Trunks is what this edge knows of the dialplan's trunks, by their names.
func (e *Edge) Trunks() []TrunkView {
	e.trunks.mu.Lock()
	defer e.trunks.mu.Unlock()
	e.circuits.mu.Lock()
	defer e.circuits.mu.Unlock()
	out := make([]TrunkView, 0, len(e.trunks.peers))
	for _, t := range e.trunks.peers {
		v := TrunkView{Name: t.name, Target: t.target, Resolved: len(t.hops) > 0}
		for _, h := range t.hops {
			a := TrunkAddress{Address: h.String(), Circuit: circuitUp}
			if k := e.circuits.by[h]; k != nil {
				a = TrunkAddress{h.String(), k.state, k.changed, k.pinged, k.rtt, k.fails, k.failed, k.why}
			}
			v.Addresses = append(v.Addresses, a)
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b TrunkView) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// runTrunks watches and pings until ctx ends.
func (e *Edge) runTrunks(ctx context.Context) {
	defer e.wg.Done()
	e.trunks.mu.Lock()
	e.trunks.out = map[string]probe{}
	e.trunks.mu.Unlock()
	wake := time.NewTimer(0)
	defer wake.Stop()
	watched := time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-wake.C:
			if now.Sub(watched) >= watchEvery {
				watched = now
				e.watchTrunks(now)
			}
			e.gate.enter()
			next := e.pingTrunks(now)
			e.gate.leave()
			wake.Reset(time.Until(earlier(next, watched.Add(watchEvery))))
		}
	}
}

// watchTrunks brings the list up to the dialplan and to what DNS says by now.
func (e *Edge) watchTrunks(now time.Time) {
	plan := e.cfg.Plan()
	if plan == nil {
		return
	}
	e.trunks.mu.Lock()
	defer e.trunks.mu.Unlock()
	before := map[string]trunk{}
	for _, t := range e.trunks.peers {
		before[t.name] = t
	}
	e.trunks.peers = e.trunks.peers[:0:0]
	all := map[hop]bool{}
	for i := range plan.Peers {
		p := &plan.Peers[i]
		if p.Kind != "trunk" || p.Target == "" || len(all) >= maxTrunks {
			continue
		}
		t := before[p.Name]
		if t.name == "" || t.target != p.Target {
			t = trunk{name: p.Name, target: p.Target}
		}
		t.every = time.Duration(p.Ping) * time.Second
		e.locateTrunk(&t, now)
		for _, h := range t.hops {
			all[h] = true
		}
		e.trunks.peers = append(e.trunks.peers, t)
	}
	e.circuits.watch(all, now)
}

// locateTrunk fills in the addresses; what is not known yet is asked for, and is
// there the next time. Those of before stay meanwhile.
func (e *Edge) locateTrunk(t *trunk, now time.Time) {
	q, ok := target(t.target)
	if !ok {
		return
	}
	l, ok := e.names.get(q, now)
	if !ok {
		e.names.find(e.ctx, &e.wg, q, func(*located) {})
		return
	}
	if hops := l.order(""); len(hops) > 0 || !l.unknown {
		t.hops = hops
	}
	due := t.due
	t.due = make(map[hop]time.Time, len(t.hops))
	for i, h := range t.hops {
		if t.due[h] = due[h]; due[h].IsZero() { // spread, and the first at once
			t.due[h] = now.Add(time.Duration(i) * 50 * time.Millisecond)
		}
	}
}

// pingTrunks sends what is due, repeats what has no answer, and gives up what has
// had its time. It tells when there is something to do again.
func (e *Edge) pingTrunks(now time.Time) (next time.Time) {
	next = now.Add(watchEvery)
	var dead []probe
	e.trunks.mu.Lock()
	for id, p := range e.trunks.out {
		switch {
		case !now.Before(p.sent.Add(e.lim.Silence)):
			delete(e.trunks.out, id)
			dead = append(dead, p)
			continue
		case !p.again.IsZero() && !now.Before(p.again):
			p.wait = min(2*p.wait, e.lim.T2)
			p.again = now.Add(p.wait)
			e.trunks.out[id] = p
			e.write(p.flow, p.bytes)
		}
		if !p.again.IsZero() {
			next = earlier(next, p.again)
		}
		next = earlier(next, p.sent.Add(e.lim.Silence))
	}
	for _, t := range e.trunks.peers {
		for h, due := range t.due {
			if t.every <= 0 {
				continue
			}
			if !now.Before(due) {
				t.due[h] = now.Add(t.every)
				dead = append(dead, e.pingTrunk(t.target, h, now)...)
			}
			next = earlier(next, t.due[h])
		}
	}
	e.trunks.mu.Unlock()
	for _, p := range dead {
		e.pingFailed(p.at, noSign, now)
	}
	return next
}

// pingTrunk sends one ping; it returns it when there is no way. e.trunks.mu is held.
func (e *Edge) pingTrunk(uri string, h hop, now time.Time) (dead []probe) {
	q, _ := target(uri)
	f, ok := e.reach(h, q.host)
	if !ok {
		return []probe{{at: h}}
	}
	id := strconv.FormatUint(rand.Uint64(), 36)
	e.stats.TrunkPings.Add(1)
	p := probe{at: h, sent: now, flow: f, wait: e.lim.T1, bytes: e.options(uri, trunkBranch, id, f.link)}
	if !f.link.reliable() {
		p.again = now.Add(p.wait)
	}
	e.trunks.out[id] = p
	e.write(f, p.bytes)
	return nil
}

// pingFailed notes it, and has the next one sent soon: down is to be known in
// seconds, not in three intervals.
func (e *Edge) pingFailed(h hop, why reason, now time.Time) {
	e.mu.Lock()
	e.trouble(h, why, false, now)
	e.mu.Unlock()
	e.trunks.mu.Lock()
	defer e.trunks.mu.Unlock()
	for _, t := range e.trunks.peers {
		if due, ok := t.due[h]; ok && t.every > 0 {
			t.due[h] = earlier(due, now.Add(min(pingAgain, t.every)))
		}
	}
}

// pong takes the answer to the ping with this id.
func (e *Edge) pong(id string, data []byte, now time.Time) {
	status := 0
	if len(data) > 12 && string(data[:8]) == "SIP/2.0 " {
		status, _ = strconv.Atoi(string(data[8:11]))
	}
	if status < 200 {
		return
	}
	e.trunks.mu.Lock()
	p, ok := e.trunks.out[id]
	delete(e.trunks.out, id)
	e.trunks.mu.Unlock()
	switch {
	case !ok: // repeated
	case status == 503 || status == 408:
		e.pingFailed(p.at, unavailable, now)
	default:
		e.circuits.ponged(p.at, now.Sub(p.sent), now)
		e.circuits.worked(p.at, now)
	}
}

// refusedPing takes the news that nobody listens where a ping went.
func (e *Edge) refusedPing(id string, now time.Time) {
	e.trunks.mu.Lock()
	p, ok := e.trunks.out[id]
	delete(e.trunks.out, id)
	e.trunks.mu.Unlock()
	if ok {
		e.pingFailed(p.at, portClosed, now)
	}
}

// isTrunk reports whether an address is a trunk's: one that it calls from, or one
// at which it is called, by whatever port.
func (e *Edge) isTrunk(a netip.AddrPort) bool {
	plan := e.cfg.Plan()
	if plan == nil {
		return false
	}
	name, _ := plan.Identify(a)
	for i := range plan.Peers {
		if p := &plan.Peers[i]; p.Kind == "trunk" && p.Name == name {
			return true
		}
	}
	return e.circuits.ofTrunk(a.Addr().Unmap())
}
