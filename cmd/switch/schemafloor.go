package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"callswitch/codecore"
	"callswitch/handoff"
	"callswitch/nats"
	"callswitch/sessions"
)

// clusterDoc is the document nats.DocCluster.
type clusterDoc struct {
	Floor int `json:"floor"`           // lowest schema that a record may have
	Write int `json:"write,omitempty"` // lowest schema that is to be written, while a rollout is finalized

	Turn time.Time `json:"turn,omitzero"` // handoff.Rollout.Turn of the order that said so
}

// writes is the lowest schema that is to be written.
func (d clusterDoc) writes() int { return max(d.Floor, d.Write) }

// watchCluster keeps the schema floor at hand; it has been read once on return.
func watchCluster(ctx context.Context, docs *nats.Docs) (func() clusterDoc, error) {
	var doc atomic.Pointer[clusterDoc]
	doc.Store(&clusterDoc{Floor: codecore.SchemaMin})
	take := func(value []byte, _ uint64) {
		var d clusterDoc
		if json.Unmarshal(value, &d) == nil {
			d.Floor = max(d.Floor, codecore.SchemaMin)
			doc.Store(&d)
		}
	}
	if value, rev, err := docs.Get(ctx, nats.DocCluster); err == nil {
		take(value, rev)
	}
	err := docs.Watch(ctx, nats.DocCluster, take)
	return func() clusterDoc { return *doc.Load() }, err
}

// tooOld says why a worker of this release has no business here; nil: it has.
func tooOld(d clusterDoc) error {
	switch {
	case codecore.Schema < d.Floor:
		return fmt.Errorf("release %s writes schema %d and the floor is %d: this release is too old for the records here; start a newer one", codecore.Release, codecore.Schema, d.Floor)
	case codecore.Schema < d.Write:
		return fmt.Errorf("release %s writes schema %d and a rollout is being finalized to schema %d: "+
			"start a newer release, or take the finalize back with 'switch rollout abort'", codecore.Release, codecore.Schema, d.Write)
	}
	return nil
}

// outdated waits until this worker is too old: it read the floor a moment before
// that rose, and must not write under it.
func outdated(ctx context.Context, cluster func() clusterDoc) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := tooOld(cluster()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// changeCluster changes the document of the floor, however often another writer
// is first. It writes even what is there already: whoever has read it before
// must read it again.
func (x executor) changeCluster(ctx context.Context, change func(*clusterDoc) error) error {
	for {
		old, rev, err := x.docs.Get(ctx, nats.DocCluster)
		if err != nil && !errors.Is(err, sessions.ErrNotFound) {
			return err
		}
		var d clusterDoc
		_ = json.Unmarshal(old, &d) // none, or unreadable: written anew
		if err := change(&d); err != nil {
			return err
		}
		raw, err := json.Marshal(d)
		if err != nil {
			return err
		}
		if _, err = x.docs.Put(ctx, nats.DocCluster, raw, rev); !errors.Is(err, sessions.ErrConflict) {
			return err
		}
	}
}

// errOutdated ends an order that the rollout does not want any more.
var errOutdated = errors.New("the rollout has gone on meanwhile")

// write has everybody write schema at least; 0: what the floor says. The rollout
// is read between the two numbers and their CAS: whoever changes what it wants
// writes the numbers anew, and then this CAS fails.
func (x executor) write(ctx context.Context, schema int) error {
	return x.changeCluster(ctx, func(d *clusterDoc) error {
		r, _, err := handoff.ReadRollout(ctx, x.docs, nats.DocRollout)
		if err == nil && !r.WantsWritten(schema) {
			err = errOutdated
		}
		d.Write, d.Turn = schema, r.Turn
		return err
	})
}

func (x executor) raiseFloor(ctx context.Context, schema int) error {
	return x.changeCluster(ctx, func(d *clusterDoc) error {
		d.Floor, d.Write = max(d.Floor, schema), 0
		return nil
	})
}

// older names the workers of the old release, and any that does not write the
// new one's schema.
func (x executor) older(r handoff.Rollout) (out []string) {
	for _, p := range x.dir.Processes() {
		if p.Role == "worker" && (p.SchemaMax < r.To.Schema || p.Digest == r.From.Digest) {
			out = append(out, fmt.Sprintf("%s of release %s (schema %d, %d calls)", p.ID, p.Release, p.SchemaMax, p.Calls))
		}
	}
	return out
}

// behind has every worker write its calls in a schema, and counts what is left:
// calls first, and once there is none the records.
func (x executor) behind(ctx context.Context, schema int, f *handoff.Facts) error {
	silent := askAll(ctx, x.backend, verbRewrite, schema, func(_ sessions.Process, left int) { f.Behind += left })
	if f.Behind += len(silent); f.Behind > 0 {
		return nil
	}
	return x.store.Scan(ctx, true, func(rec sessions.Record) error {
		if !rec.Tomb && rec.Schema < schema {
			f.Below++
		}
		return nil
	})
}
