package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"callswitch/console"
	"callswitch/handoff"
	"callswitch/host"
	"callswitch/nats"
	"callswitch/sessions"
)

type exit = host.Exit

// executor does what a rollout orders, on this node.
type executor struct{ *backend }

var _ handoff.Executor = executor{}

func (b *backend) rolloutConfig() handoff.RolloutConfig {
	return handoff.RolloutConfig{Docs: b.docs, Key: nats.DocRollout, Executor: executor{b}, Every: 200 * time.Millisecond, Log: b.log}
}

// Facts counts now, not at the last heartbeat: a wave that overshoots moves
// calls that should have stayed.
func (x executor) Facts(ctx context.Context, r handoff.Rollout) (handoff.Facts, error) {
	var f handoff.Facts
	if r.Over() {
		return f, nil
	}
	f.Health = handoff.Health{Attempts: map[string]int{}, Failed: map[string]int{}}
	askAll(ctx, x.backend, verbHealth, nil, func(p sessions.Process, h workerHealth) {
		p.Calls = h.Calls
		f.Workers = append(f.Workers, p)
		f.Health.Attempts[p.Digest] += h.Attempts
		f.Health.Failed[p.Digest] += h.Failed
		f.Health.Drops += h.Drops
		f.Health.MediaGaps += h.MediaGaps
	})
	switch r.Phase {
	case handoff.PhasePreparing:
		f.Broken = x.broken(ctx, r.To)
		return f, nil
	case handoff.PhaseConfirmed:
	default:
		return f, nil
	}
	for _, p := range x.dir.Processes() {
		if p.SchemaMax < r.To.Schema && p.Role == "worker" {
			f.Below++
		}
	}
	err := x.store.Scan(ctx, true, func(rec sessions.Record) error {
		if !rec.Tomb && rec.Schema < r.To.Schema {
			f.Below++
		}
		return nil
	})
	return f, err
}

func (x executor) Do(ctx context.Context, o handoff.Order) (handoff.MoveReport, error) {
	switch o.Kind {
	case handoff.OrderStart:
		return handoff.MoveReport{}, x.startWorkers(ctx, o.Binary, o.Digest)
	case handoff.OrderStop:
		return handoff.MoveReport{}, x.stopIdle(ctx, o.Digest)
	case handoff.OrderFloor:
		return handoff.MoveReport{}, x.raiseFloor(ctx, o.Schema)
	case handoff.OrderDryRun:
		return x.order(ctx, o, handoff.VerbDryRun)
	case handoff.OrderMove:
		return x.order(ctx, o, handoff.VerbMove)
	}
	return handoff.MoveReport{}, fmt.Errorf("order %q is not known here: the document is of a newer release", o.Kind)
}

func (x executor) order(ctx context.Context, o handoff.Order, verb string) (handoff.MoveReport, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	r, err := ask[handoff.MoveReport](ctx, x.nats, sessions.SubjectControl(o.Source, verb), o.Move)
	if err == nil {
		x.moves.add(verb, r)
	}
	return r, err
}

// startWorkers runs as many workers of a release as the configuration says.
func (x executor) startWorkers(ctx context.Context, binary, digest string) error {
	for i := range x.cfg.Workers {
		name := fmt.Sprintf("%s%d", workerPrefix(digest), i+1)
		err := x.host.Start(ctx, host.Spec{Name: name, Role: "worker", Argv: []string{binary, "child", "worker", "--state", x.cfg.State}})
		if err != nil && !errors.Is(err, host.ErrExists) {
			return err
		}
	}
	return nil
}

// workerPrefix begins the names of a release's workers at the host.
func workerPrefix(digest string) string { return "worker-" + digest[:12] + "-" }

// tooManyStarts is how often a new release's worker may end before it is ready.
const tooManyStarts = 3

// broken says why the workers of a release do not come up; "": they may.
func (x executor) broken(ctx context.Context, to handoff.Side) string {
	list, err := x.host.List(ctx)
	if err != nil {
		return ""
	}
	for _, c := range list.Children {
		if strings.HasPrefix(c.Spec.Name, workerPrefix(to.Digest)) && !c.Ready && c.Restarts >= tooManyStarts {
			return fmt.Sprintf("workers of %s end as soon as they start (%d times): the log of 'switch serve' says why", to.Release, c.Restarts)
		}
	}
	return ""
}

// stopIdle ends the workers of a release that own nothing, those too that the
// host starts in vain. A worker that still has calls (pinned, refused) is left
// alone, and one that does not answer.
func (x executor) stopIdle(ctx context.Context, digest string) error {
	calls := map[string]int{}
	askAll(ctx, x.backend, verbHealth, nil, func(p sessions.Process, h workerHealth) { calls[p.ID] = h.Calls })
	list, err := x.host.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range list.Children {
		if c.Spec.Role != "worker" || c.Hello.Digest != digest && !strings.HasPrefix(c.Spec.Name, workerPrefix(digest)) {
			continue
		}
		n, answers := calls[c.Hello.ID]
		if answers && n == 0 || !c.Ready {
			errs = append(errs, x.host.Stop(ctx, c.Spec.Name, 0))
		}
	}
	return errors.Join(errs...)
}

func (x executor) raiseFloor(ctx context.Context, schema int) error {
	for {
		old, rev, err := x.docs.Get(ctx, nats.DocCluster)
		if err != nil && !errors.Is(err, sessions.ErrNotFound) {
			return err
		}
		var d clusterDoc
		_ = json.Unmarshal(old, &d) // none, or unreadable: written anew
		d.Floor = max(d.Floor, schema)
		raw, err := json.Marshal(d)
		if err != nil {
			return err
		}
		if _, err = x.docs.Put(ctx, nats.DocCluster, raw, rev); !errors.Is(err, sessions.ErrConflict) {
			return err
		}
	}
}

// StartRollout asks the binary who it is, keeps a copy of it (a release must
// outlive the file it came from), and stores the document.
func (b *backend) StartRollout(ctx context.Context, req console.RolloutStart) (console.Rollout, error) {
	var none console.Rollout
	pause, within := 30*time.Second, 10*time.Minute
	for text, d := range map[string]*time.Duration{req.Pause: &pause, req.ConfirmWithin: &within} {
		if text != "" {
			var err error
			if *d, err = time.ParseDuration(text); err != nil {
				return none, usage("durations are written like 30s or 10m: %v", err)
			}
		}
	}
	if pause < 0 || within < 0 {
		return none, usage("durations are not negative")
	}
	if err := checkSteps(req.Steps); err != nil {
		return none, err
	}
	if r := b.rollout(); r != nil && r.Running() {
		return none, console.Refused("rollout-running", fmt.Sprintf("rollout %s to %s is %s", r.ID, r.To.Release, r.Phase),
			"end it first: 'switch rollout confirm' when it is done, 'switch rollout abort' to go back")
	}
	to, err := b.install(ctx, req.Binary)
	if err != nil {
		return none, err
	}
	from, err := b.currentSide(ctx, to.Digest)
	if err != nil {
		return none, err
	}
	r, err := handoff.NewRollout(newID("rollout", b.cfg.Node), from, to, req.Steps, pause, within, time.Now())
	if err != nil {
		return none, usage("%v", err)
	}
	if err := handoff.StartRollout(ctx, b.docs, nats.DocRollout, r); err != nil {
		return none, rolloutError("start", b.rollout(), err)
	}
	return b.rolloutView(ctx, r), nil
}

func usage(format string, a ...any) error {
	return &console.Error{Status: 400, Code: "usage", Text: fmt.Sprintf(format, a...)}
}

func checkSteps(steps []int) error {
	for i, n := range steps {
		if n < 1 || n > 100 || i > 0 && n <= steps[i-1] {
			return usage("steps %v cannot be used: write per cents that grow, from 1 to 100, such as 10,50,100", steps)
		}
	}
	return nil
}

// rolloutError says what the operator can do instead.
func rolloutError(verb string, r *handoff.Rollout, err error) error {
	if errors.Is(err, sessions.ErrConflict) {
		return console.Refused("rollout-running", "somebody else began a rollout at the same moment", "see 'switch rollout status'")
	}
	if !errors.Is(err, handoff.ErrPhase) {
		return err
	}
	text := strings.TrimPrefix(err.Error(), handoff.ErrPhase.Error()+": ")
	if r == nil || r.Phase == "" {
		return console.Refused("rollout-phase", "there has been no rollout", "begin one with 'switch rollout start BINARY'")
	}
	fix := "see 'switch rollout status'"
	switch {
	case r.Over():
		fix = "it is over; begin another with 'switch rollout start BINARY'"
	case verb == handoff.SteerConfirm && (r.Phase == handoff.PhaseMoving || r.Phase == handoff.PhasePausing):
		fix = "wait for the last wave ('switch rollout status --watch'), or hurry it with 'switch rollout promote'"
	case verb == handoff.SteerFinalize && r.Phase == handoff.PhaseConfirmed:
		fix = "the old release may still be needed for them: finalize when those calls have ended ('switch calls')"
	case verb == handoff.SteerFinalize:
		fix = "confirm it first, with 'switch rollout confirm'"
	}
	return console.Refused("rollout-phase", text, fix)
}

// install copies a release's executable into the state directory and asks it
// what it is.
func (b *backend) install(ctx context.Context, path string) (handoff.Side, error) {
	var s handoff.Side
	f, err := os.Open(path)
	if err != nil {
		return s, usage("%v", err)
	}
	defer f.Close()
	if s.Digest, err = digestOf(f); err != nil {
		return s, err
	}
	s.Binary = filepath.Join(b.cfg.State, "releases", s.Digest[:12], "switch")
	_, missing := os.Stat(s.Binary)
	if missing != nil {
		if err := copyExecutable(f, s.Binary); err != nil {
			return s, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, s.Binary, "version", "-o", "json").Output()
	var v struct {
		Release string `json:"release"`
		Schema  int    `json:"schema"`
		Min     int    `json:"schema_min"`
	}
	if err != nil || json.Unmarshal(out, &v) != nil || v.Release == "" || v.Schema < 1 {
		if missing != nil {
			_ = os.RemoveAll(filepath.Dir(s.Binary))
		}
		return s, console.Refused("not-a-release", path+" does not answer 'version' as a release of the switch does", "build it from this project: go build -o FILE ./cmd/switch")
	}
	s.Release, s.Schema = v.Release, v.Schema
	if floor := b.floor(); v.Schema < floor {
		return s, console.Refused("under-floor", fmt.Sprintf("%s reads schemas up to %d and the floor is %d since a rollout was finalized", v.Release, v.Schema, floor),
			"an older release cannot come back after that; push one that knows the floor")
	}
	return s, nil
}

func copyExecutable(f *os.File, to string) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	next, err := os.OpenFile(to+".next", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(next, f); err != nil {
		_ = next.Close()
		return err
	}
	if err := next.Close(); err != nil {
		return err
	}
	return os.Rename(to+".next", to)
}

// currentSide is the release that takes new calls now; the rollout leaves it.
func (b *backend) currentSide(ctx context.Context, to string) (handoff.Side, error) {
	var s handoff.Side
	for _, w := range weights(b.rollout(), b.dir.Processes()) {
		if w.Digest != to {
			s.Digest = w.Digest
			break
		}
	}
	if s.Digest == "" {
		return s, console.Refused("same-release", "that executable is the release that runs", "push another one; 'switch status' shows the digests")
	}
	for _, p := range b.dir.Processes() {
		if p.Role == "worker" && p.Digest == s.Digest {
			s.Release, s.Schema = p.Release, p.SchemaMax
		}
	}
	list, err := b.host.List(ctx)
	if err != nil {
		return s, err
	}
	for _, c := range list.Children {
		if c.Hello.Digest == s.Digest && c.Spec.Role == "worker" {
			s.Binary = c.Spec.Argv[0]
		}
	}
	return s, nil
}

func (b *backend) Rollout(ctx context.Context) (console.Rollout, error) {
	r, rev, err := handoff.ReadRollout(ctx, b.docs, nats.DocRollout)
	if err != nil {
		return console.Rollout{}, err
	}
	if rev == 0 {
		return console.Rollout{}, &console.Error{Status: 404, Code: "not-found", Text: "there has been no rollout", Fix: "begin one with 'switch rollout start BINARY'"}
	}
	return b.rolloutView(ctx, r), nil
}

var steerVerbs = []string{
	handoff.SteerPause, handoff.SteerPromote, handoff.SteerAbort, handoff.SteerUndo, handoff.SteerConfirm, handoff.SteerFinalize,
}

func (b *backend) SteerRollout(ctx context.Context, verb string, s console.Steer) (console.Rollout, error) {
	if !slices.Contains(steerVerbs, verb) {
		return console.Rollout{}, &console.Error{Status: 404, Code: "not-found", Text: fmt.Sprintf("a rollout has no verb %q", verb), Fix: "one of " + strings.Join(steerVerbs, ", ")}
	}
	if err := checkSteps(s.Steps); err != nil {
		return console.Rollout{}, err
	}
	r, err := handoff.SteerRollout(ctx, b.rolloutConfig(), verb, s.Steps)
	if err != nil {
		return console.Rollout{}, rolloutError(verb, &r, err)
	}
	return b.rolloutView(ctx, r), nil
}

func (b *backend) rolloutView(ctx context.Context, r handoff.Rollout) console.Rollout {
	side := func(s handoff.Side) console.Release {
		return console.Release{Name: s.Release, Digest: s.Digest, Schema: s.Schema}
	}
	v := console.Rollout{
		ID: r.ID, State: string(r.Phase), From: side(r.From), To: side(r.To), Steps: r.Steps, Error: r.Reason,
		Waves: []console.Wave{},
	}
	if r.Phase == handoff.PhaseDone && !r.ConfirmBy.IsZero() && r.ConfirmWithin > 0 {
		v.Confirm = &r.ConfirmBy
	}
	if r.DryRun != nil {
		v.DryRun = &console.DryRun{Would: r.DryRun.Moved, Cannot: r.DryRun.Asked - r.DryRun.Moved - r.DryRun.Gone}
		for code, n := range r.DryRun.Why {
			if v.DryRun.Why == nil {
				v.DryRun.Why = map[string]int{}
			}
			v.DryRun.Why[string(code)] = n
		}
	}
	for _, w := range r.Waves {
		v.Waves = append(v.Waves, console.Wave{
			Back: w.Back, Percent: w.Percent, Calls: w.Alive, Moved: w.Moved, Refused: w.Refused, Started: w.Started, Ended: w.Ended,
			FreezeMS: console.Quantiles{P50: w.P50, P99: w.P99, Max: w.Max},
		})
	}
	for _, f := range r.Refused {
		c := console.Refusal{Call: string(f.Call), Reason: string(f.Code), Detail: f.Detail}
		if rec, err := b.store.Get(ctx, f.Call); err == nil { // it may have ended meanwhile
			c.To = recordInfo(rec).To
		}
		v.Refusals = append(v.Refusals, c)
	}
	return v
}

// moveTally sums up the moves that this process ordered.
type moveTally struct {
	mu  sync.Mutex
	sum handoff.MoveReport
	why map[string]int
}

func (t *moveTally) add(verb string, r handoff.MoveReport) {
	if verb != handoff.VerbMove {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum.Moved += r.Moved
	t.sum.Freeze = append(t.sum.Freeze, r.Freeze...)
	if over := len(t.sum.Freeze) - 100_000; over > 0 { // the newest say enough
		t.sum.Freeze = t.sum.Freeze[over:]
	}
	for _, f := range r.Refused {
		t.why[string(f.Code)]++
	}
}

func (b *backend) Moves(context.Context) (console.Moves, error) {
	t := b.moves
	t.mu.Lock()
	defer t.mu.Unlock()
	m := console.Moves{
		Moved: t.sum.Moved, Reasons: map[string]int{},
		FreezeMS: console.Quantiles{P50: t.sum.Quantile(0.5), P99: t.sum.Quantile(0.99), Max: t.sum.Quantile(1)},
	}
	for code, n := range t.why {
		m.Refused += n
		m.Reasons[code] = n
	}
	return m, nil
}
