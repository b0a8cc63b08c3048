package sessions

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"callswitch/codecore"
)

// MemStore is a Store in memory, for tests only: it forgets everything with its
// process, so no call of it survives anything. It can be told to fail.
type MemStore struct {
	mu      sync.Mutex
	rev     uint64
	records map[codecore.CallID]Record
	cdrs    map[string]codecore.CDR
	story   map[codecore.CallID][]StoryLine
	away    bool
	full    bool
	onPut   func(Record) error
	puts    int
}

// NewMemStore returns an empty store.
func NewMemStore() *MemStore {
	return &MemStore{
		records: map[codecore.CallID]Record{},
		cdrs:    map[string]codecore.CDR{},
		story:   map[codecore.CallID][]StoryLine{},
	}
}

// SetAway makes every call fail with ErrUnavailable, or ends that.
func (m *MemStore) SetAway(away bool) { m.mu.Lock(); m.away = away; m.mu.Unlock() }

// SetFull makes creations fail with ErrFull, or ends that.
func (m *MemStore) SetFull(full bool) { m.mu.Lock(); m.full = full; m.mu.Unlock() }

// OnPut registers what sees each record before it is written; its error is Put's.
func (m *MemStore) OnPut(f func(Record) error) { m.mu.Lock(); m.onPut = f; m.mu.Unlock() }

// Puts counts the writes that succeeded.
func (m *MemStore) Puts() int { m.mu.Lock(); defer m.mu.Unlock(); return m.puts }

// Expire forgets a record, as the end of a tombstone's 60 s does.
func (m *MemStore) Expire(id codecore.CallID) { m.mu.Lock(); delete(m.records, id); m.mu.Unlock() }

// Put implements Store.
func (m *MemStore) Put(ctx context.Context, r Record) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, ErrUnavailable
	}
	m.mu.Lock()
	hook := m.onPut
	m.mu.Unlock()
	if hook != nil {
		if err := hook(r); err != nil {
			return 0, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, held := m.records[r.ID]
	switch {
	case m.away:
		return 0, ErrUnavailable
	case old.Rev != r.Rev:
		return 0, ErrConflict
	case !held && m.full:
		return 0, ErrFull
	}
	m.rev++
	m.puts++
	r.Rev = m.rev
	r.Body = slices.Clone(r.Body)
	m.records[r.ID] = r
	return r.Rev, nil
}

// PutAll implements Store.
func (m *MemStore) PutAll(ctx context.Context, rs []Record) []PutResult {
	out := make([]PutResult, len(rs))
	for i, r := range rs {
		out[i].Rev, out[i].Err = m.Put(ctx, r)
	}
	return out
}

// Get implements Store.
func (m *MemStore) Get(_ context.Context, id codecore.CallID) (Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return Record{}, ErrUnavailable
	}
	r, ok := m.records[id]
	if !ok {
		return Record{}, ErrNotFound
	}
	r.Body = slices.Clone(r.Body)
	return r, nil
}

// Scan implements Store.
func (m *MemStore) Scan(_ context.Context, headersOnly bool, fn func(Record) error) error {
	_, err := m.scan(0, headersOnly, fn)
	return err
}

// ScanSince implements Store.
func (m *MemStore) ScanSince(_ context.Context, rev uint64, fn func(Record) error) (uint64, error) {
	return m.scan(rev, true, fn)
}

func (m *MemStore) scan(since uint64, headersOnly bool, fn func(Record) error) (upTo uint64, err error) {
	m.mu.Lock()
	if m.away {
		m.mu.Unlock()
		return since, ErrUnavailable
	}
	all := slices.Collect(maps.Values(m.records))
	upTo = m.rev
	m.mu.Unlock()
	if upTo < since { // another store than it was
		since = 0
	}
	for _, r := range all {
		if r.Rev <= since {
			continue
		}
		r.Body = slices.Clone(r.Body)
		if headersOnly {
			r.Body = nil
		}
		if err := fn(r); err != nil {
			return since, err
		}
	}
	return upTo, nil
}

// AddCDR implements Store.
func (m *MemStore) AddCDR(_ context.Context, c codecore.CDR) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return ErrUnavailable
	}
	if _, held := m.cdrs[c.ID]; !held {
		m.cdrs[c.ID] = c
	}
	return nil
}

// CDRs returns what AddCDR has stored.
func (m *MemStore) CDRs() []codecore.CDR {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.cdrs))
}

// Tell implements Store.
func (m *MemStore) Tell(id codecore.CallID, line StoryLine) {
	if line.At.IsZero() {
		line.At = time.Now()
	}
	m.mu.Lock()
	m.story[id] = append(m.story[id], line)
	m.mu.Unlock()
}

// Story returns what Tell has kept of a call.
func (m *MemStore) Story(id codecore.CallID) []StoryLine {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.story[id])
}
