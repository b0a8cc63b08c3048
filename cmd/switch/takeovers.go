package main

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"callswitch/codecore"
	"callswitch/handoff"
	"callswitch/nats"
	"callswitch/sessions"
)

// takeovers hears of dead owners from everybody who may know (the host at once,
// the directory after a silence, a message for a call whose owner is dead, the
// records of an earlier life) and has the driver claim what they left.
type takeovers struct {
	*child
	driver *handoff.Driver
	store  *nats.Store
	dir    *nats.Directory
	claims chan codecore.CallID
}

// sweepEvery is how often the records are searched for owners that nobody has
// spoken of: the last net, for when all other news was missed.
const sweepEvery = 10 * time.Second

func (t takeovers) run(ctx context.Context) error {
	deaths := make(chan handoff.Death, 64)
	tell := func(d handoff.Death) {
		select {
		case deaths <- d:
		case <-ctx.Done():
		}
	}
	t.dir.OnDeath(func(d nats.Death) {
		if d.Role == "worker" || d.Role == "" {
			go tell(handoff.Death{Owner: d.ID})
		}
	})
	t.onExit(func(id string, inHand []codecore.CallID) {
		go func() {
			tell(handoff.Death{Owner: id, InHand: inHand})
			t.dir.Exited(id)
		}()
	})
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	// A claim may wait for other claimers (handoff.Grace): none waits for another.
	var claims sync.WaitGroup
	defer claims.Wait()
	var sweeping atomic.Bool
	swept := new(owners)      // behind sweeping
	told := map[string]bool{} // owners whose calls are, or were, claimed: the sweep sees to what failed
	claims.Go(func() { t.claim(ctx, t.orphans(ctx, new(owners), t.goneHere(ctx))) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case d := <-deaths:
			// The host's report comes before the directory's, which knows less.
			all := slices.DeleteFunc(drain(deaths, d), func(d handoff.Death) bool {
				again := told[d.Owner]
				told[d.Owner] = true
				return again
			})
			claims.Go(func() { t.claim(ctx, all) })
		case id := <-t.claims:
			t.driver.ClaimCall(id)
		case <-sweep.C:
			if sweeping.CompareAndSwap(false, true) {
				claims.Go(func() {
					defer sweeping.Store(false)
					t.claim(ctx, t.orphans(ctx, swept, t.dir.Dead))
				})
			}
		}
	}
}

// drain takes what else has come, so that workers that died together are
// claimed in one pass.
func drain(more chan handoff.Death, first handoff.Death) []handoff.Death {
	all := []handoff.Death{first}
	for {
		select {
		case d := <-more:
			all = append(all, d)
		default:
			return all
		}
	}
}

func (t takeovers) claim(ctx context.Context, dead []handoff.Death) {
	if len(dead) == 0 {
		return
	}
	r, err := t.driver.Claim(ctx, handoff.ClaimOrder{Dead: dead})
	if r.Claimed > 0 || err != nil {
		t.log.Info("took over", "calls", r.Claimed, "set_aside", r.Aside, "left", len(r.Left), "seconds", r.Seconds, "owners", len(dead), "err", err)
	}
}

// owners are those of live records, as far as sweeps have read.
type owners struct {
	upTo uint64
	seen map[string]bool
}

// orphans lists the owners of live records that are gone. Each sweep reads only
// what was written since the last one; all records are read again when an owner
// is gone, since it may have nothing left.
func (t takeovers) orphans(ctx context.Context, o *owners, gone func(owner string) bool) []handoff.Death {
	for range 2 {
		all := o.upTo == 0
		if all {
			o.seen = map[string]bool{}
		}
		upTo, err := t.store.ScanSince(ctx, o.upTo, func(r sessions.Record) error {
			if !r.Tomb && r.Owner != t.id {
				o.seen[r.Owner] = true
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			t.log.Warn("records not searched for dead owners", "err", err)
		}
		if o.upTo = upTo; err != nil {
			o.upTo = 0
		}
		var dead []handoff.Death
		for owner := range o.seen {
			if gone(owner) {
				dead = append(dead, handoff.Death{Owner: owner})
			}
		}
		if all || len(dead) == 0 {
			return dead
		}
		o.upTo = 0
	}
	return nil
}
