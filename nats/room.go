package nats

import (
	"context"
	"fmt"
	"sync"
	"time"

	"callswitch/sessions"
)

// room refuses new calls while the stream is 80 % full, by figures that are at
// most age old, and what was admitted since.
type room struct {
	table *table
	age   time.Duration

	mu                sync.Mutex
	asking            bool
	at                time.Time
	msgs, bytes       uint64
	maxMsgs, maxBytes int64
}

// overhead is what a record takes on disk beyond its body, roughly.
const overhead = 400

func (r *room) admit(ctx context.Context, size int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asking && time.Since(r.at) > r.age {
		r.asking = true
		first := r.at.IsZero()
		if r.mu.Unlock(); first {
			r.refresh(ctx) // no figures at all: wait for them
		} else {
			go r.refresh(context.WithoutCancel(ctx))
		}
		r.mu.Lock()
	}
	if full(r.msgs+1, r.maxMsgs) || full(r.bytes+uint64(size)+overhead, r.maxBytes) {
		return fmt.Errorf("%w: %d records, %d bytes", sessions.ErrFull, r.msgs, r.bytes)
	}
	r.msgs++
	r.bytes += uint64(size) + overhead
	return nil
}

func full(used uint64, limit int64) bool {
	return limit > 0 && used*5 > uint64(limit)*4
}

func (r *room) refresh(ctx context.Context) {
	i, err := r.table.info(ctx) // at most one attempt's time
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asking = false
	if err != nil {
		return // the put itself will tell
	}
	r.at = time.Now()
	r.msgs, r.bytes = i.State.Msgs, i.State.Bytes
	r.maxMsgs, r.maxBytes = i.Config.MaxMsgs, i.Config.MaxBytes
}
