package loadtest

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel's books say how much others took of a second, not when: a machine that was
// held up for a tenth of a second by its host has lost little, and whoever was to hear a
// packet just then has heard nothing for a tenth of a second. So a sentry on each CPU
// sleeps for a moment at a time. What it oversleeps by far is taken off a silence: in that
// time nobody could have been heard, whatever the switch did. Its own work and the rig's
// never keep a sentry from its CPU for so long.
const (
	sentryEvery = 2 * time.Millisecond
	heldLeast   = 20 * time.Millisecond
)

// sentries know when a CPU was held up.
type sentries struct {
	mu     sync.Mutex
	on     bool
	spans  []lull
	posted sync.WaitGroup
}

var held sentries

// keep has them stand until the test ends.
func (s *sentries) keep(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.on {
		return
	}
	s.on, s.spans = true, nil
	for cpu := range runtime.NumCPU() {
		s.posted.Go(func() { s.stand(cpu) })
	}
	t.Cleanup(func() {
		s.mu.Lock()
		s.on = false
		s.mu.Unlock()
		s.posted.Wait()
	})
}

func (s *sentries) stand(cpu int) {
	runtime.LockOSThread() // for good: the thread ends with it
	var own unix.CPUSet
	own.Set(cpu)
	if unix.SchedSetaffinity(0, &own) != nil {
		return // not ours
	}
	for begin := time.Now(); ; {
		nap := unix.NsecToTimespec(int64(sentryEvery))
		_ = unix.Nanosleep(&nap, nil)
		now := time.Now()
		s.mu.Lock()
		if now.Sub(begin) > heldLeast {
			s.spans = append(s.spans, lull{begin, now})
		}
		on := s.on
		s.mu.Unlock()
		if !on {
			return
		}
		begin = now
	}
}

// silent is how long a silence was, less what the machine was held up in it.
func (s *sentries) silent(begin, end time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, seen := end.Sub(begin), begin
	for _, h := range s.spans { // in the order of their ends
		from, to := h.begin, h.end
		if from.Before(seen) {
			from = seen // another CPU's has covered it, or it is of before
		}
		if to.After(end) {
			to = end
		}
		if to.After(from) {
			d -= to.Sub(from)
			seen = to
		}
	}
	return d
}

// A silence is shorter by what a CPU was held up in it, by each moment once.
func TestSilenceIsWithoutWhatTheMachineWasHeldUp(t *testing.T) {
	zero := time.Unix(1000, 0)
	ms := func(n int) time.Time { return zero.Add(time.Duration(n) * time.Millisecond) }
	s := &sentries{spans: []lull{{ms(0), ms(30)}, {ms(100), ms(200)}, {ms(150), ms(250)}, {ms(400), ms(500)}}}
	for _, c := range []struct{ begin, end, want int }{
		{30, 100, 70}, {0, 30, 0}, {20, 50, 20}, {90, 300, 60}, {120, 160, 0}, {240, 410, 150}, {500, 520, 20}, {0, 600, 320},
	} {
		if d := s.silent(ms(c.begin), ms(c.end)); d != time.Duration(c.want)*time.Millisecond {
			t.Errorf("from %d to %d ms: %v, not %d ms", c.begin, c.end, d, c.want)
		}
	}
}

// A process that does nothing but sleep is held up if its CPU is: what sentries note
// at work is little, and they leave when the test ends.
func TestSentriesStandAndLeave(t *testing.T) {
	var s sentries
	begin := time.Now()
	t.Run("while a test runs", func(t *testing.T) {
		s.keep(t)
		s.keep(t) // once
		pause(t.Context(), 50*time.Millisecond)
	})
	if s.on {
		t.Error("they stand on")
	}
	if d := s.silent(begin, time.Now()); d > time.Since(begin) {
		t.Errorf("%v of %v", d, time.Since(begin))
	}
}
