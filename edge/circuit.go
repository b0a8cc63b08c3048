package edge

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// What this edge knows of the addresses that requests go to.
//
//	        breakAfter failures in a row             back-off over
//	up ------------------------------------> down ------------------> half-open
//	 ^  <----------------------------------   ^  <------------------  |  one INVITE
//	 |          a ping is answered                    it fails        |  may try
//	 +----------------------------------------------------------------+
//	                         it is answered
//
// A failure is a 503, no answer at all, or no connection; anything else that the
// far end says is a sign of life. Only the addresses of the dialplan's trunks have
// a circuit that refuses; any other that failed comes after its alternatives for
// a while.

// States of a circuit. They are shown and counted: never rename.
const (
	circuitUp   = "up"
	circuitDown = "down"
	circuitHalf = "half-open"
)

const (
	breakAfter   = 3
	firstBreak   = 5 * time.Second // of the back-off; it doubles
	lastBreak    = time.Minute
	suspectFor   = 30 * time.Second // since its last failure
	maxSuspects  = 1024             // addresses of nobody's trunk
	trialsWithin = 40 * time.Second // an INVITE that tries a half-open circuit is over by then
)

// circuits are guarded by a mutex of their own: pings need no other.
type circuits struct {
	mu sync.Mutex
	by map[hop]*circuit
}

type circuit struct {
	trunk   bool // of the dialplan
	state   string
	fails   int // in a row
	back    time.Duration
	until   time.Time // down: the back-off; half-open: of the trial
	failed  time.Time // last
	why     string
	pinged  time.Time // last answer to a ping
	rtt     time.Duration
	changed time.Time
}

// watch makes these the trunks' addresses.
func (c *circuits) watch(trunks map[hop]bool, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for h := range trunks {
		c.at(h, now).trunk = true
	}
	for h, k := range c.by {
		if !trunks[h] {
			if k.trunk = false; k.state != circuitUp || now.Sub(k.failed) > suspectFor {
				delete(c.by, h)
			}
		}
	}
}

// at is the circuit of a hop, made if need be. c.mu is held.
func (c *circuits) at(h hop, now time.Time) *circuit {
	k := c.by[h]
	if k == nil {
		k = &circuit{state: circuitUp, changed: now}
		c.by[h] = k
	}
	return k
}

// worked notes a sign of life.
func (c *circuits) worked(h hop, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.by[h]
	if k == nil {
		return
	}
	if k.fails, k.back = 0, 0; k.state != circuitUp {
		k.state, k.changed = circuitUp, now
	}
}

// broke notes a failure, of an address that is no trunk's only if there are others
// that it may be put behind. It reports whether that has taken the circuit down.
func (c *circuits) broke(h hop, why string, others bool, now time.Time) (down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by[h] == nil && !others {
		return false
	}
	if c.by[h] == nil && len(c.by) >= maxSuspects {
		for other, k := range c.by {
			if !k.trunk && now.Sub(k.failed) > suspectFor {
				delete(c.by, other)
				break
			}
		}
		if len(c.by) >= maxSuspects {
			return false
		}
	}
	k := c.at(h, now)
	k.fails++
	k.failed, k.why = now, why
	if !k.trunk || k.state == circuitUp && k.fails < breakAfter || k.state == circuitDown {
		return false
	}
	k.back = min(max(2*k.back, firstBreak), lastBreak)
	k.state, k.until, k.changed = circuitDown, now.Add(k.back), now
	return true
}

// health ranks a hop: 0 well, 1 failed lately, 2 not to be used.
func (k *circuit) health(now time.Time) int {
	switch {
	case k == nil:
		return 0
	case k.state != circuitUp && now.Before(k.until):
		return 2
	case k.state != circuitUp, k.fails > 0 && now.Sub(k.failed) < suspectFor:
		return 1
	}
	return 0
}

// sort puts what failed behind what did not, and leaves the order as it is
// otherwise. usable is how many are not refused.
func (c *circuits) sort(hops []hop, now time.Time) (usable int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.SortStableFunc(hops, func(a, b hop) int { return cmp.Compare(c.by[a].health(now), c.by[b].health(now)) })
	for usable < len(hops) && c.by[hops[usable]].health(now) < 2 {
		usable++
	}
	return usable
}

// try tells that an INVITE goes there: a circuit whose back-off is over lets one
// through, and waits for what becomes of it.
func (c *circuits) try(h hop, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.by[h]; k != nil && k.state != circuitUp && !now.Before(k.until) {
		k.state, k.until, k.changed = circuitHalf, now.Add(trialsWithin), now
	}
}

// ponged notes the answer to a ping.
func (c *circuits) ponged(h hop, rtt time.Duration, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.by[h]; k != nil {
		k.pinged, k.rtt = now, rtt
	}
}

// ofTrunk reports whether a trunk of the dialplan is called at an address.
func (c *circuits) ofTrunk(a netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for h, k := range c.by {
		if k.trunk && h.addr.Addr() == a {
			return true
		}
	}
	return false
}
