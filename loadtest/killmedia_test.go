package loadtest

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// placed makes n calls over some time; each talks from its answer on. during
// runs meanwhile. It returns those that were answered.
func (b *bed) placed(t *testing.T, n int, over time.Duration, during func()) (up []*Call) {
	t.Helper()
	ctx := patient(t, time.Minute)
	var mu sync.Mutex
	var wg sync.WaitGroup
	wg.Go(during)
	for range n {
		c := b.rig.NewCall(Mark{}, answerAtOnce)
		wg.Go(func() {
			err := c.Establish(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Logf("%s did not come up: %v", c.Number, err)
				return
			}
			c.Talk()
			up = append(up, c)
		})
		if over > 0 {
			pause(ctx, over/time.Duration(n))
		}
	}
	wg.Wait()
	return up
}

// soundWithin checks that sound comes both ways in every call, and says how long
// after since it did so in the last.
func soundWithin(t *testing.T, calls []*Call, within time.Duration) {
	t.Helper()
	since := time.Now()
	heard := func(c *Call) [2]int {
		return [2]int{c.SB.Heard(c.SA.Sent()).Received, c.SA.Heard(c.SB.Sent()).Received}
	}
	before := make([][2]int, len(calls))
	for i, c := range calls {
		before[i] = heard(c)
	}
	for {
		dumb := 0
		for i, c := range calls {
			if now := heard(c); now[0]-before[i][0] < 5 || now[1]-before[i][1] < 5 {
				dumb++
			}
		}
		took := time.Since(since)
		if dumb == 0 {
			t.Logf("%d calls have sound %v after the successor was seen", len(calls), took.Round(time.Millisecond))
			return
		}
		if took > within {
			t.Errorf("%d of %d calls have no sound %v after the successor was seen", dumb, len(calls), took.Round(time.Millisecond))
			return
		}
		pause(t.Context(), 10*time.Millisecond)
	}
}

// killMedia is kill -9 of the media process that there is now.
func (b *bed) killMedia(t *testing.T) (Process, time.Time) {
	t.Helper()
	p := b.only(t, RoleMedia)
	at := time.Now()
	if err := b.sw.Kill(p); err != nil {
		t.Error(err)
	}
	return p, at
}

// The media process is killed while calls come up, and again right after the
// last answer, before anything of the newest calls can have been stored by it.
// Whoever got a 200 has sound again.
func TestKillMediaWhileCallsComeUp(t *testing.T) {
	b, _ := realSwitch(t, 0, nil)
	during := 200*time.Millisecond + rand.N(1600*time.Millisecond)
	after := rand.N(100 * time.Millisecond)
	t.Logf("kills %v after the first call and %v after the last answer", during, after)
	calls := b.placed(t, 50, 2*time.Second, func() {
		pause(t.Context(), during)
		p, at := b.killMedia(t)
		if _, err := b.sw.Successor(patient(t, time.Minute), RoleMedia, p); err != nil {
			t.Error(err)
		}
		t.Logf("a successor after %v", time.Since(at).Round(time.Millisecond))
	})
	if len(calls) < 45 {
		t.Errorf("%d calls came up of 50", len(calls))
	}
	pause(t.Context(), after)
	p, at := b.killMedia(t)
	if _, err := b.sw.Successor(patient(t, time.Minute), RoleMedia, p); err != nil {
		t.Fatal(err)
	}
	t.Logf("a successor after %v", time.Since(at).Round(time.Millisecond))
	soundWithin(t, calls, time.Second)
	b.verdict(t, calls, 50*2*50*2)
}

// All processes are killed 200 ms after calls came up: the calls have records,
// their media has none.
func TestKillEverythingWithoutMediaRecords(t *testing.T) {
	b, _ := realSwitch(t, 0, nil)
	if _, err := b.sw.Processes(t.Context()); err != nil {
		t.Fatal(err)
	}
	calls := b.placed(t, 30, 0, func() {})
	if len(calls) != 30 {
		t.Fatalf("%d calls came up of 30", len(calls))
	}
	pause(t.Context(), 200*time.Millisecond)
	at := time.Now()
	b.sw.KillAll()
	if err := b.sw.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("everything was back after %v", time.Since(at).Round(time.Millisecond))
	soundWithin(t, calls, 10*time.Second)
	b.verdict(t, calls, said(calls, time.Since(at)))
}
