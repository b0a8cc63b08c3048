package loadtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// binaries builds this release and the next one, once; SWITCH_BINARIES names a
// directory that has both already, as switch and switch-next.
var binaries = sync.OnceValues(func() ([2]string, error) {
	if dir := os.Getenv("SWITCH_BINARIES"); dir != "" {
		return [2]string{filepath.Join(dir, "switch"), filepath.Join(dir, "switch-next")}, nil
	}
	dir, err := os.MkdirTemp("", "switch-bin-")
	if err != nil {
		return [2]string{}, err
	}
	built = dir
	out := [2]string{filepath.Join(dir, "switch"), filepath.Join(dir, "switch-next")}
	for i, tags := range []string{"", "nextrelease"} {
		cmd := exec.Command("go", "build", "-tags", tags, "-o", out[i], "callswitch/cmd/switch") //nolint:noctx,gosec // the tree's own
		if b, err := cmd.CombinedOutput(); err != nil {
			return out, &exec.Error{Name: string(b), Err: err}
		}
	}
	return out, nil
})

// built is the directory that binaries has made; TestMain removes it.
var built string

// realSwitch starts the tree's switch with a rig and n talking calls.
func realSwitch(t *testing.T, n int, change func(*RigConfig)) (*bed, []*Call) {
	t.Helper()
	return realSwitchAs(t, n, change, nil)
}

// realSwitchAs is realSwitch with a configuration of the test's own.
func realSwitchAs(t *testing.T, n int, change func(*RigConfig), config func(Site) []byte) (*bed, []*Call) {
	t.Helper()
	if os.Getenv("SWITCH_SYSTEM") == "" {
		t.Skip("SWITCH_SYSTEM is not set: tests of the whole switch run in .ci/run")
	}
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	return realSwitchOf(t, bin[0], n, change, config)
}

// realSwitchOf is realSwitchAs with an executable of the test's own.
func realSwitchOf(t *testing.T, binary string, n int, change func(*RigConfig), config func(Site) []byte) (*bed, []*Call) {
	t.Helper()
	rc := RigConfig{RTP: true}
	if change != nil {
		change(&rc)
	}
	b, err := newBed(t.Context(), BenchConfig{SwitchBinary: binary, Config: config}, max(n, 500), 1, rc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("serve said:\n%s", b.sw.LogTail())
		}
		b.close()
	})
	calls, err := b.fill(t.Context(), n, 100)
	if err != nil {
		t.Fatal(err)
	}
	pause(t.Context(), settle)
	for _, c := range calls {
		if rc.RTP {
			c.Talk()
		}
	}
	return b, calls
}

func patient(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// verdict ends all calls and checks wire, sound and CDRs; maxLost is of the sum.
func (b *bed) verdict(t *testing.T, calls []*Call, maxLost int) {
	t.Helper()
	var sum Hearing
	var wg sync.WaitGroup
	for _, c := range calls {
		wg.Go(func() { c.Hush(t.Context()) })
	}
	wg.Wait()
	for _, c := range calls {
		if c.Dropped() {
			t.Errorf("%s was dropped", c.Number)
		}
		sum.Add(c.Hearing())
	}
	t.Logf("sound: %+v", sum)
	if sum.Lost > maxLost || sum.WrongSource+sum.Foreign+sum.Duplicated != 0 {
		t.Errorf("sound: lost %d, allowed %d: %+v", sum.Lost, maxLost, sum)
	}
	if maxLost == 0 && sum.Broken+sum.Reordered != 0 {
		t.Errorf("sound: the stream is not one: %+v", sum)
	}
	if sum.Sent == 0 && b.rig.sound != nil {
		t.Error("sound: nobody has said anything")
	}
	if n := b.empty(t.Context(), calls, 200); n != 0 {
		t.Errorf("%d calls could not be hung up", n)
	}
	b.once(t, calls)
	for _, c := range calls { // after their CDRs: what came late is in it
		if v, _ := c.Violations(); len(v) > 0 {
			t.Errorf("%s: %q", c.Number, v)
		}
	}
	b.rig.mu.Lock()
	defer b.rig.mu.Unlock()
	for _, s := range b.rig.doubt {
		t.Error(s)
	}
}

// once waits until each call has its CDR and checks that none has two.
func (b *bed) once(t *testing.T, calls []*Call) {
	t.Helper()
	seen := map[string]int{}
	for ctx := patient(t, time.Minute); ; {
		cdrs, err := b.sw.API.CDRs(t.Context())
		if err == nil && len(cdrs) >= len(calls) { // there may be those of other calls
			clear(seen)
			for _, c := range cdrs {
				seen[c.To]++
			}
			missing := 0
			for _, c := range calls {
				if seen[c.Number] == 0 {
					missing++
				}
			}
			if missing == 0 {
				break
			}
		}
		if !pause(ctx, 200*time.Millisecond) {
			break
		}
	}
	for _, c := range calls {
		if seen[c.Number] != 1 {
			t.Errorf("%d CDRs of %s", seen[c.Number], c.Number)
		}
	}
}

// only is the process of a role, waited for: one that was held up is not listed until it
// is heard again.
func (b *bed) only(t *testing.T, role string) Process {
	t.Helper()
	for ctx := patient(t, 20*time.Second); ; {
		ps, err := b.sw.Find(ctx, role)
		if err == nil {
			return ps[0]
		}
		if !pause(ctx, 50*time.Millisecond) {
			t.Fatal(err)
		}
	}
}

// kill -9 of the only worker, or of the edge, under talking calls.
func TestKillUnderTalkingCalls(t *testing.T) {
	for _, role := range []string{RoleWorker, RoleEdge} {
		t.Run(role, func(t *testing.T) {
			b, calls := realSwitch(t, 200, nil)
			pause(t.Context(), 2*time.Second)
			p := b.only(t, role)
			if err := b.sw.Kill(p); err != nil {
				t.Fatal(err)
			}
			if _, err := b.sw.Successor(patient(t, time.Minute), role, p); err != nil {
				t.Fatal(err)
			}
			if role == RoleWorker {
				b.owned(t, len(calls), p)
			}
			pause(t.Context(), time.Second)
			b.verdict(t, calls, 0)
		})
	}
}

// owned waits until n calls are listed, none by the dead worker.
func (b *bed) owned(t *testing.T, n int, dead Process) {
	t.Helper()
	begin := time.Now()
	ctx := patient(t, time.Minute)
	for {
		calls, err := b.sw.API.Calls(ctx)
		theirs := 0
		for _, c := range calls {
			if c.Owner == dead.ID {
				theirs++
			}
		}
		if err == nil && len(calls) == n && theirs == 0 {
			t.Logf("%d calls taken over %v after the successor was seen", n, time.Since(begin).Round(time.Millisecond))
			return
		}
		if !pause(ctx, 5*time.Millisecond) {
			t.Fatalf("%d calls of %d, %d still of the dead worker: %v", len(calls), n, theirs, err)
		}
	}
}

// The media process is killed: sound comes back, nobody is dropped.
func TestKillMediaUnderTalkingCalls(t *testing.T) {
	b, calls := realSwitch(t, 100, nil)
	pause(t.Context(), 2*time.Second)
	p := b.only(t, RoleMedia)
	if err := b.sw.Kill(p); err != nil {
		t.Fatal(err)
	}
	if _, err := b.sw.Successor(patient(t, time.Minute), RoleMedia, p); err != nil {
		t.Fatal(err)
	}
	pause(t.Context(), 3*time.Second)
	b.verdict(t, calls, 100*2*50) // a second of everybody
}

// All processes are killed and serve starts again.
func TestKillEverythingAndServeAgain(t *testing.T) {
	b, calls := realSwitch(t, 200, nil)
	pause(t.Context(), 2*time.Second)
	if _, err := b.sw.Processes(t.Context()); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	b.sw.KillAll()
	if err := b.sw.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("everything was back after %v", time.Since(begin))
	flowing(t, calls)
	away := time.Since(begin)
	t.Logf("everybody heard everybody after %v", away)
	before := make([]int, len(calls))
	for i, c := range calls {
		before[i] = c.Hearing().Lost
	}
	pause(t.Context(), 2*time.Second)
	b.verdict(t, calls, said(calls, away))
	for i, c := range calls {
		if lost := c.Hearing().Lost; lost > before[i] {
			t.Errorf("%s: %d packets were lost when sound had come back", c.Number, lost-before[i])
		}
	}
}

// said is how much is said in calls in a time, a packet more each way included.
func said(calls []*Call, d time.Duration) int {
	return len(calls) * 2 * (int(d/packetTime) + 1)
}

// A worker is stopped for 5 s in the middle of a move and then wakes.
func TestStoppedWorkerMidMove(t *testing.T) {
	b, calls := realSwitch(t, 200, nil)
	bin, _ := binaries()
	p := b.only(t, RoleWorker)
	if _, err := b.sw.API.StartRollout(t.Context(), RolloutStart{
		Binary: bin[1], Steps: []int{25, 50, 75, 100}, Pause: "200ms", ConfirmWithin: "10m",
	}); err != nil {
		t.Fatal(err)
	}
	ctx := patient(t, 2*time.Minute)
	for r := (Rollout{}); len(r.Waves) == 0; {
		var err error
		if r, err = b.sw.API.Rollout(ctx); err != nil {
			t.Fatal(err)
		}
		pause(ctx, 2*time.Millisecond)
	}
	if err := b.sw.Freeze(p); err != nil {
		t.Fatal(err)
	}
	pause(ctx, 5*time.Second)
	if err := b.sw.Wake(p); err != nil {
		t.Fatal(err)
	}
	for {
		r, err := b.sw.API.Rollout(ctx)
		if err == nil && (r.State == RolloutDone || r.State == RolloutRolledBack) {
			break
		}
		if !pause(ctx, 50*time.Millisecond) {
			t.Fatalf("the rollout did not end: %+v %v", r, err)
		}
	}
	b.verdict(t, calls, 0)
}

// NATS does nothing for 10 s: sound goes on, a BYE arrives when it is back,
// a new call waits or is refused for now.
func TestStoppedNATS(t *testing.T) {
	b, calls := realSwitch(t, 100, nil)
	p := b.only(t, RoleNATS)
	if err := b.sw.Freeze(p); err != nil {
		t.Fatal(err)
	}
	away := b.during(t, calls[0])
	pause(t.Context(), 10*time.Second)
	if err := b.sw.Wake(p); err != nil {
		t.Fatal(err)
	}
	calls = append(calls[1:], away()...)
	b.verdict(t, calls, 0)
}

// The demo as the issue asks for it, small.
func TestDemoOfTheTree(t *testing.T) {
	if os.Getenv("SWITCH_SYSTEM") == "" {
		t.Skip("SWITCH_SYSTEM is not set: tests of the whole switch run in .ci/run")
	}
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	v, err := Demo(t.Context(), DemoConfig{
		SwitchBinary: bin[0], NextBinary: bin[1], Calls: 50, Seconds: 10, RTP: true, Out: t.Output(), Err: t.Output(),
		Pinned: Mark{Headers: []string{"X-Call-Note: rig"}}, Refused: Mark{Number: "99900001"},
	})
	if err != nil || !v.Passed() {
		t.Fatalf("%v %q", err, v.Problems)
	}
}
