package main

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"callswitch/codecore"
	"callswitch/handoff"
	"callswitch/internal/wire"
	"callswitch/nats"
	"callswitch/registrant"
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
	cluster, err := watchCluster(ctx, docs)
	if err != nil {
		return err
	}
	if err := tooOld(cluster()); err != nil {
		return err
	}
	floor := func() int { return cluster().writes() }
	accounts, err := watchAccounts(ctx, c)
	if err != nil {
		return err
	}
	c.metrics.MustRegister(atHand(plan, accounts)...)
	offset := storeClock(ctx, store, c.log)
	now := func() time.Time { return time.Now().Add(offset()) }
	rollout, err := watchRolloutDoc(ctx, docs, c.log)
	if err != nil {
		return err
	}
	keeper := c.keeper(plan, rollout, dir, now)

	var admitting atomic.Bool
	admitting.Store(true)
	claims := make(chan codecore.CallID, 256)
	runner := sessions.NewRunner(sessions.Config{
		ID: c.id, Node: c.cfg.Node, Release: codecore.Release, Digest: c.digest,
		Store: store, Bus: c.bus, Now: now,
		Plan: plan, Floor: floor, Locate: locate(accounts, registrations(c)),
		Admit:  func() (bool, string, int) { return admitting.Load(), "draining", 5 },
		Others: othersLoad(c.id, dir.Processes),
		Alive:  func(id string) bool { return !dir.Dead(id) },
		Claim: func(id codecore.CallID) {
			select {
			case claims <- id:
			default: // asked again by the next message for the call
			}
		},
		Foreign:  keeper.Knows,
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
		p.Load = runner.Load()
		p.Registrant = registrant.Form
	}
	c.busy = func() bool { return runner.Len() > 0 }
	m.watch(runner.Phases)

	serve, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives the signal: a drain needs it
	defer stop()
	g, serve := errgroup.WithContext(serve)
	g.Go(func() error { return runner.Run(serve) })
	g.Go(func() error { return driver.Run(serve) })
	g.Go(func() error { return keeper.Run(serve) })
	g.Go(func() error { c.beat(serve); return nil })
	g.Go(func() error { return speaksWith(serve, dir.Processes) })
	g.Go(func() error { return serveControl(serve, c, runner, m, &admitting, floor) })
	leave := make(chan struct{})
	g.Go(func() error {
		if err := outdated(serve, cluster); err != nil {
			c.log.Error("leaving", "err", err)
			close(leave)
		}
		return nil
	})
	t := takeovers{child: c, driver: driver, store: store, dir: dir, claims: claims}
	g.Go(func() error { return t.run(serve) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-leave:
		case <-serve.Done():
			return nil
		}
		admitting.Store(false)
		runner.Drain()
		limit, cancel := context.WithTimeout(serve, c.cfg.Worker.DrainTimeout)
		defer cancel()
		drainWorker(limit, driver, c.log, func() {
			c.lastWords()
			stop() // what stayed is in the records; another worker takes it over
		})
		return nil
	})
	return g.Wait()
}

// drainWorker moves the calls to others until none is left or ctx ends; then end has the
// driver's Run end. Only that ends a batch that is under way when nobody can say any
// more whose its calls are: it would read their records until NATS is back.
func drainWorker(ctx context.Context, driver *handoff.Driver, log logger, end func()) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		if report, err := driver.DrainTo(ctx, handoff.DrainOrder{}); report.Asked > 0 {
			log.Info("drained", "moved", report.Moved, "left", report.Asked-report.Moved, "why", err)
		}
	}()
	select {
	case <-over:
	case <-ctx.Done():
	}
	end()
	<-over
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

// Orders that a worker serves beside those of handoff.
const (
	verbList   = "list"   // body: listOrder; answer: []sessions.CallInfo
	verbHealth = "health" // answer: workerHealth
	verbAdmit  = "admit"  // body: bool
	verbHangUp = "hangup" // body: hangUpOrder; answer: how many calls
	// verbTransfer sends a party of a call elsewhere; body: transferOrder; answer:
	// how many calls.
	verbTransfer = "transfer"

	// verbRewrite has the calls under a schema written anew; body: the schema;
	// answer: how many are left.
	verbRewrite = "rewrite"
)

// workerHealth is what a rollout's gate asks of a worker.
type workerHealth struct {
	Calls     int `json:"calls"`      // owned now
	Attempts  int `json:"attempts"`   // new calls begun here
	Failed    int `json:"failed"`     // of them, by a fault of ours
	Drops     int `json:"drops"`      // lost or set aside
	MediaGaps int `json:"media_gaps"` // legs that fell silent
	Writes    int `json:"writes"`     // lowest schema written here, as far as this worker has heard
}

// listOrder asks for one call, or for a page of all.
type listOrder struct {
	Call  codecore.CallID `json:"call,omitempty"`
	After codecore.CallID `json:"after,omitempty"` // the last of the page before
}

// listPage is how many calls one answer lists: some 400 bytes each, and a
// message of the bus has a megabyte.
const listPage = 1000

func list(runner *sessions.Runner, o listOrder) []sessions.CallInfo {
	if o.Call == "" {
		return runner.Calls(o.After, listPage)
	}
	if info, ok := runner.Call(o.Call); ok {
		return []sessions.CallInfo{info}
	}
	return nil
}

type hangUpOrder struct {
	Call  codecore.CallID `json:"call,omitempty"` // "": all
	Cause string          `json:"cause"`
}

func serveControl(ctx context.Context, c *child, runner *sessions.Runner, m *workerMetrics, admitting *atomic.Bool, floor func() int) error {
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
	if err := serve(verbList, func(data []byte) any {
		var o listOrder
		_ = wire.Open(data, &o) // odd: the first page
		return list(runner, o)
	}); err != nil {
		return err
	}
	if err := serve(verbHealth, func([]byte) any {
		h := m.health(runner.Len())
		h.Writes = floor()
		return h
	}); err != nil {
		return err
	}
	if err := serve(verbRewrite, func(data []byte) any {
		var schema int
		if wire.Open(data, &schema) != nil || floor() < schema {
			return runner.Len() + 1 // not heard yet: new calls too would be under it
		}
		return runner.Rewrite()
	}); err != nil {
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
	if err := serve(verbTransfer, func(data []byte) any {
		var o transferOrder
		if wire.Open(data, &o) != nil || runner.Transfer(o.Call, o.Leg, o.Target) != nil {
			return 0 // another worker has it
		}
		return 1
	}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
