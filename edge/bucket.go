package edge

import (
	"net/netip"
	"sync"
	"time"
)

// maxSources bounds the memory of a flood of invented sources: then all buckets
// start afresh, which costs a flooder one burst each.
const maxSources = 1 << 15

// buckets hold one token bucket per source address, known peers and others
// apart.
type buckets struct {
	mu   sync.Mutex
	rate float64 // tokens per second, and the depth
	by   map[netip.Addr]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newBuckets(rate float64) *buckets {
	return &buckets{rate: rate, by: map[netip.Addr]bucket{}}
}

// take reports whether the source may send one more message now.
func (b *buckets) take(from netip.Addr, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, ok := b.by[from]
	if !ok {
		if len(b.by) >= maxSources {
			clear(b.by)
		}
		t = bucket{b.rate, now}
	}
	t.tokens = min(b.rate, t.tokens+b.rate*now.Sub(t.at).Seconds())
	t.at = now
	ok = t.tokens >= 1
	if ok {
		t.tokens--
	}
	b.by[from] = t
	return ok
}
