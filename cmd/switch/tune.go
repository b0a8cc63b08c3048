package main

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
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

// How late the kernel may wake a thread of ours that sleeps. No timer of the
// switch needs more precision: SIP's shortest is 500 ms, and sound is moved when
// it comes, not by the clock. But a system call that blocks (the media plane waits
// for packets in one; a store that syncs each write) keeps the only CPU of its
// process (useCPUs) until the runtime's monitor looks: there it is short.
const (
	timerSlack = 20 * time.Millisecond
	shortSlack = time.Millisecond
)

// slackOf is what a role's threads may be late.
func slackOf(role string, cfg Config) time.Duration {
	if role == "media" || role == "nats" && cfg.NATS.SyncInterval < 0 {
		return shortSlack
	}
	return timerSlack
}

// coalesceTimers gives every thread that slack; those that begin later inherit
// it. The Go runtime's monitor thread sleeps 20 us at a time while there is work,
// and is woken by the first system call after a rest: at some thousand short turns
// a second it costs a tenth of all CPU without slack, a twentieth with 5 ms. With
// 20 it is a hundredth, and more gains nothing.
func coalesceTimers(slack time.Duration) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return // not Linux: nothing is lost but CPU
	}
	for _, t := range tasks {
		_ = os.WriteFile(filepath.Join("/proc", t.Name(), "timerslack_ns"), []byte(strconv.FormatInt(slack.Nanoseconds(), 10)), 0)
	}
}

// Garbage collection: a small heap may grow to four times what lives in it, since
// collecting it more often costs a tenth of a call; a large one to twice.
const (
	smallHeap   = 64 << 20
	smallGrowth = 300 // GOGC
	largeGrowth = 100

	lookEvery = 5 * time.Second
	quiet     = 2 << 20 // allocated between two looks: no burst of calls is on
	little    = 1 << 20 // not worth a collection

	// Looks into a rest at which it is collected whatever it may give back: the
	// store lets go of what it read and wrote 10 s after, SIP's transactions are
	// over after 32 s.
	storeSettled = 3
	sipSettled   = 8
)

// tendHeap sets the growth, and collects when nothing happens: a process at rest
// allocates too little to start a collection, and would keep what a burst of
// calls left (the store alone 150 MB after 4,000 calls). GOGC in the environment
// wins.
func tendHeap(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(smallGrowth)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	before, grown, resting := readHeap(), smallGrowth, 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		h := readHeap()
		want := smallGrowth
		if h.live > smallHeap {
			want = largeGrowth
		}
		if want != grown {
			debug.SetGCPercent(want)
			grown = want
		}
		if resting++; h.allocated-before.allocated >= quiet {
			resting = 0
		}
		if resting == storeSettled || resting == sipSettled || resting > 0 && h.worthIt() {
			// The store's blocks are let go by a first collection and then lie in a
			// pool, which holds them over two.
			for range 2 {
				runtime.GC()
				time.Sleep(10 * time.Millisecond) // their clean-up runs after it
			}
			debug.FreeOSMemory()
			h = readHeap()
		}
		before = h
	}
}

// heap is what the runtime says of its heap, in bytes.
type heap struct {
	allocated uint64 // since the process began
	live      uint64 // at the end of the last collection
	resident  uint64 // what the kernel counts: objects dead or alive, and free memory not given back
}

// worthIt reports whether a collection would give back more than it costs: an
// eighth of what lives, which makes it rare in a large heap.
func (h heap) worthIt() bool { return h.resident > h.live+max(little, h.live/8) }

// readHeap stops nobody, unlike runtime.ReadMemStats.
func readHeap() heap {
	s := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(s)
	v := func(i int) uint64 {
		if s[i].Value.Kind() != metrics.KindUint64 {
			return 0
		}
		return s[i].Value.Uint64()
	}
	return heap{allocated: v(0), live: v(1), resident: v(2) + v(3)}
}
