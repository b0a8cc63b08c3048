package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"callswitch/console"
	"callswitch/handoff"
	"callswitch/nats"
	"callswitch/sessions"
)

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
	if errors.Is(err, handoff.ErrOlder) {
		return console.Refused("older-schema", strings.TrimPrefix(err.Error(), "handoff: "),
			"finalize when it has left: its calls end or move ('switch calls' shows them), or stop it")
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
	case r.Phase == handoff.PhaseRaising:
		fix = "the floor rises at this moment; there is no way back from it"
	case r.Phase == handoff.PhaseFinalizing:
		fix = "it is under way: 'switch rollout status --watch' shows it, 'switch rollout abort' takes it back"
	case verb == handoff.SteerFinalize:
		fix = "confirm it first, with 'switch rollout confirm'"
	}
	return console.Refused("rollout-phase", text, fix)
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
	if verb == handoff.SteerFinalize && !s.Force {
		r, _, err := handoff.ReadRollout(ctx, b.docs, nats.DocRollout)
		if err == nil && r.Phase == handoff.PhaseConfirmed {
			if err = b.restartable(ctx, r.To); err == nil {
				err = b.restartableElsewhere(ctx, r.To)
			}
		}
		if err != nil {
			return console.Rollout{}, err
		}
	}
	r, err := handoff.SteerRollout(ctx, b.rolloutConfig(), verb, s.Steps)
	if err != nil {
		return console.Rollout{}, rolloutError(verb, &r, err)
	}
	b.keepRelease(r)
	b.pruneReleases(ctx)
	return b.rolloutView(ctx, r), nil
}

func (b *backend) rolloutView(ctx context.Context, r handoff.Rollout) console.Rollout {
	side := func(s handoff.Side) console.Release {
		return console.Release{Name: s.Release, Digest: s.Digest, Schema: s.Schema}
	}
	v := console.Rollout{
		ID: r.ID, State: string(r.Phase), From: side(r.From), To: side(r.To), Steps: r.Steps, Error: r.Reason, Left: r.Left,
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
			Back: w.Back, Percent: w.Percent, Calls: w.Alive, Moved: w.Moved, Refused: w.Refused,
			Listed: w.Listed, Gone: w.Gone, Left: w.Left, Started: w.Started, Ended: w.Ended,
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
