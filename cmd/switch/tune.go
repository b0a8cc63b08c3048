package main

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"
)

// smallMachine is the number of CPUs up to which each process uses one at a time.
const smallMachine = 4

// useCPUs bounds the CPUs of this process (Config.Procs), unless the environment
// has said it (GOMAXPROCS). A call is some fifty short turns of several processes:
// with a second CPU at hand each turn wakes another thread, which costs more than
// the turn, and the CPU is missing in the process that has to take the next one.
func useCPUs(procs int) {
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	if procs == 0 && runtime.NumCPU() <= smallMachine {
		procs = 1
	}
	if procs > 0 {
		runtime.GOMAXPROCS(procs)
	}
}

// timerSlack is how late the kernel may wake a thread of ours that sleeps: no
// timer of the switch needs more precision (SIP's shortest is 500 ms, and sound
// is moved when it comes, not by the clock).
const timerSlack = time.Millisecond

// coalesceTimers gives every thread timerSlack; those that begin later inherit
// it. The Go runtime's monitor thread sleeps 20 us at a time while there is work:
// at some thousand short turns a second it costs a tenth of all CPU.
func coalesceTimers() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return // not Linux: nothing is lost but CPU
	}
	for _, t := range tasks {
		_ = os.WriteFile(filepath.Join("/proc", t.Name(), "timerslack_ns"), []byte(strconv.FormatInt(timerSlack.Nanoseconds(), 10)), 0)
	}
}

// Garbage collection: a small heap may grow to four times what lives in it, since
// collecting it more often costs a tenth of a call; a large one to twice.
const (
	smallHeap   = 64 << 20
	smallGrowth = 300 // GOGC
	largeGrowth = 100
	quiet       = 15 * time.Second
)

// tendHeap sets the growth, and collects when nothing has for a while: a process
// at rest allocates too little to start a collection, and would keep what a
// burst of calls left (the store alone 150 MB after 4,000 calls). GOGC in the
// environment wins.
func tendHeap(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(smallGrowth)
	tick := time.NewTicker(quiet)
	defer tick.Stop()
	for grown := smallGrowth; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		want := smallGrowth
		if m.NextGC/uint64(100+grown) > smallHeap/100 { // what lived at the last collection
			want = largeGrowth
		}
		if want != grown {
			debug.SetGCPercent(want)
			grown = want
		}
		if time.Since(time.Unix(0, int64(m.LastGC))) > quiet {
			debug.FreeOSMemory()
		}
	}
}
