package loadtest

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A limit of silence is one of the switch on a machine that is its own: it, the rig
// and nobody else. A watch tells what the others took while something happened, from
// the kernel's books, so that a limit that is missed beside a compiler, or on a host
// that gives this machine's CPUs to others, is not held against the switch.

// othersMost is how much of one CPU others may take where a limit counts: what an
// idle machine's own processes and the books' grain of 10 ms come to is less.
const othersMost = 0.3

// watch is the kernel's books at one moment.
type watch struct {
	at   time.Time
	busy float64 // seconds of CPU, of all processes, and what the hypervisor took
	ours float64 // the rig's, of what it has started, and the switch's
}

func (b *bed) watch(t *testing.T) watch {
	t.Helper()
	w, err := readWatch(os.Getpid(), b.sw.cfg.Site.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// readWatch counts as ours root, its descendants, and who names state in its command.
func readWatch(root int, state string) (w watch, err error) {
	w.at = time.Now()
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return w, err
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	f := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal
	if len(f) < 9 {
		return w, fmt.Errorf("%w: %q", errStat, line)
	}
	for _, i := range []int{1, 2, 3, 8} {
		n, err := strconv.ParseFloat(f[i], 64)
		if err != nil {
			return w, fmt.Errorf("%w: %q", errStat, line)
		}
		w.busy += n / clockTicks
	}
	dir, err := os.ReadDir("/proc")
	if err != nil {
		return w, err
	}
	all := map[int]procStat{}
	for _, e := range dir {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if s, err := readStat(pid); err == nil {
			all[pid] = s
		}
	}
	for pid, s := range all {
		own := false
		for p := pid; p > 1 && !own; p = all[p].ppid {
			own = p == root
		}
		if !own {
			cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			own = strings.Contains(string(cmd), state)
		}
		if own {
			w.ours += s.cpu + s.kids // who ends meanwhile stands with the one that waited for it
		}
	}
	return w, nil
}

// others is how much of one CPU processes that are not ours have taken since: 0.5 is
// half of one.
func (w watch) others(now watch) float64 {
	return max(0, now.busy-w.busy-(now.ours-w.ours)) / now.at.Sub(w.at).Seconds()
}

// missed says that a limit was not kept: a failure, unless others were at work since
// the watch began.
func (b *bed) missed(t *testing.T, w watch, format string, args ...any) {
	t.Helper()
	b.missedBy(t, w.others(b.watch(t)), format, args...)
}

func (b *bed) missedBy(t *testing.T, others float64, format string, args ...any) {
	t.Helper()
	what := fmt.Sprintf(format, args...)
	if others > othersMost {
		t.Logf("NOT JUDGED, for others took %.0f %% of a CPU meanwhile: %s", 100*others, what)
		return
	}
	t.Errorf("%s (others took %.0f %% of a CPU)", what, 100*others)
}

// What this process and its children burn is ours, and what another burns is not:
// the same books, read for somebody who is not there, call it others'. The state's
// name is this test's alone: another package's test may run a command that names it.
func TestWatchTellsOthersFromOurs(t *testing.T) {
	stranger, state := 1<<30, t.TempDir()
	read := func(root int) watch {
		t.Helper()
		w, err := readWatch(root, state)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	a, b := read(os.Getpid()), read(stranger)
	if b.ours != 0 {
		t.Errorf("%.2f s are a stranger's", b.ours)
	}
	for self := read(os.Getpid()).ours; read(os.Getpid()).ours < self+0.2; { // burn
	}
	burn := exec.CommandContext(t.Context(), "sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
	if err := burn.Run(); err != nil {
		t.Fatal(err)
	}
	child := burn.ProcessState.UserTime().Seconds()
	burnt := read(os.Getpid()).ours - a.ours
	if burnt < child || child == 0 {
		t.Errorf("%.2f s are ours, of which a child has burnt %.2f", burnt, child)
	}
	if ours, all := a.others(read(os.Getpid())), b.others(read(stranger)); all <= ours {
		t.Errorf("others took %.2f of a CPU; with what is ours, %.2f", ours, all)
	}
}

// Who names the switch's state in its command is ours, whoever its parent is.
func TestWatchKnowsTheSwitchByItsState(t *testing.T) {
	stranger, state := 1<<30, t.TempDir()
	burn := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done", state)
	if err := burn.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = burn.Process.Kill(); _ = burn.Wait() }()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		w, err := readWatch(stranger, state)
		if err != nil {
			t.Fatal(err)
		}
		if w.ours > 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the switch's own process counts as a stranger")
		}
	}
}
