package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"callswitch/codecore"
	"callswitch/handoff"
	"callswitch/internal/wire"
	"callswitch/nats"
	"callswitch/sessions"
)

// runWorker owns calls: it steps them, moves them to others when told, and takes
// over those of the dead. It has one release for life.
func runWorker(ctx context.Context, c *child) error {
	c.carriers()
	m := newWorkerMetrics(c.metrics, codecore.Release)
	store := nats.NewStore(c.nats, nats.StoreConfig{OnPut: m.put})
	docs := nats.NewDocs(c.nats)
	dir, err := nats.NewDirectory(ctx, c.nats, nats.DirectoryConfig{Healthy: store.Healthy, Log: c.log})
	if err != nil {
		return err
	}
	plan, err := watchPlan(ctx, docs, c.log)
	if err != nil {
		return err
	}
	floor, err := watchFloor(ctx, docs)
	if err != nil {
		return err
	}
	if f := floor(); codecore.Schema < f {
		return fmt.Errorf("release %s writes schema %d and the floor is %d: this release is too old for the records here; start a newer one", codecore.Release, codecore.Schema, f)
	}
	offset := storeClock(ctx, store, c.log)

	var admitting atomic.Bool
	admitting.Store(true)
	claims := make(chan codecore.CallID, 256)
	runner := sessions.NewRunner(sessions.Config{
		ID: c.id, Node: c.cfg.Node, Release: codecore.Release, Digest: c.digest,
		Store: store, Bus: c.bus, Now: func() time.Time { return time.Now().Add(offset()) },
		Plan: plan, Floor: floor,
		Admit: func() (bool, string, int) { return admitting.Load(), "draining", 5 },
		Alive: func(id string) bool { return !dir.Dead(id) },
		Claim: func(id codecore.CallID) {
			select {
			case claims <- id:
			default: // asked again by the next message for the call
			}
		},
		Stepping: c.inHand,
		Log:      c.log,
		Observe:  m.observer(),
		NoStory:  !c.cfg.Worker.Story,
	})
	driver := handoff.New(handoff.Config{
		Worker: c.id, Release: codecore.Release, Calls: runner, Bus: c.nats, Store: store, Floor: floor,
		Core: handoff.Core{
			SchemaMin: codecore.SchemaMin, SchemaMax: codecore.Schema,
			Decode: codecore.Decode, Encode: codecore.Encode, Check: codecore.Check, Classify: classify,
		},
		Caretaker: caretaker(runner, c.log),
		Living:    dir.Processes, Now: time.Now, Log: c.log, Observe: m.moved, InHand: c.inHand,
		Ready: c.ready,
	})
	c.describe = func(p *sessions.Process) {
		p.Calls, p.Draining, p.Closed = runner.Len(), driver.Draining(), !admitting.Load()
	}
	c.busy = func() bool { return runner.Len() > 0 }
	m.watch(runner.Phases)

	serve, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives the signal: a drain needs it
	defer stop()
	g, serve := errgroup.WithContext(serve)
	g.Go(func() error { return runner.Run(serve) })
	g.Go(func() error { return driver.Run(serve) })
	g.Go(func() error { c.beat(serve); return nil })
	g.Go(func() error { return speaksWith(serve, dir.Processes) })
	g.Go(func() error { return serveControl(serve, c, runner, m, &admitting) })
	t := takeovers{child: c, driver: driver, store: store, dir: dir, claims: claims}
	g.Go(func() error { return t.run(serve) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-serve.Done():
			return nil
		}
		admitting.Store(false)
		runner.Drain()
		limit, cancel := context.WithTimeout(serve, c.cfg.Worker.DrainTimeout)
		defer cancel()
		if report, err := driver.DrainTo(limit, handoff.DrainOrder{}); report.Asked > 0 {
			c.log.Info("drained", "moved", report.Moved, "left", report.Asked-report.Moved, "why", err)
		}
		stop() // what stayed is in the records; another worker takes it over
		return nil
	})
	return g.Wait()
}

// caretaker takes a call that was set aside (R7): only its stub is read, two
// dialogs that a BYE ends.
func caretaker(runner *sessions.Runner, log logger) func(sessions.Record) {
	return func(rec sessions.Record) {
		stub, err := codecore.DecodeStub(rec.Body)
		if err != nil {
			log.Error("call set aside has no readable stub; it stays as it is", "call", rec.ID, "err", err)
			runner.Release(rec.ID)
			return
		}
		runner.Adopt(rec, codecore.Caretaken(stub, time.Now()))
	}
}

func classify(err error) handoff.Code {
	if codecore.IsPinned(err) {
		return handoff.CodePinned
	}
	if codecore.IsRefused(err) {
		return handoff.CodeMigrate
	}
	return handoff.CodeDecode
}

// watchPlan keeps the newest dialplan at hand.
func watchPlan(ctx context.Context, docs *nats.Docs, log logger) (func() *codecore.Plan, error) {
	var plan atomic.Pointer[codecore.Plan]
	plan.Store(&codecore.Plan{})
	err := docs.Watch(ctx, nats.DocPlan, func(value []byte, _ uint64) {
		var p codecore.Plan
		if err := json.Unmarshal(value, &p); err != nil {
			log.Error("dialplan not readable, the last one stays in force", "err", err)
			return
		}
		plan.Store(&p)
	})
	return plan.Load, err
}

// clusterDoc is the document nats.DocCluster.
type clusterDoc struct {
	Floor int `json:"floor"` // lowest schema that may be written
}

// watchFloor keeps the schema floor at hand; it has been read once on return.
func watchFloor(ctx context.Context, docs *nats.Docs) (func() int, error) {
	var floor atomic.Int64
	floor.Store(int64(codecore.SchemaMin))
	take := func(value []byte, _ uint64) {
		var d clusterDoc
		if json.Unmarshal(value, &d) == nil && d.Floor > 0 {
			floor.Store(int64(d.Floor))
		}
	}
	if value, rev, err := docs.Get(ctx, nats.DocCluster); err == nil {
		take(value, rev)
	}
	err := docs.Watch(ctx, nats.DocCluster, take)
	return func() int { return int(floor.Load()) }, err
}

// Orders that a worker serves beside those of handoff.
const (
	verbList   = "list"   // answer: []sessions.CallInfo
	verbHealth = "health" // answer: workerHealth
	verbAdmit  = "admit"  // body: bool
	verbHangUp = "hangup" // body: hangUpOrder; answer: how many calls
)

// workerHealth is what a rollout's gate asks of a worker.
type workerHealth struct {
	Calls     int `json:"calls"`      // owned now
	Attempts  int `json:"attempts"`   // new calls begun here
	Failed    int `json:"failed"`     // of them, by a fault of ours
	Drops     int `json:"drops"`      // lost or set aside
	MediaGaps int `json:"media_gaps"` // legs that fell silent
}

type hangUpOrder struct {
	Call  codecore.CallID `json:"call,omitempty"` // "": all
	Cause string          `json:"cause"`
}

func serveControl(ctx context.Context, c *child, runner *sessions.Runner, m *workerMetrics, admitting *atomic.Bool) error {
	serve := func(verb string, fn func(data []byte) any) error {
		_, err := c.nats.Subscribe(sessions.SubjectControl(c.id, verb), "", func(m sessions.Msg) {
			data, err := wire.Seal(fn(m.Data))
			if err == nil && m.Reply != "" {
				err = c.nats.Publish(m.Reply, data)
			}
			if err != nil {
				c.log.Warn("order not answered", "verb", verb, "err", err)
			}
		})
		return err
	}
	if err := serve(verbList, func([]byte) any { return runner.Calls() }); err != nil {
		return err
	}
	if err := serve(verbHealth, func([]byte) any { return m.health(runner.Len()) }); err != nil {
		return err
	}
	if err := serve(verbAdmit, func(data []byte) any {
		var on bool
		if wire.Open(data, &on) == nil {
			admitting.Store(on)
		}
		return admitting.Load()
	}); err != nil {
		return err
	}
	if err := serve(verbHangUp, func(data []byte) any {
		var o hangUpOrder
		if wire.Open(data, &o) != nil {
			return 0
		}
		if o.Call == "" {
			return runner.HangUpAll(o.Cause)
		}
		if runner.HangUp(o.Call, o.Cause) != nil {
			return 0 // another worker has it
		}
		return 1
	}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
