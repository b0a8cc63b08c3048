package registrar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Errors that a Store gives; cmd/switch translates those of its technology.
var (
	ErrNotFound    = errors.New("registrar: no value")
	ErrConflict    = errors.New("registrar: value has changed")
	ErrUnavailable = errors.New("registrar: directory is away")
)

// Store keeps one value for each key by compare-and-set on its revision.
type Store interface {
	// Put writes if the revision is still rev (0: there is no value), and forgets
	// the value after keep. ErrConflict: another writer won.
	Put(ctx context.Context, key string, value []byte, rev uint64, keep time.Duration) (uint64, error)
	// Get reads the newest value (ErrNotFound).
	Get(ctx context.Context, key string) (value []byte, rev uint64, err error)
	// Scan calls fn for each value, and stops at fn's first error.
	Scan(ctx context.Context, fn func(key string, value []byte, rev uint64) error) error
}

// maxCached bounds the entries that a Directory remembers.
const maxCached = 1 << 17

// A Directory is the bindings of all accounts. Writers remember what they wrote
// last, so that a refresh costs one compare-and-set at most and none when what
// is stored says it already. What another edge wrote meanwhile is then learned
// at the next write, one refresh later. Safe for use by many goroutines.
type Directory struct {
	store  Store
	limits Limits

	mu    sync.Mutex
	cache map[string]cached
}

type cached struct {
	entry Entry
	rev   uint64
}

// NewDirectory makes a Directory.
func NewDirectory(s Store, l Limits) *Directory {
	return &Directory{store: s, limits: l.WithDefaults(), cache: map[string]cached{}}
}

// slowPut is how often a write is tried that others beat.
const slowPut = 5

// Register performs a REGISTER. The answer may be sent when it returns: what it
// tells is stored. wrote tells whether that took a write.
func (d *Directory) Register(ctx context.Context, r Request, now time.Time) (told []Told, wrote bool, no *Refusal, err error) {
	key := Key(r.Account)
	d.mu.Lock()
	c, known := d.cache[key]
	d.mu.Unlock()
	for range slowPut {
		if !known {
			if c, err = d.read(ctx, key); err != nil {
				return nil, false, nil, err
			}
		}
		next, told, write, no := c.entry.Apply(r, d.limits, now)
		if !write || no != nil {
			if no != nil && known { // what is remembered may be old: a refusal rests on the truth
				known = false
				continue
			}
			if no == nil {
				c.entry = next
			}
			d.remember(key, c)
			return told, false, no, nil
		}
		rev, err := d.write(ctx, key, next, c.rev, now)
		if err == nil {
			d.remember(key, cached{next, rev})
			return told, true, nil, nil
		}
		d.forget(key)
		if !errors.Is(err, ErrConflict) {
			return nil, false, nil, err
		}
		known = false
	}
	return nil, false, nil, fmt.Errorf("%w: account %s is written to by many", ErrConflict, r.Account)
}

func (d *Directory) read(ctx context.Context, key string) (c cached, err error) {
	value, rev, err := d.store.Get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	c.rev = rev
	if err := json.Unmarshal(value, &c.entry); err != nil {
		c.entry = Entry{} // an unreadable entry is replaced by the next REGISTER
	}
	return c, nil
}

// tombFor is how long an entry without bindings is kept: a value that is written
// again and again needs no other way of removal.
const tombFor = time.Minute

func (d *Directory) write(ctx context.Context, key string, e Entry, rev uint64, now time.Time) (uint64, error) {
	value, err := json.Marshal(e)
	if err != nil {
		return 0, fmt.Errorf("registrar: %w", err)
	}
	keep := tombFor
	for _, b := range e.Bindings {
		keep = max(keep, b.Until.Sub(now)+tombFor)
	}
	return d.store.Put(ctx, key, value, rev, keep)
}

func (d *Directory) remember(key string, c cached) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.cache[key]; !ok && len(d.cache) >= maxCached {
		clear(d.cache)
	}
	d.cache[key] = c
}

func (d *Directory) forget(key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.cache, key)
}

// Lookup reads the living bindings of an account from the store, the newest
// first (ErrUnavailable).
func (d *Directory) Lookup(ctx context.Context, account string, now time.Time) ([]Binding, error) {
	c, err := d.read(ctx, Key(account))
	if err != nil {
		return nil, err
	}
	return c.entry.Living(now), nil
}

// List calls fn for each account that has living bindings.
func (d *Directory) List(ctx context.Context, now time.Time, fn func(Entry) error) error {
	return d.store.Scan(ctx, func(_ string, value []byte, _ uint64) error {
		var e Entry
		if json.Unmarshal(value, &e) != nil {
			return nil
		}
		if e.Bindings = e.Living(now); len(e.Bindings) == 0 {
			return nil
		}
		return fn(e)
	})
}

// Load reads the whole directory into memory, as an edge does when it starts,
// and calls fn for each living binding.
func (d *Directory) Load(ctx context.Context, now time.Time, fn func(account string, b Binding)) error {
	return d.store.Scan(ctx, func(key string, value []byte, rev uint64) error {
		var e Entry
		if json.Unmarshal(value, &e) != nil {
			return nil
		}
		d.remember(key, cached{e, rev})
		for _, b := range e.Living(now) {
			fn(e.Account, b)
		}
		return nil
	})
}

// Clear removes all bindings of an account.
func (d *Directory) Clear(ctx context.Context, account string, now time.Time) error {
	key := Key(account)
	for range slowPut {
		c, err := d.read(ctx, key)
		if err != nil || len(c.entry.Bindings) == 0 {
			return err
		}
		d.forget(key)
		if _, err = d.write(ctx, key, Entry{Account: account}, c.rev, now); !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return ErrConflict
}
