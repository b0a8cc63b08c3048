package loadtest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Machine is what the machine itself costs, so that figures of two days can be
// compared: a call is some dozens of wake-ups and a little arithmetic.
type Machine struct {
	CPUs     int     `json:"cpus"`
	WakeupUS float64 `json:"wakeup_cpu_us"` // CPU of sender and receiver for one byte over a pipe to a process that sleeps
	SHA256NS float64 `json:"sha256_1k_ns"`  // one SHA-256 of 1,000 bytes
}

const (
	wakeups = 20_000 // round trips
	hashes  = 50_000
)

func measureMachine() (m Machine, err error) {
	m.CPUs = runtime.NumCPU()
	block := make([]byte, 1000)
	begin := time.Now()
	for range hashes {
		sum := sha256.Sum256(block)
		copy(block, sum[:])
	}
	m.SHA256NS = float64(time.Since(begin).Nanoseconds()) / hashes
	m.WakeupUS, err = measureWakeup()
	return m, err
}

// measureWakeup plays ping-pong with cat(1) over two pipes, by system calls that
// block: CPU of both, per hop.
func measureWakeup() (us float64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cat := exec.Command("cat") //nolint:noctx // it ends when its input does
	theirIn, ours, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("loadtest: %w", err)
	}
	back, theirOut, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("loadtest: %w", err)
	}
	defer func() { _ = back.Close() }()
	cat.Stdin, cat.Stdout = theirIn, theirOut
	if err := cat.Start(); err != nil {
		return 0, fmt.Errorf("loadtest: %w", err)
	}
	_, _ = theirIn.Close(), theirOut.Close()
	out, in := int(ours.Fd()), int(back.Fd()) // Fd makes them block
	one := []byte{0}
	const thread = 1 // RUSAGE_THREAD
	before := cpuOf(thread)
	for range wakeups {
		if _, err = syscall.Write(out, one); err != nil {
			break
		}
		if _, err = syscall.Read(in, one); err != nil {
			break
		}
	}
	spent := cpuOf(thread) - before
	_ = ours.Close()
	if e := cat.Wait(); err == nil {
		err = e
	}
	if err != nil {
		return 0, fmt.Errorf("loadtest: ping-pong: %w", err)
	}
	s := cat.ProcessState
	spent += s.UserTime() + s.SystemTime()
	return float64(spent.Nanoseconds()) / wakeups / 2 / 1000, nil
}

func cpuOf(who int) time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(who, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// sum adds up the samples of a metric whose labels contain every word given.
func (b *bed) sum(ctx context.Context, name string, labels ...string) (sum float64, err error) {
	all, err := b.sw.series(ctx, name)
samples:
	for series, v := range all {
		for _, l := range labels {
			if !strings.Contains(series, l) {
				continue samples
			}
		}
		sum += v
	}
	return sum, err
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ' ')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}
