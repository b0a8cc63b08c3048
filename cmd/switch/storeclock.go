package main

import (
	"context"
	"sync/atomic"
	"time"

	"callswitch/nats"
)

// storeClock measures by how much the store's clock is ahead of ours, once now
// and then every minute: deadlines in records are in store time, so that they
// mean the same on every host. Offsets under 50 ms are the measurement's own.
func storeClock(ctx context.Context, store *nats.Store, log logger) func() time.Duration {
	var offset atomic.Int64
	measure := func() {
		limit, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		d, err := store.StoreTime(limit)
		if err != nil {
			return // the last one holds
		}
		if d.Abs() < 50*time.Millisecond {
			d = 0
		}
		if old := time.Duration(offset.Swap(int64(d))); (old - d).Abs() > time.Second {
			log.Warn("clocks differ", "store_is_ahead_by", d)
		}
	}
	measure()
	go func() {
		tick := time.NewTicker(time.Minute)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				measure()
			}
		}
	}()
	return func() time.Duration { return time.Duration(offset.Load()) }
}
