package registrar

import (
	"net/netip"
	"sync"
	"time"
)

// Of one source (an IPv4 address, an IPv6 /64) so many wrong answers are looked
// at, and one more every sourceEvery; of one account, over all sources,
// likewise. Where nothing is left the answer is not looked at, right or wrong.
const (
	sourceBurst  = 10
	sourceEvery  = 6 * time.Second
	accountBurst = 30
	accountEvery = 10 * time.Second
	// goodFor is how long a source that knew an account's password is not held to
	// what others do to the account.
	goodFor = 2 * time.Hour
	// maxGuarded bounds each table; a full one starts afresh, which gives an
	// attacker with that many addresses one burst each.
	maxGuarded = 1 << 15
)

// guard slows the guessing of passwords down.
type guard struct {
	mu       sync.Mutex
	sources  map[netip.Prefix]debt
	accounts map[string]debt
	good     map[standing]time.Time
}

type standing struct {
	source  netip.Prefix
	account string
}

// debt is the failures not yet forgiven.
type debt struct {
	failures float64
	at       time.Time
}

func newGuard() *guard {
	return &guard{sources: map[netip.Prefix]debt{}, accounts: map[string]debt{}, good: map[standing]time.Time{}}
}

func sourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.WithZone("").Prefix(bits)
	return p
}

func (d debt) now(now time.Time, every time.Duration) debt {
	if gone := now.Sub(d.at); gone > 0 {
		d.failures, d.at = max(0, d.failures-gone.Seconds()/every.Seconds()), now
	}
	return d
}

// allows reports whether an answer of this source for this account is looked at.
func (g *guard) allows(from netip.Addr, account string, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := sourceOf(from)
	if d, ok := g.sources[s]; ok && d.now(now, sourceEvery).failures > sourceBurst-1 {
		return false
	}
	if d, ok := g.accounts[account]; ok && d.now(now, accountEvery).failures > accountBurst-1 {
		return now.Before(g.good[standing{s, account}])
	}
	return true
}

// failed takes a wrong answer down; account is "" for one that does not exist.
func (g *guard) failed(from netip.Addr, account string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	charge(g.sources, sourceOf(from), now, sourceEvery)
	if account != "" {
		charge(g.accounts, account, now, accountEvery)
	}
}

func charge[K comparable](in map[K]debt, k K, now time.Time, every time.Duration) {
	d, ok := in[k]
	if !ok && len(in) >= maxGuarded {
		clear(in)
	}
	d = d.now(now, every)
	d.failures++
	in[k] = d
}

// succeeded takes a right answer down.
func (g *guard) succeeded(from netip.Addr, account string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := standing{sourceOf(from), account}
	if _, ok := g.good[k]; !ok && len(g.good) >= maxGuarded {
		clear(g.good)
	}
	g.good[k] = now.Add(goodFor)
}
