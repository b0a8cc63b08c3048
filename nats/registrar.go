package nats

import (
	"context"
	"errors"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"callswitch/sessions"
)

// Shelf keeps one opaque value for each key; a key is one token of a subject. A
// value may be forgotten by itself after a while.
type Shelf struct {
	c       *Conn
	t       *table
	changed string // subject prefix of notices; "" = there are none
	// recheck is how often Watch reads everything, for notices that got lost.
	recheck time.Duration
}

// NewAccounts returns the shelf of the accounts, which can be watched, and
// NewBindings that of the registrations; EnsureStreams makes their streams.
// patience is how long one call tries before sessions.ErrUnavailable (0: 5 s).
func NewAccounts(c *Conn, patience time.Duration) *Shelf {
	def(&patience, 5*time.Second)
	return &Shelf{c: c, t: newTable(c, streamAccounts, "acct.", patience), changed: accountChanged, recheck: 5 * time.Minute}
}

// NewBindings returns the shelf of the registrations.
func NewBindings(c *Conn, patience time.Duration) *Shelf {
	def(&patience, 5*time.Second)
	return &Shelf{c: c, t: newTable(c, streamBindings, "reg.", patience)}
}

// NewCarriers returns the shelf of our registrations at carriers, which can be
// watched.
func NewCarriers(c *Conn, patience time.Duration) *Shelf {
	def(&patience, 5*time.Second)
	return &Shelf{c: c, t: newTable(c, streamCarriers, "carrier.", patience), changed: carrierChanged, recheck: 30 * time.Second}
}

// Put writes value if the key's revision is still rev (0: it has none), and
// forgets it after keep, in whole seconds (0: never). An empty value says that
// there is none; the watchers hear of it. sessions.ErrConflict: another writer
// won; sessions.ErrUnavailable: nobody knows yet, asking again is safe.
func (s *Shelf) Put(ctx context.Context, key string, value []byte, rev uint64, keep time.Duration) (uint64, error) {
	h := natsgo.Header{}
	if keep > 0 {
		h[hdrTTL] = []string{max(keep.Round(time.Second), time.Second).String()}
	}
	return s.t.put(ctx, write{key: key, hdr: h, data: value, rev: rev})
}

// Get reads the newest value (sessions.ErrUnavailable). sessions.ErrNotFound
// comes with the revision to write over: that of an empty value, or 0.
func (s *Shelf) Get(ctx context.Context, key string) (value []byte, rev uint64, err error) {
	e, err := s.t.get(ctx, key)
	if err == nil && len(e.Data) == 0 {
		err = sessions.ErrNotFound
	}
	return e.Data, e.Rev, err
}

// Scan calls fn once for each key that has a value, and stops at fn's first error.
func (s *Shelf) Scan(ctx context.Context, fn func(key string, value []byte, rev uint64) error) error {
	return s.t.scan(ctx, scanOpts{}, func(e entry) error {
		if len(e.Data) == 0 {
			return nil
		}
		return fn(e.Key, e.Data, e.Rev)
	})
}

// maxNotices is how many changed keys wait to be read; beyond it everything is.
const maxNotices = 1024

// Watch calls fn for each value there is, then for each that changes (nil: it
// has gone), one at a time. It returns when fn has had all there is, or with
// ctx's end (sessions.ErrUnavailable), and goes on, on a goroutine of its own,
// until ctx ends. Changes in between two of the same key may be skipped; a
// notice that gets lost costs 5 minutes at most, and none across a reconnect.
func (s *Shelf) Watch(ctx context.Context, fn func(key string, value []byte)) error {
	notices := make(chan string, maxNotices)
	all := make(chan struct{}, 1)
	nudge := func() {
		select {
		case all <- struct{}{}:
		default:
		}
	}
	sub, err := s.c.bus.Subscribe(s.changed+"*", func(m *natsgo.Msg) {
		select {
		case notices <- strings.TrimPrefix(m.Subject, s.changed):
		default:
			nudge()
		}
	})
	if err != nil {
		return awayErr(err)
	}
	w := &watcher{s: s, fn: fn, revs: map[string]uint64{}}
	for {
		if err = w.readAll(ctx); err == nil {
			break
		}
		if ctx.Err() != nil {
			_ = sub.Unsubscribe()
			return err
		}
	}
	s.c.OnReconnect(func() {
		if ctx.Err() == nil {
			nudge()
		}
	})
	go func() {
		defer func() { _ = sub.Unsubscribe() }()
		tick := time.NewTicker(s.recheck)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case key := <-notices:
				err = w.readOne(ctx, key)
			case <-all:
				err = w.readAll(ctx)
			case <-tick.C:
				err = w.readAll(ctx)
			}
			if err != nil && ctx.Err() == nil {
				s.c.cfg.Log.Warn("shelf cannot be read, trying again", "stream", s.t.stream, "err", err)
				nudge()
			}
		}
	}()
	return nil
}

// watcher tells what is new; one goroutine at a time uses it.
type watcher struct {
	s    *Shelf
	fn   func(key string, value []byte)
	revs map[string]uint64 // of what fn has been told
}

func (w *watcher) readOne(ctx context.Context, key string) error {
	value, rev, err := w.s.Get(ctx, key)
	switch {
	case errors.Is(err, sessions.ErrNotFound):
		w.gone(key)
		return nil
	case err != nil:
		return err
	}
	w.tell(key, value, rev)
	return nil
}

func (w *watcher) readAll(ctx context.Context) error {
	seen := map[string]bool{}
	err := w.s.Scan(ctx, func(key string, value []byte, rev uint64) error {
		seen[key] = true
		w.tell(key, value, rev)
		return nil
	})
	if err != nil {
		return err
	}
	for key := range w.revs {
		if !seen[key] {
			w.gone(key)
		}
	}
	return nil
}

func (w *watcher) tell(key string, value []byte, rev uint64) {
	if w.revs[key] < rev {
		w.revs[key] = rev
		w.fn(key, value)
	}
}

func (w *watcher) gone(key string) {
	if _, known := w.revs[key]; known {
		delete(w.revs, key)
		w.fn(key, nil)
	}
}
