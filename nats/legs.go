package nats

import (
	"context"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

// LegStore keeps the cold records of media legs. Values are opaque bytes; a key
// is one token of a subject, as a call id with "-a" behind it.
type LegStore struct{ t *table }

// NewLegStore returns the legs' store; EnsureStreams makes its stream. patience
// is how long one call tries before sessions.ErrUnavailable (0: 5 s).
func NewLegStore(c *Conn, patience time.Duration) *LegStore {
	def(&patience, 5*time.Second)
	return &LegStore{newTable(c, streamLeg, "leg.", patience)}
}

// Put writes value if the key's revision is still rev (0: it has none) and
// returns the new revision. sessions.ErrConflict: another writer won;
// sessions.ErrUnavailable: nobody knows yet, asking again is safe.
func (l *LegStore) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	return l.t.put(ctx, write{key: key, hdr: natsgo.Header{}, data: value, rev: rev})
}

// Get reads the newest value (sessions.ErrNotFound, sessions.ErrUnavailable).
func (l *LegStore) Get(ctx context.Context, key string) (value []byte, rev uint64, err error) {
	e, err := l.t.get(ctx, key)
	return e.Data, e.Rev, err
}

// Scan calls fn once for each key, and stops at fn's first error.
func (l *LegStore) Scan(ctx context.Context, fn func(key string, value []byte, rev uint64) error) error {
	return l.t.scan(ctx, scanOpts{}, func(e entry) error { return fn(e.Key, e.Data, e.Rev) })
}

// Delete removes the key's value if its revision is still rev. What is gone
// already is no error; a newer value is sessions.ErrConflict.
func (l *LegStore) Delete(ctx context.Context, key string, rev uint64) error {
	return l.t.remove(ctx, key, rev)
}
