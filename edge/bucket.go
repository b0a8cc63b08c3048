package edge

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// buckets are token buckets per source address, known peers and others apart.
// They are cells that addresses hash to, two for each address; a message needs a
// token in one of its two and takes one from both. So there is nothing to evict:
// a flood of invented sources takes no memory, resets nobody's bucket, and
// shuts out an honest source only when it empties both of its cells. Who shares
// them no outsider can tell: the seed is this process's.
type buckets struct {
	mu    sync.Mutex
	seed  maphash.Seed
	rate  float32 // tokens per second of a cell, and its depth
	born  time.Time
	cells []cell // a power of two
}

// cell is one bucket. at is in milliseconds since the start, and wraps after 49
// days: a bucket then is not filled once.
type cell struct {
	tokens float32
	at     uint32
}

const (
	strangerCells = 1 << 16 // 512 KiB
	peerCells     = 1 << 12
)

func newBuckets(rate float64, cells int) *buckets {
	b := &buckets{rate: float32(rate), seed: maphash.MakeSeed(), born: time.Now(), cells: make([]cell, cells)}
	for i := range b.cells {
		b.cells[i].tokens = b.rate
	}
	return b
}

// sourceKey is what one source is: an IPv4 address, or the /64 of an IPv6
// address, since one host has all of it.
func sourceKey(from netip.Addr) netip.Addr {
	from = from.Unmap().WithZone("")
	if from.Is6() {
		p, _ := from.Prefix(64)
		return p.Addr()
	}
	return from
}

// take reports whether the source may send one more message now.
func (b *buckets) take(from netip.Addr, now time.Time) bool {
	h := maphash.Comparable(b.seed, sourceKey(from))
	mask := uint64(len(b.cells) - 1)
	at := uint32(now.Sub(b.born).Milliseconds())
	b.mu.Lock()
	defer b.mu.Unlock()
	one, two := &b.cells[h&mask], &b.cells[h>>32&mask]
	ok := one.fill(b.rate, at)
	if two != one {
		ok = two.fill(b.rate, at) || ok
	}
	if ok {
		one.tokens = max(0, one.tokens-1)
		if two != one {
			two.tokens = max(0, two.tokens-1)
		}
	}
	return ok
}

// fill adds what has come since, and tells whether there is a token.
func (c *cell) fill(rate float32, at uint32) bool {
	if since := at - c.at; since < 1<<31 {
		c.tokens = min(rate, c.tokens+rate*float32(since)/1000)
		c.at = at
	}
	return c.tokens >= 1
}
