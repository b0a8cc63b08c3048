package edge

import (
	"net/netip"
	"sync"
	"time"
)

// linesPerMinute bounds what strangers can make us write, all of them together.
const linesPerMinute = 60

// complaints decide which refusals get a log line: the first of each source in
// a minute, while there are few; the rest is told as one number.
type complaints struct {
	mu     sync.Mutex
	minute int64
	seen   map[netip.Addr]struct{}
	silent uint64
}

// first tells whether this source is to be named now, and how many refusals of
// the minute before were not.
func (c *complaints) first(from netip.Addr, now time.Time) (name bool, before uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := now.Unix() / 60; m != c.minute {
		before, c.minute, c.silent = c.silent, m, 0
		c.seen = make(map[netip.Addr]struct{}, linesPerMinute)
	}
	key := sourceKey(from)
	if _, ok := c.seen[key]; ok || len(c.seen) >= linesPerMinute {
		c.silent++
		return false, before
	}
	c.seen[key] = struct{}{}
	return true, before
}

// complain counts a refusal and perhaps logs it. A line holds the source and the
// reason code, never a word of the message: that is the sender's to choose.
func (e *Edge) complain(from netip.AddrPort, why reason, now time.Time) {
	e.stats.count(why)
	name, before := e.complaints.first(from.Addr(), now)
	if before > 0 {
		e.log.Info("edge: more refusals", "count", before)
	}
	if name {
		e.log.Info("edge: refused", "source", from, "reason", why.String())
	}
}
