package registrar

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

// A nonce is 4 bytes of time (Unix seconds), 5 random ones, and 9 of a MAC over
// them, the address of the asker and the realm: 24 characters. Every edge that
// has the cluster key can tell its own from an invented one.
const (
	nonceTime = 4
	nonceBody = 9
	nonceLen  = 18
)

var nonceText = base64.RawURLEncoding

type nonces struct {
	key   []byte
	realm string
}

func newNonces(clusterKey []byte, realm string) nonces {
	h := hmac.New(sha256.New, clusterKey)
	h.Write([]byte("callswitch digest nonce 1"))
	return nonces{h.Sum(nil), realm}
}

func (n nonces) mint(to netip.Addr, now time.Time) string {
	var b [nonceLen]byte
	binary.BigEndian.PutUint32(b[:], uint32(now.Unix()))
	_, _ = rand.Read(b[nonceTime:nonceBody]) // never fails (crypto/rand)
	n.mac(b[:], to)
	return nonceText.EncodeToString(b[:])
}

// mac fills in the last part of b.
func (n nonces) mac(b []byte, to netip.Addr) {
	h := hmac.New(sha256.New, n.key)
	h.Write(b[:nonceBody])
	addr := to.Unmap().As16()
	h.Write(addr[:])
	h.Write([]byte(n.realm))
	var out [sha256.Size]byte
	copy(b[nonceBody:], h.Sum(out[:0]))
}

// minted tells when a nonce was minted for this asker; ok false: it was not.
func (n nonces) minted(nonce string, to netip.Addr) (at time.Time, ok bool) {
	var b, want [nonceLen]byte
	if len(nonce) != nonceText.EncodedLen(nonceLen) {
		return at, false
	}
	if _, err := nonceText.Strict().Decode(b[:], []byte(nonce)); err != nil {
		return at, false
	}
	want = b
	n.mac(want[:], to)
	return time.Unix(int64(binary.BigEndian.Uint32(b[:])), 0), hmac.Equal(b[:], want[:])
}

// counts remembers which counts of a nonce have been used (RFC 7616 3.4, nc), in
// two generations of at most max/2 nonces: when the younger is full the older
// is forgotten, and every nonce as old as its youngest is stale from then on.
type counts struct {
	mu      sync.Mutex
	max     int
	horizon time.Time // nonces minted before it are not judged
	young   map[string]used
	old     map[string]used
	newest  time.Time // mint time of the youngest nonce in young
	before  time.Time // and in old
}

// used is the highest count seen and, as bits, the 64 below it: requests may
// overtake each other over UDP.
type used struct {
	high uint32
	bits uint64
}

func newCounts(most int, born time.Time) *counts {
	// A nonce carries whole seconds: one of the second of our birth is ours.
	return &counts{max: most, horizon: born.Truncate(time.Second), young: map[string]used{}, old: map[string]used{}}
}

// take notes a count; false: it has been used, or nobody can say.
func (c *counts) take(nonce string, minted time.Time, nc uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	u, known := c.young[nonce]
	if !known {
		if u, known = c.old[nonce]; known {
			delete(c.old, nonce)
		} else if minted.Before(c.horizon) {
			return false
		}
	}
	if nc == 0 || !u.take(nc) {
		if known {
			c.keep(nonce, minted, u)
		}
		return false
	}
	c.keep(nonce, minted, u)
	return true
}

func (u *used) take(nc uint32) bool {
	switch {
	case nc > u.high:
		if shift := nc - u.high; shift < 64 {
			u.bits = u.bits<<shift | 1<<(shift-1)
		} else {
			u.bits = 0
		}
		u.high = nc
		return true
	case nc == u.high || u.high-nc > 64:
		return false
	}
	bit := uint64(1) << (u.high - nc - 1)
	if u.bits&bit != 0 {
		return false
	}
	u.bits |= bit
	return true
}

func (c *counts) keep(nonce string, minted time.Time, u used) {
	if len(c.young) >= max(c.max/2, 1) {
		if after := c.before.Add(time.Second); len(c.old) > 0 && after.After(c.horizon) {
			c.horizon = after
		}
		c.old, c.before = c.young, c.newest
		c.young, c.newest = map[string]used{}, time.Time{}
	}
	c.young[nonce] = u
	if minted.After(c.newest) {
		c.newest = minted
	}
}

// Seen is what has been seen of nonces, for a successor that is to take those of before,
// too: of a nonce that is younger than Since and not among Used no count has been used.
type Seen struct {
	Since time.Time            `json:"since"`
	Used  map[string][2]uint64 `json:"used,omitempty"` // used, by nonce
}

// seen is what is known of the nonces minted since then.
func (c *counts) seen(since time.Time) Seen {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Seen{Since: c.horizon, Used: map[string][2]uint64{}}
	for _, all := range []map[string]used{c.old, c.young} {
		for nonce, u := range all {
			if !mintedAt(nonce).Before(since) {
				s.Used[nonce] = [2]uint64{uint64(u.high), u.bits}
			}
		}
	}
	return s
}

// resume goes on where another has stopped.
func (c *counts) resume(s Seen) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.horizon = s.Since
	for nonce, u := range s.Used {
		c.keep(nonce, mintedAt(nonce), used{uint32(u[0]), u[1]})
	}
}

// mintedAt reads a nonce that is known to be ours.
func mintedAt(nonce string) time.Time {
	var b [nonceLen]byte
	_, _ = nonceText.Decode(b[:], []byte(nonce))
	return time.Unix(int64(binary.BigEndian.Uint32(b[:])), 0)
}
