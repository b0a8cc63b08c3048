package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"callswitch/sessions"
)

// Docs keeps documents with a revision each (the conflict token).
type Docs interface {
	// Get reads the newest version (sessions.ErrNotFound, sessions.ErrUnavailable).
	Get(ctx context.Context, key string) (value []byte, rev uint64, err error)
	// Put replaces revision rev (0: there is none); sessions.ErrConflict if
	// another writer was first.
	Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error)
}

// Executor does what a rollout orders.
type Executor interface {
	// Facts looks at the world for the rollout.
	Facts(ctx context.Context, r Rollout) (Facts, error)
	// Do carries out one order; the report is that of OrderMove and OrderDryRun.
	Do(ctx context.Context, o Order) (MoveReport, error)
}

// RolloutConfig is what RunRollout needs. Docs, Key and Executor must be given.
type RolloutConfig struct {
	Docs     Docs
	Key      string
	Executor Executor
	Every    time.Duration    // between looks; default 500 ms
	Now      func() time.Time // default time.Now
	Log      *slog.Logger     // default: discards
}

func (c RolloutConfig) withDefaults() RolloutConfig {
	setDefault(&c.Every, 500*time.Millisecond)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// RunRollout carries the stored rollout on until ctx ends. Any number of
// processes may run it: whoever stores the next document gives its orders, the
// others look again. When the one dies with orders half done, the next looks at
// the calls as they are and orders what is missing.
func RunRollout(ctx context.Context, c RolloutConfig) error {
	c = c.withDefaults()
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	var looked time.Time // at a rollout of which only workers that leave are left
	for {
		worked, err := c.advance(ctx, &looked)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, sessions.ErrConflict), errors.Is(err, sessions.ErrNotFound):
		case err != nil:
			c.Log.Warn("rollout waits", "err", err)
		}
		if worked && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// ReadRollout returns the stored rollout and its revision; none yet is the zero
// Rollout at revision 0.
func ReadRollout(ctx context.Context, docs Docs, key string) (Rollout, uint64, error) {
	var r Rollout
	value, rev, err := docs.Get(ctx, key)
	if errors.Is(err, sessions.ErrNotFound) {
		return r, 0, nil
	}
	if err != nil {
		return r, 0, err
	}
	if err := json.Unmarshal(value, &r); err != nil {
		return r, 0, fmt.Errorf("handoff: rollout document: %w", err)
	}
	return r, rev, nil
}

func writeRollout(ctx context.Context, docs Docs, key string, r Rollout, rev uint64) (uint64, error) {
	value, err := json.Marshal(r)
	if err != nil {
		return 0, fmt.Errorf("handoff: rollout document: %w", err)
	}
	return docs.Put(ctx, key, value, rev)
}

// StartRollout stores a new rollout, if none is running.
func StartRollout(ctx context.Context, docs Docs, key string, r Rollout) error {
	old, rev, err := ReadRollout(ctx, docs, key)
	if err != nil {
		return err
	}
	if old.Running() {
		return fmt.Errorf("%w: rollout %s is %s", ErrPhase, old.ID, old.Phase)
	}
	r.Turn = old.Turn // what it has not yet taken back is taken back by this one
	_, err = writeRollout(ctx, docs, key, r, rev)
	return err
}

// SteerRollout applies the operator's wish to the stored rollout, however often
// another writer is first, and carries out what it orders.
func SteerRollout(ctx context.Context, c RolloutConfig, verb string, steps []int) (Rollout, error) {
	c = c.withDefaults()
	for {
		r, rev, err := ReadRollout(ctx, c.Docs, c.Key)
		if err != nil {
			return r, err
		}
		if rev == 0 {
			return r, fmt.Errorf("%w: there is none", ErrPhase)
		}
		facts, err := c.Executor.Facts(ctx, r)
		if err != nil {
			return r, err
		}
		next, orders, err := Steer(r, verb, steps, c.Now(), facts)
		if err != nil {
			return r, err
		}
		if _, err = writeRollout(ctx, c.Docs, c.Key, next, rev); errors.Is(err, sessions.ErrConflict) {
			continue
		}
		for _, o := range orders {
			if err == nil {
				_, err = c.Executor.Do(ctx, o)
			}
		}
		return next, err
	}
}

// advance takes one step; worked tells that there may be more to do at once.
func (c RolloutConfig) advance(ctx context.Context, looked *time.Time) (worked bool, err error) {
	r, rev, err := ReadRollout(ctx, c.Docs, c.Key)
	if err != nil || rev == 0 || r.Phase == PhaseFinalized {
		return false, err
	}
	if r.Over() || r.Phase == PhaseConfirmed { // for as long as the release lives
		now := c.Now()
		if now.Sub(*looked) < stopEvery {
			return false, nil
		}
		*looked = now
	}
	facts, err := c.Executor.Facts(ctx, r)
	if err != nil {
		return false, err
	}
	next, orders := Next(r, c.Now(), facts)
	changed := !reflect.DeepEqual(next, r.clone())
	if !changed && len(orders) == 0 {
		return false, nil
	}
	if rev, err = writeRollout(ctx, c.Docs, c.Key, next, rev); err != nil {
		return false, err
	}
	if next.Phase != r.Phase {
		c.Log.Info("rollout", "id", r.ID, "phase", next.Phase, "step", next.Step, "reason", next.Reason)
	}
	reports := make([]MoveReport, len(orders))
	var all sync.WaitGroup
	for i, o := range orders {
		all.Go(func() {
			m, err := c.Executor.Do(ctx, o)
			if err != nil && m.Error == "" {
				m.Error = err.Error()
				c.Log.Warn("order failed", "order", o.Kind, "worker", o.Source, "err", err)
			}
			reports[i] = m
		})
	}
	all.Wait()
	return changed, c.record(ctx, next, rev, orders, reports)
}

// record stores what came of the orders, into the newest document: the
// operator may have steered meanwhile.
func (c RolloutConfig) record(ctx context.Context, r Rollout, rev uint64, orders []Order, reports []MoveReport) error {
	for {
		next := r
		for i, o := range orders {
			next = Record(next, o, reports[i])
		}
		if reflect.DeepEqual(next, r.clone()) {
			return nil
		}
		_, err := writeRollout(ctx, c.Docs, c.Key, next, rev)
		if !errors.Is(err, sessions.ErrConflict) {
			return err
		}
		if r, rev, err = ReadRollout(ctx, c.Docs, c.Key); err != nil {
			return err
		}
	}
}
