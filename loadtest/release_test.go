package loadtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// moveAll starts a rollout in one wave and waits until it is done.
func (b *bed) moveAll(t *testing.T, binary string) {
	t.Helper()
	if _, err := b.sw.API.StartRollout(t.Context(), RolloutStart{Binary: binary, Steps: []int{100}, Pause: "100ms", ConfirmWithin: "10m"}); err != nil {
		t.Fatal(err)
	}
	b.inState(t, RolloutDone)
}

// inState waits for a state of the rollout.
func (b *bed) inState(t *testing.T, state string) Rollout {
	t.Helper()
	ctx := patient(t, 2*time.Minute)
	for {
		r, err := b.sw.API.Rollout(ctx)
		if err == nil && r.State == state {
			return r
		}
		if !pause(ctx, 20*time.Millisecond) {
			t.Fatalf("the rollout is not %s: %+v %v", state, r, err)
		}
	}
}

func (b *bed) say(t *testing.T, verb string) error {
	t.Helper()
	_, err := b.sw.API.Steer(patient(t, time.Minute), verb, Steer{})
	return err
}

// allOn waits until every call is of a release and a schema (0: any). A worker that was
// about to leave when all was killed takes calls over once more; the rollout sees to it
// every 10 s.
func (b *bed) allOn(t *testing.T, n int, release string, schema int) {
	t.Helper()
	listed := "none"
	for ctx := patient(t, time.Minute); ; {
		calls, err := b.sw.API.Calls(ctx)
		odd, by := 0, map[string]int{}
		for _, c := range calls {
			by[c.Owner+", "+c.Release]++
			if c.Release != release || schema != 0 && c.Schema != schema {
				odd++
			}
		}
		if err == nil && len(calls) >= n && odd == 0 {
			return
		}
		if err == nil {
			listed = fmt.Sprint(by)
		}
		if !pause(ctx, 50*time.Millisecond) {
			r, bad := b.sw.API.Rollout(t.Context())
			t.Fatalf("not %d calls on %s schema %d, but %s: %v; the rollout is %+v %v", n, release, schema, listed, err, r, bad)
		}
	}
}

// traffic places short calls at a steady rate until stopped, and least of them in any case.
func (b *bed) traffic(t *testing.T, every time.Duration, least int) (stop func() (placed, failed int)) {
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var wg sync.WaitGroup
	placed, failed := 0, 0
	wg.Go(func() {
		for n := 0; pause(ctx, every) || n < least; n++ {
			wg.Go(func() {
				own, done := context.WithTimeout(context.WithoutCancel(ctx), kindStepLimit)
				defer done()
				c := b.rig.NewCall(Mark{}, answerAtOnce)
				err := c.Establish(own)
				if err == nil {
					pause(own, 300*time.Millisecond)
					err = c.HangUp(own, true)
				}
				v, _ := c.Violations()
				mu.Lock()
				defer mu.Unlock()
				placed++
				if err != nil || len(v) > 0 {
					t.Logf("%s: %v %q", c.Number, err, v)
					failed++
				}
			})
		}
	})
	return func() (int, int) {
		cancel()
		wg.Wait()
		return placed, failed
	}
}

// Finalize under steady traffic: calls come and go, others say nothing at all;
// the floor rises, nobody is lost, and an older serve does not start any more.
func TestFinalizeUnderTraffic(t *testing.T) {
	b, calls := realSwitch(t, 50, nil)
	bin, _ := binaries()
	stop := b.traffic(t, 20*time.Millisecond, 50)
	b.moveAll(t, bin[1])
	var refused *APIError
	if err := b.say(t, "finalize"); !errors.As(err, &refused) {
		t.Errorf("finalized before it was confirmed: %v", err)
	}
	if err := b.say(t, "confirm"); err != nil {
		t.Fatal(err)
	}
	// The executable that was served from could not be started again.
	if err := b.say(t, "finalize"); !errors.As(err, &refused) || refused.Code != "serve-too-old" {
		t.Errorf("finalized under an old serve: %v", err)
	}
	for ctx := patient(t, 2*time.Minute); ; { // refused while the old worker lives
		_, err := b.sw.API.Steer(ctx, "finalize", Steer{Force: true})
		if err == nil {
			break
		}
		if !errors.As(err, &refused) || refused.Code != "older-schema" || !pause(ctx, 50*time.Millisecond) {
			t.Fatalf("finalize: %v", err)
		}
	}
	r := b.inState(t, RolloutFinalized)
	if placed, failed := stop(); failed > 0 || placed < 50 {
		t.Errorf("%d of %d calls of the traffic failed", failed, placed)
	}
	st, err := b.sw.API.Status(t.Context())
	if err != nil || st.Floor != r.To.Schema {
		t.Errorf("floor %d, %v", st.Floor, err)
	}
	b.allOn(t, len(calls), r.To.Name, r.To.Schema)
	_, _ = b.sw.Processes(t.Context())
	b.sw.KillAll()
	if err := b.sw.Start(t.Context()); err == nil || !strings.Contains(b.sw.LogTail(), fmt.Sprintf("the floor is %d", r.To.Schema)) {
		t.Fatalf("serve of the old release: %v", err)
	}
	b.sw.KillAll()
	b.sw.cfg.Argv[0] = bin[1]
	if err := b.sw.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	flowing(t, calls)
	b.verdict(t, calls, 50*2*50*60)
}

// All is killed after a rollout was confirmed: serve starts that release's
// workers, not its own, and says so. Taken back in time, it is its own again.
func TestWholeRestartStartsTheConfirmedRelease(t *testing.T) {
	b, calls := realSwitch(t, 20, nil)
	bin, _ := binaries()
	b.moveAll(t, bin[1])
	if err := b.say(t, "confirm"); err != nil {
		t.Fatal(err)
	}
	r := b.inState(t, RolloutConfirmed)
	_, _ = b.sw.Processes(t.Context())
	b.sw.KillAll()
	if err := b.sw.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.allOn(t, len(calls), r.To.Name, 0)
	// One of the old release that was about to leave is started again, and leaves.
	ctx := patient(t, time.Minute)
	for {
		ps, err := b.sw.Find(ctx, RoleWorker)
		if err == nil && len(ps) == 1 && same(ps[0].Digest, r.To.Digest) {
			break
		}
		if !pause(ctx, 50*time.Millisecond) {
			t.Fatalf("workers %+v, %v", ps, err)
		}
	}
	if log, _ := os.ReadFile(b.sw.LogPath()); !strings.Contains(string(log), "workers are of release "+r.To.Name) {
		t.Error("serve does not say that its workers are of another release")
	}
	flowing(t, calls)
	if err := b.say(t, "undo"); err != nil {
		t.Fatal(err)
	}
	b.inState(t, RolloutRolledBack)
	_, _ = b.sw.Processes(t.Context())
	b.sw.KillAll()
	if err := b.sw.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.allOn(t, len(calls), r.From.Name, 0)
	flowing(t, calls)
	b.verdict(t, calls, 20*2*50*60)
}

// brokenRelease builds the release whose migration panics or hangs.
var brokenRelease = sync.OnceValues(func() (string, error) {
	bin, err := binaries()
	if err != nil {
		return "", err
	}
	out := filepath.Join(filepath.Dir(bin[0]), "switch-broken")
	cmd := exec.Command("go", "build", "-tags", "brokenrelease", "-o", out, "callswitch/cmd/switch") //nolint:noctx,gosec // the tree's own
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", &exec.Error{Name: string(b), Err: err}
	}
	return out, nil
})

// A release whose migration panics, and one whose migration never ends: every
// call is refused with the reason, stays and loses nothing; the release leaves.
func TestReleaseWhoseMigrationBreaks(t *testing.T) {
	if os.Getenv("SWITCH_SYSTEM") == "" {
		t.Skip("SWITCH_SYSTEM is not set: tests of the whole switch run in .ci/run")
	}
	broken, err := brokenRelease() // before anybody talks: a compiler takes what CPU there is
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ prefix, code string }{
		"panics": {"", "migrate-panic"},
		"hangs":  {"99901", "migrate-timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			b, calls := realSwitch(t, 30, func(rc *RigConfig) { rc.Prefix = c.prefix })
			bin, _ := binaries()
			st, err := b.sw.API.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(patient(t, 3*time.Minute), bin[0], "rollout", "start", broken, "--steps", "100", "--pause", "100ms", //nolint:gosec // ours
				"--api", filepath.Join(b.sw.cfg.Site.StateDir, "run", "api.sock"))
			text, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 5 {
				t.Errorf("exit code is not 5 (refused): %v\n%s", err, text)
			}
			r, err := b.sw.API.Rollout(t.Context())
			if err != nil || r.State != RolloutFailed || r.DryRun == nil || r.DryRun.Cannot != len(calls) || len(r.Waves) != 0 || len(r.Refusals) < len(calls) {
				t.Errorf("%v %+v", err, r)
			}
			reasons := map[string]int{}
			for _, f := range r.Refusals {
				reasons[f.Reason]++
			}
			if reasons[c.code] == 0 {
				t.Errorf("reasons %v, want %s", reasons, c.code)
			}
			t.Logf("%s: %v", r.Error, reasons)
			b.allOn(t, len(calls), st.Release, 0)
			b.verdict(t, calls, 0)
		})
	}
}
