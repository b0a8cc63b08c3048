package main

import (
	"context"
	"encoding/json"
	"slices"
	"sync/atomic"

	"callswitch/handoff"
	"callswitch/nats"
	"callswitch/sessions"
)

// watchRolloutDoc keeps the newest rollout document at hand; nil: none yet.
func watchRolloutDoc(ctx context.Context, docs *nats.Docs, log logger) (func() *handoff.Rollout, error) {
	var doc atomic.Pointer[handoff.Rollout]
	err := docs.Watch(ctx, nats.DocRollout, func(value []byte, _ uint64) {
		var r handoff.Rollout
		if err := json.Unmarshal(value, &r); err != nil {
			log.Error("rollout document not readable", "err", err)
			return
		}
		doc.Store(&r)
	})
	return doc.Load, err
}

// share is how many of a hundred new calls go to a release.
type share struct {
	Digest  string
	Percent int
}

// weights says which releases take new calls: those of the rollout document,
// as far as workers of them live; without one, every living release alike,
// largest first.
func weights(doc *handoff.Rollout, ps []sessions.Process) []share {
	living := map[string]int{}
	for _, p := range ps {
		if p.Role == "worker" && !p.Draining {
			living[p.Digest]++
		}
	}
	var out []share
	if doc != nil {
		for digest, percent := range doc.Weights() {
			if percent > 0 && living[digest] > 0 {
				out = append(out, share{digest, percent})
			}
		}
	}
	if len(out) == 0 {
		for digest := range living {
			out = append(out, share{digest, 100 / len(living)})
		}
	}
	slices.SortFunc(out, func(a, b share) int {
		if a.Percent != b.Percent {
			return b.Percent - a.Percent
		}
		if a.Digest < b.Digest {
			return -1
		}
		return 1
	})
	return out
}
