package media

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// LegStore keeps the cold records of media nodes: opaque bytes by node and call.
// Errors are those of sessions.Store. It need not be there: calls go on.
type LegStore interface {
	// Put writes if the record's revision is still rev (0: there is none).
	Put(ctx context.Context, node string, call codecore.CallID, body []byte, rev uint64) (newRev uint64, err error)
	// Get returns sessions.ErrNotFound when there is none.
	Get(ctx context.Context, node string, call codecore.CallID) (body []byte, rev uint64, err error)
	// Scan calls fn for each record of the node and stops at its first error.
	Scan(ctx context.Context, node string, fn func(call codecore.CallID, body []byte, rev uint64) error) error
	// Delete removes a record; none is no error.
	Delete(ctx context.Context, node string, call codecore.CallID) error
}

// cold writes records behind the calls: some time after a change, one write in
// flight per call, many in flight together. A call that ends before its write is
// due costs none.
type cold struct {
	store LegStore
	node  string
	boot  string
	log   *slog.Logger
	sem   chan struct{}
	wg    sync.WaitGroup

	mu      sync.Mutex
	entries map[codecore.CallID]*coldEntry
	hold    time.Time // after the store was away: nothing before
}

// coldEntry is what is known of one record.
type coldEntry struct {
	rev    uint64
	doubt  bool      // a write had no clear end: read before the next
	due    time.Time // zero: in step
	gone   bool      // the call has ended
	flying bool
}

func newCold(store LegStore, node, boot string, log *slog.Logger) *cold {
	return &cold{store: store, node: node, boot: boot, log: log, sem: make(chan struct{}, 32), entries: map[codecore.CallID]*coldEntry{}}
}

// changed has a call written at due, if it is not due earlier.
func (w *cold) changed(id codecore.CallID, due time.Time) {
	if w.store == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.entries[id]
	if e == nil {
		e = &coldEntry{}
		w.entries[id] = e
	}
	e.gone = false
	if e.due.IsZero() {
		e.due = due
	}
}

// stored tells what a scan found.
func (w *cold) stored(id codecore.CallID, rev uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entries[id] = &coldEntry{rev: rev}
}

// known returns what a successor needs to write the record.
func (w *cold) known(id codecore.CallID) (rev uint64, doubt, due bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.entries[id]
	if e == nil {
		return 0, false, false
	}
	return e.rev, e.doubt || e.flying, !e.due.IsZero() || e.flying
}

// unsure has a record written soon, after a look at what is there if in doubt.
func (w *cold) unsure(id codecore.CallID, doubt bool, due time.Time) {
	w.changed(id, due)
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.entries[id]; e != nil {
		e.doubt = doubt
	}
}

// ended has the record of a call deleted, if it was ever written.
func (w *cold) ended(id codecore.CallID, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.entries[id]
	switch {
	case e == nil:
	case e.rev == 0 && !e.flying && !e.doubt:
		delete(w.entries, id)
	default:
		e.gone, e.due = true, now
	}
}

func (w *cold) waiting() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.entries {
		if !e.due.IsZero() || e.flying {
			n++
		}
	}
	return n
}

// tend starts the writes that are due; body returns a call's record now, or nil.
func (w *cold) tend(ctx context.Context, now time.Time, body func(codecore.CallID) *record) {
	type job struct {
		id codecore.CallID
		e  *coldEntry
	}
	var jobs []job
	w.mu.Lock()
	if !now.Before(w.hold) {
		for id, e := range w.entries {
			if e.flying || e.due.IsZero() || now.Before(e.due) {
				continue
			}
			e.flying = true
			jobs = append(jobs, job{id, e})
		}
	}
	w.mu.Unlock()
	for _, j := range jobs {
		select {
		case w.sem <- struct{}{}:
		default: // as many as may be are under way: next time
			w.mu.Lock()
			j.e.flying = false
			w.mu.Unlock()
			continue
		}
		w.mu.Lock()
		gone := j.e.gone
		j.e.due = time.Time{}
		w.mu.Unlock()
		var rec *record
		if !gone {
			rec = body(j.id)
		}
		w.wg.Go(func() {
			defer func() { <-w.sem }()
			w.write(ctx, j.id, j.e, rec)
		})
	}
}

// write brings one record in step: rec, or none.
func (w *cold) write(ctx context.Context, id codecore.CallID, e *coldEntry, rec *record) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	rev := e.rev // nobody else writes it while flying
	var err error
	switch {
	case rec == nil:
		// Whoever wrote it: a call that has ended needs none.
		err = w.store.Delete(ctx, w.node, id)
	default:
		if e.doubt {
			if rev, err = w.current(ctx, id); err != nil {
				break
			}
		}
		var raw []byte
		if raw, err = json.Marshal(rec); err == nil {
			rev, err = w.store.Put(ctx, w.node, id, raw, rev)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	e.flying = false
	now := time.Now()
	switch {
	case err == nil && rec == nil:
		if e.gone {
			delete(w.entries, id)
		} else {
			e.rev, e.doubt = 0, false // a call of the same id began meanwhile
		}
	case err == nil:
		e.rev, e.doubt = rev, false
	case errors.Is(err, errOusted):
		w.log.Warn("media: a younger process has this record; left to it", "call", id)
		e.due = time.Time{}
		if e.gone {
			delete(w.entries, id)
		}
	default:
		w.log.Debug("media: cold record waits", "call", id, "err", err)
		e.doubt = true
		e.due = now
		if !errors.Is(err, sessions.ErrConflict) {
			w.hold = now.Add(time.Second)
		}
	}
	if e.gone && e.due.IsZero() && err == nil && rec != nil {
		e.due = now
	}
}

var errOusted = errors.New("media: a younger process owns the record")

// current reads a record's revision before it is written over.
func (w *cold) current(ctx context.Context, id codecore.CallID) (uint64, error) {
	body, rev, err := w.store.Get(ctx, w.node, id)
	if errors.Is(err, sessions.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if r, err := decodeRecord(body); err == nil && r.Boot > w.boot {
		return 0, errOusted
	}
	return rev, nil
}
