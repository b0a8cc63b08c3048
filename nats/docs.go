package nats

import (
	"context"
	"errors"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"callswitch/sessions"
)

// Keys of the documents the switch keeps.
const (
	DocPlan    = "plan"    // the dialplan
	DocRollout = "rollout" // the rollout in progress, or the last one
	DocCluster = "cluster" // the schema floor
)

// Docs are small versioned documents, in the KV bucket "switch": any host may
// change one, and the revision is its conflict token.
type Docs struct {
	c *Conn
	t *table
	// recheck is how often Watch reads what nobody told it of.
	recheck time.Duration
}

// NewDocs returns the documents; EnsureStreams makes their bucket.
func NewDocs(c *Conn) *Docs {
	return &Docs{c: c, t: newTable(c, "KV_"+bucket, "$KV."+bucket+".", 5*time.Second), recheck: 15 * time.Second}
}

// Get reads the newest version (sessions.ErrNotFound, sessions.ErrUnavailable).
func (d *Docs) Get(ctx context.Context, key string) (value []byte, rev uint64, err error) {
	e, err := d.t.get(ctx, key)
	if err == nil && e.Header.Get("KV-Operation") != "" {
		err = sessions.ErrNotFound // deleted with a tool
	}
	return e.Data, e.Rev, err
}

// Put writes value if the document's revision is still rev (0: there is none)
// and returns the new one. sessions.ErrConflict: another writer won.
func (d *Docs) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	return d.t.put(ctx, write{key: key, hdr: natsgo.Header{}, data: value, rev: rev})
}

// Watch calls fn with the present version, if there is one, and with newer ones
// as they are committed, on a goroutine of its own, until ctx ends. Versions in
// between may be skipped; none is given twice, and none older than the last. A
// notice that gets lost costs 15 s at most, and none across a reconnect.
func (d *Docs) Watch(ctx context.Context, key string, fn func(value []byte, rev uint64)) error {
	if !validKey(key) {
		return ErrKey
	}
	look := make(chan struct{}, 1)
	nudge := func() {
		select {
		case look <- struct{}{}:
		default:
		}
	}
	s, err := d.c.bus.Subscribe(docsChanged+key, func(*natsgo.Msg) { nudge() })
	if err != nil {
		return awayErr(err)
	}
	d.c.OnReconnect(func() {
		if ctx.Err() == nil {
			nudge()
		}
	})
	// Reading goes by another connection: a version that is written between the
	// first look and the server's knowing of us would be told to nobody.
	known, cancel := context.WithTimeout(ctx, 2*time.Second)
	_ = d.c.bus.FlushWithContext(known) // away: the reconnect looks again
	cancel()
	nudge()
	go func() {
		defer func() { _ = s.Unsubscribe() }()
		tick := time.NewTicker(d.recheck)
		defer tick.Stop()
		var last uint64
		for {
			select {
			case <-ctx.Done():
				return
			case <-look:
			case <-tick.C:
			}
			value, rev, err := d.Get(ctx, key)
			switch {
			case err == nil && rev > last:
				last = rev
				fn(value, rev)
			case err != nil && !errors.Is(err, sessions.ErrNotFound) && ctx.Err() == nil:
				d.c.cfg.Log.Warn("document cannot be read, trying again", "key", key, "err", err)
				nudge()
			}
		}
	}()
	return nil
}
