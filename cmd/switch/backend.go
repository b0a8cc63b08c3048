package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"callswitch/codecore"
	"callswitch/console"
	"callswitch/handoff"
	"callswitch/internal/wire"
	"callswitch/media"
	"callswitch/nats"
	"callswitch/registrar"
	"callswitch/sessions"
)

// backend answers the API from the bus, the store and the host.
type backend struct {
	*child
	store   *nats.Store
	docs    *nats.Docs
	dir     *nats.Directory
	cluster func() clusterDoc
	plan    func() *codecore.Plan
	rollout func() *handoff.Rollout
	moves   *moveTally

	accounts      *registrar.Accounts
	shelf         *nats.Shelf // of accounts
	registrations *registrar.Directory
	carriers      *nats.Shelf // of our registrations at carriers

	brought sync.Map // name of a copy under <state>/releases: when install was last asked for it
}

var _ console.Backend = (*backend)(nil)

// ask sends one order and reads the answer.
func ask[Out any](ctx context.Context, b sessions.Bus, subject string, in any) (out Out, err error) {
	data, err := wire.Seal(in)
	if err != nil {
		return out, err
	}
	if data, err = b.Request(ctx, subject, data); err != nil {
		return out, err
	}
	return out, wire.Open(data, &out)
}

// askAll asks every living worker and gives each answer to take, one at a time.
// Those that do not answer in time, or die meanwhile, are returned.
func askAll[Out any](ctx context.Context, b *backend, verb string, in any, take func(sessions.Process, Out)) (silent []string) {
	var mu sync.Mutex
	return eachWorker(ctx, b, verb, func(ctx context.Context, p sessions.Process) error {
		out, err := ask[Out](ctx, b.nats, sessions.SubjectControl(p.ID, verb), in)
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			take(p, out)
		}
		return err
	})
}

// eachWorker runs do for every living worker, side by side, and returns those
// for which it failed. An answer is waited for as long as the worker lives, at
// most workerLimit: the request to a worker that dies is answered by nobody.
func eachWorker(ctx context.Context, b *backend, verb string, do func(context.Context, sessions.Process) error) (silent []string) {
	return eachProcess(ctx, b, "worker", verb, do)
}

// eachProcess is eachWorker for any role.
func eachProcess(ctx context.Context, b *backend, role, verb string, do func(context.Context, sessions.Process) error) (silent []string) {
	ctx, cancel := context.WithTimeout(ctx, workerLimit)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, p := range b.dir.Processes() {
		if p.Role != role {
			continue
		}
		wg.Go(func() {
			one, stop := context.WithCancel(ctx)
			defer stop()
			go whileAlive(one, b.dir, p.ID, stop)
			if err := do(one, p); err != nil {
				b.log.Warn(role+" does not answer", role, p.ID, "verb", verb, "err", err)
				mu.Lock()
				defer mu.Unlock()
				silent = append(silent, p.ID)
			}
		})
	}
	wg.Wait()
	return silent
}

const workerLimit = 2 * time.Second

// whileAlive calls dead when the directory hears that the process is, until ctx ends.
func whileAlive(ctx context.Context, dir interface{ Alive(id string) bool }, id string, dead func()) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if !dir.Alive(id) {
				dead()
				return
			}
		}
	}
}

func (b *backend) Processes(ctx context.Context) ([]console.Process, error) {
	ps := b.dir.Processes()
	known := map[int]bool{}
	for _, p := range ps {
		known[p.PID] = true
	}
	kept, err := b.hostProcesses(ctx)
	for _, p := range kept {
		if !known[p.PID] {
			ps = append(ps, p)
		}
	}
	if err != nil { // what the others tell of themselves is true without it
		b.log.Warn("host does not answer", "err", err)
	}
	return ps, nil
}

func (b *backend) Status(ctx context.Context) (console.Status, error) {
	s := console.Status{Node: b.cfg.Node, Release: codecore.Release, Floor: b.cluster().Floor, CallsByRelease: map[string]int{}, CallsByPhase: map[string]int{}}
	have := map[string]bool{}
	for _, p := range b.dir.Processes() {
		have[p.Role] = true
		s.Calls += p.Calls
		switch p.Role {
		case "worker":
			s.CallsByRelease[p.Release] += p.Calls
			s.Accepting = s.Accepting || !p.Draining && !p.Closed
		case "edge":
			s.Listen = append(s.Listen, p.Listen...)
		}
	}
	if w := weights(b.rollout(), b.dir.Processes()); len(w) > 0 {
		for _, p := range b.dir.Processes() {
			if p.Role == "worker" && p.Digest == w[0].Digest {
				s.Release = p.Release
			}
		}
	}
	switch {
	case !b.nats.Connected():
		s.Reason = "NATS is away: calls in progress keep their sound, signalling waits"
	case !b.store.Healthy(ctx):
		s.Reason = "the record store has no leader"
	default:
		for _, role := range []string{"edge", "media", "worker"} {
			if !have[role] {
				s.Reason = "no " + role + " is alive"
			}
		}
	}
	s.Ready = s.Reason == ""
	s.Accepting = s.Accepting && s.Ready
	return s, nil
}

func (b *backend) Calls(ctx context.Context) (console.Calls, error) {
	newest := map[codecore.CallID]sessions.CallInfo{} // one that moves meanwhile is listed twice
	var mu sync.Mutex
	silent := eachWorker(ctx, b, verbList, func(ctx context.Context, p sessions.Process) error {
		return pages(func(after codecore.CallID) ([]sessions.CallInfo, error) {
			return ask[[]sessions.CallInfo](ctx, b.nats, sessions.SubjectControl(p.ID, verbList), listOrder{After: after})
		}, func(c sessions.CallInfo) {
			mu.Lock()
			defer mu.Unlock()
			if old, ok := newest[c.ID]; !ok || old.Epoch < c.Epoch {
				newest[c.ID] = c
			}
		})
	})
	calls := make([]console.CallInfo, 0, len(newest))
	for _, c := range newest {
		calls = append(calls, callInfo(c))
	}
	slices.SortFunc(calls, func(x, y console.CallInfo) int {
		if c := x.Start.Compare(y.Start); c != 0 {
			return c
		}
		return strings.Compare(x.ID, y.ID)
	})
	return console.Calls{Calls: calls, Silent: silent}, nil
}

// pages reads a worker's list to its end.
func pages(ask func(after codecore.CallID) ([]sessions.CallInfo, error), take func(sessions.CallInfo)) error {
	for after := codecore.CallID(""); ; {
		page, err := ask(after)
		if err != nil {
			return err
		}
		for _, c := range page {
			take(c)
		}
		// A worker that knows no pages has told all: it answers the same again.
		if len(page) != listPage || page[len(page)-1].ID <= after {
			return nil
		}
		after = page[len(page)-1].ID
	}
}

func (b *backend) Call(ctx context.Context, id codecore.CallID) (console.Call, error) {
	var c console.Call
	rec, err := b.store.Get(ctx, id)
	switch {
	case errors.Is(err, sessions.ErrNotFound):
		c.Ended = true
	case err != nil:
		return c, err
	}
	story, err := b.store.Story(ctx, id)
	if err != nil && !errors.Is(err, sessions.ErrNotFound) { // that it says of what can be no id
		return c, err
	}
	if c.Ended && len(story) == 0 {
		return c, noCall(id)
	}
	if !c.Ended {
		c.CallInfo = recordInfo(rec)
		c.Ended = rec.Tomb
	}
	c.ID = string(id)
	for _, l := range story {
		c.Story = append(c.Story, storyLine(l))
	}
	if !c.Ended {
		b.live(ctx, id, &c)
	}
	return c, nil
}

func noCall(id codecore.CallID) error {
	return &console.Error{Status: 404, Code: "not-found", Text: fmt.Sprintf("no call %s is in progress", id), Fix: "'switch calls' lists the living ones; 'switch cdr export' has those that ended"}
}

// live fills in what only the owner and the media plane know.
func (b *backend) live(ctx context.Context, id codecore.CallID, c *console.Call) {
	askAll(ctx, b, verbList, listOrder{Call: id}, func(_ sessions.Process, cs []sessions.CallInfo) {
		for _, x := range cs {
			if x.ID == id {
				schema := c.Schema
				c.CallInfo = callInfo(x)
				c.Schema = schema
			}
		}
	})
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if q, err := ask[media.CallStats](ctx, b.nats, media.SubjectStats("media."+b.cfg.Node), media.StatsRequest{Call: id}); err == nil {
		c.Media, _ = json.Marshal(q)
	}
}

func (b *backend) HangUp(ctx context.Context, id codecore.CallID, cause string) error {
	ended := 0
	silent := askAll(ctx, b, verbHangUp, hangUpOrder{id, cause}, func(_ sessions.Process, n int) { ended += n })
	switch {
	case ended == 0 && len(silent) > 0:
		return &console.Error{Status: 504, Code: "time-out", Text: "no answer from " + strings.Join(silent, ", "), Fix: "try again; a silent worker's calls are taken over by another"}
	case ended == 0 && id != "":
		return noCall(id)
	}
	return nil
}

// Admit opens or closes the switch to new calls.
func (b *backend) Admit(ctx context.Context, on bool) error {
	askAll(ctx, b, verbAdmit, on, func(sessions.Process, bool) {})
	return nil
}

func (b *backend) CDRs(ctx context.Context, since time.Time, fn func(codecore.CDR) error) error {
	return b.store.CDRs(ctx, since, fn)
}

func (b *backend) Plan(context.Context) (codecore.Plan, error) { return *b.plan(), nil }

func (b *backend) SetPlan(ctx context.Context, source []byte) (codecore.Plan, error) {
	p, err := parsePlan(source)
	if err != nil {
		return p, &console.Error{Status: 400, Code: "dialplan", Text: err.Error(), Fix: "correct it and set it again; the plan in force has not changed"}
	}
	for _, name := range b.accounts.Names() {
		if why := unringable(&p, name); why != "" {
			return p, &console.Error{Status: 400, Code: "dialplan", Text: "dialplan: " + why, Fix: "give the service another number; the plan in force has not changed"}
		}
	}
	return storePlan(ctx, b.docs, p)
}

// storePlan puts a plan in force under the next version; the newest writer wins.
func storePlan(ctx context.Context, docs *nats.Docs, p codecore.Plan) (codecore.Plan, error) {
	for {
		old, rev, err := docs.Get(ctx, nats.DocPlan)
		if err != nil && !errors.Is(err, sessions.ErrNotFound) {
			return p, err
		}
		var last codecore.Plan
		_ = json.Unmarshal(old, &last) // an unreadable one is replaced
		p.Version = last.Version + 1
		raw, err := json.Marshal(p)
		if err != nil {
			return p, err
		}
		if _, err = docs.Put(ctx, nats.DocPlan, raw, rev); !errors.Is(err, sessions.ErrConflict) {
			return p, err
		}
	}
}

func (b *backend) TestPlan(_ context.Context, from, number string) (codecore.RouteResult, error) {
	_, account := codecore.AccountOf(from)
	if !account && from != "" && !slices.ContainsFunc(b.plan().Peers, func(p codecore.PlanPeer) bool { return p.Name == from }) {
		return codecore.RouteResult{}, &console.Error{Status: 404, Code: "not-found", Text: "no peer " + from + " in the dialplan", Fix: "name one of 'switch dialplan get', or account: and a name"}
	}
	r, err := codecore.Route(b.plan(), from, number)
	if err != nil {
		return r, &console.Error{Status: 404, Code: "no-route", Text: strings.TrimPrefix(err.Error(), "codecore: "), Fix: "'switch dialplan get' shows the routes"}
	}
	return r, nil
}

func callInfo(c sessions.CallInfo) console.CallInfo {
	return console.CallInfo{
		ID: string(c.ID), From: c.From, To: c.To, FromPeer: c.FromPeer, ToPeer: c.ToPeer, Phase: string(c.Phase),
		Start: c.Start, Answer: c.Answer, Owner: c.Owner, Epoch: c.Epoch, N: c.N, Release: c.Release, Schema: c.Schema,
		Pinned: c.Pinned, Aside: c.Aside, Since: c.Since, Transfer: c.Transfer,
	}
}

func storyLine(l sessions.StoryLine) console.StoryLine {
	kind := "event"
	if l.Freeze > 0 || l.Reason != "" && len(l.Acts) == 0 || strings.HasPrefix(l.What, "taken") || strings.HasPrefix(l.What, "moved") {
		kind = "owner"
	}
	return console.StoryLine{
		At: l.At, Kind: kind, Text: l.What, Phase: l.Phase, Owner: l.Owner, Epoch: l.Epoch, N: l.N, Release: l.Release,
		FreezeMS: l.Freeze, Actions: l.Acts, Reason: l.Reason,
	}
}

// recordInfo is what a stored record says of its call; the state itself may be
// of a newer schema than this process reads, the stub never is.
func recordInfo(rec sessions.Record) console.CallInfo {
	c := console.CallInfo{
		ID: string(rec.ID), Owner: rec.Owner, Epoch: rec.Epoch, N: rec.N, Release: rec.Release, Schema: rec.Schema, Aside: rec.Aside,
	}
	if stub, err := codecore.DecodeStub(rec.Body); err == nil {
		c.From, c.To, c.FromPeer, c.ToPeer = stub.CDR.From, stub.CDR.To, stub.CDR.FromPeer, stub.CDR.ToPeer
		c.Start, c.Answer = stub.CDR.Start, stub.CDR.Answer
	}
	return c
}
