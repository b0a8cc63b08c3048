package loadtest

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"
)

// answerAtOnce rings and answers at once, in that order.
func answerAtOnce(l *Leg) {
	l.Ring()
	l.Answer()
}

func benchSetup(ctx context.Context, c BenchConfig, rate int) (r SetupResult, err error) {
	b, err := newBed(ctx, c, 6*rate, 1, RigConfig{Mux: true, Linger: 5 * time.Second, UAs: 2})
	if err != nil {
		return r, err
	}
	defer b.close()
	warm := min(rate, 100)
	if _, err := b.shortCalls(ctx, warm, warm, c.Hold); err != nil { // first calls pay for what is done once
		return r, err
	}
	before, err := b.cpu(ctx)
	if err != nil {
		return r, err
	}
	own, begin := ownCPU(), time.Now()
	n := rate * c.Seconds
	if r, err = b.shortCalls(ctx, n, rate, c.Hold); err != nil {
		return r, err
	}
	r.Rate, r.Placed, r.Seconds = rate, n, time.Since(begin).Seconds()
	r.RigCPUms = (ownCPU() - own) / float64(n) * 1000
	pause(ctx, time.Second) // CDRs and tombstones are part of a call
	after, err := b.cpu(ctx)
	if err != nil {
		return r, err
	}
	_, _ = fmt.Fprintf(c.Progress, "%d calls/s: %s\n", rate, r.cost(before, after))
	return r, nil
}

// cost fills in the CPU of a call and says it. Where more than a hundredth of the calls
// failed there is none: what a call takes that does not come up is no call's cost.
func (r *SetupResult) cost(before, after map[string]float64) string {
	failed := fmt.Sprintf("%d of %d failed", r.Failed, r.Placed)
	if r.Failed > 0 {
		failed += ": " + r.Error
	}
	if r.Failed*100 > r.Placed {
		return "no figure, " + failed
	}
	r.ByRole = map[string]float64{}
	for role, v := range after {
		r.ByRole[role] = (v - before[role]) / float64(r.Placed) * 1000
	}
	r.CPUms = (total(after) - total(before)) / float64(r.Placed) * 1000
	return fmt.Sprintf("%.2f ms of CPU a call, %s", r.CPUms, failed)
}

func ownCPU() float64 {
	s, _ := readStat(os.Getpid())
	return s.cpu
}

// shortCalls places n calls at a rate and hangs each up after hold.
func (b *bed) shortCalls(ctx context.Context, n, rate int, hold time.Duration) (r SetupResult, err error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var pdd, setup, bye samples
	begin := time.Now()
	for i := range n {
		if d := time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))); d > 0 && !pause(ctx, d) {
			break
		}
		call := b.rig.NewCall(Mark{}, answerAtOnce)
		wg.Go(func() {
			defer b.rig.Forget(call)
			defer call.Close()
			err := shortCall(ctx, call, hold, &bye)
			t := LegTimes{}
			if call.A != nil {
				t = call.A.Times()
			}
			v, re := call.Violations()
			mu.Lock()
			defer mu.Unlock()
			r.Retrans += re
			if err == nil && len(v) > 0 {
				err = fmt.Errorf("loadtest: %s", v[0])
			}
			if err != nil {
				r.Failed++
				if r.Error == "" {
					r.Error = err.Error()
				}
				return
			}
			if !t.Ringing.IsZero() {
				pdd.add(t.Ringing.Sub(t.Invite))
			}
			setup.add(t.Answered.Sub(t.Invite))
		})
	}
	wg.Wait()
	r.PDDms, r.SetupMS, r.ByeMS = pdd.quantiles(), setup.quantiles(), bye.quantiles()
	return r, ctx.Err()
}

func shortCall(ctx context.Context, c *Call, hold time.Duration, bye *samples) error {
	ctx, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	if err := c.Establish(ctx); err != nil {
		return err
	}
	pause(ctx, hold)
	begin := time.Now()
	if err := c.HangUp(ctx, true); err != nil {
		return err
	}
	bye.add(time.Since(begin))
	return nil
}

// fill brings up n calls and keeps them; a failure is an error.
func (b *bed) fill(ctx context.Context, n, rate int, prepare ...func(*Call)) ([]*Call, error) {
	calls := make([]*Call, n)
	errs := make(chan error, n)
	begin := time.Now()
	for i := range n {
		if d := time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))); d > 0 && !pause(ctx, d) {
			return nil, ctx.Err()
		}
		calls[i] = b.rig.NewCall(Mark{}, answerAtOnce)
		for _, p := range prepare {
			p(calls[i])
		}
		go func() {
			ctx, cancel := context.WithTimeout(ctx, kindStepLimit)
			defer cancel()
			errs <- calls[i].Establish(ctx)
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			return nil, err
		}
	}
	return calls, nil
}

// empty hangs all calls up and counts those that could not be.
func (b *bed) empty(ctx context.Context, calls []*Call, rate int) (failed int) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i, c := range calls {
		if i%max(rate/50, 1) == 0 {
			pause(ctx, 20*time.Millisecond)
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, kindStepLimit)
			defer cancel()
			if c.HangUp(ctx, true) != nil {
				mu.Lock()
				defer mu.Unlock()
				failed++
			}
			c.Close()
		})
	}
	wg.Wait()
	return failed
}

// benchRelay measures the sound of calls between a plain party and one of a kind.
func benchRelay(ctx context.Context, c BenchConfig, kind string) (*RelayResult, error) {
	b, err := newBed(ctx, c, c.RelayCalls, 1, RigConfig{Mux: true, RTP: true})
	if err != nil {
		return nil, err
	}
	defer b.close()
	g, err := newGuards(kind)
	if err != nil {
		return nil, err
	}
	if err := b.sw.plan(ctx, g.plan(b.rig.Dialplan())); err != nil {
		return nil, err
	}
	r := &RelayResult{Kind: kind, Calls: c.RelayCalls}
	calls, err := b.held(ctx, g, r, time.Duration(min(c.HeldSeconds, 16))*time.Second)
	if err != nil {
		return nil, err
	}
	for _, call := range calls {
		call.Talk()
	}
	pause(ctx, 2*time.Second)
	heard := func() (h Hearing) {
		for _, call := range calls {
			h.Add(call.Hearing())
		}
		return h
	}
	h0, own := heard(), ownCPU()
	before, err := b.cpu(ctx)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	pause(ctx, time.Duration(c.Seconds)*time.Second)
	after, err := b.cpu(ctx)
	if err != nil {
		return nil, err
	}
	r.Seconds = time.Since(begin).Seconds()
	r.Packets = heard().Received - h0.Received
	perPacket := 1e6 / float64(max(r.Packets, 1))
	media := after[RoleMedia] - before[RoleMedia]
	r.CPUus, r.CPUusAll = media*perPacket, (total(after)-total(before))*perPacket
	r.RigCPUus, r.MediaCPU = (ownCPU()-own)*perPacket, media/r.Seconds*100
	for _, call := range calls {
		call.SA.Hush()
		call.SB.Hush()
	}
	pause(ctx, 2*drain)
	for begin := time.Now(); heard().Lost > 0 && time.Since(begin) < overdue && pause(ctx, 20*time.Millisecond); {
	}
	h := heard()
	r.Lost, r.Reordered, r.Elsewhere, r.GapMax, r.DelayMax = h.Lost, h.Reordered, h.WrongSource, h.GapMS, h.DelayMS
	_, _ = fmt.Fprintf(c.Progress, "relay, rtp to %s: %.1f us of CPU a packet, %d of %d lost; at rest %.1f KiB a call and %d goroutines in media; %.2f ms of its CPU to set a call up\n",
		kind, r.CPUus, r.Lost, h.Sent, r.KBCall, r.Goroutines, r.SetupCPUms)
	b.empty(ctx, calls, 200)
	return r, nil
}

// held brings the calls up, and says what media took for it, and what it holds when
// they have rested.
func (b *bed) held(ctx context.Context, g *guards, r *RelayResult, rest time.Duration) ([]*Call, error) {
	pause(ctx, rest/2) // a process looks at its heap every 5 s
	idle, err := b.mediaPSS(ctx)
	if err != nil {
		return nil, err
	}
	before, err := b.cpu(ctx)
	if err != nil {
		return nil, err
	}
	calls, err := b.fill(ctx, r.Calls, 100, g.prepare)
	if err == nil {
		err = g.connected(ctx, calls)
	}
	if err != nil {
		return nil, err
	}
	go g.consent(ctx, calls)
	pause(ctx, time.Second) // records are written behind
	after, err := b.cpu(ctx)
	if err != nil {
		return nil, err
	}
	r.SetupCPUms = (after[RoleMedia] - before[RoleMedia]) / float64(r.Calls) * 1000
	pause(ctx, rest)
	now, err := b.mediaPSS(ctx)
	if err != nil {
		return nil, err
	}
	r.KBCall = float64(now-idle) / float64(r.Calls)
	if n, err := b.sum(ctx, "go_goroutines", `role="media"`); err == nil { // not every switch tells
		r.Goroutines = int(n)
	}
	return calls, nil
}

// mediaPSS is the memory of the media process, in KiB.
func (b *bed) mediaPSS(ctx context.Context) (int, error) {
	ps, err := b.sw.Find(ctx, RoleMedia)
	if err != nil {
		return 0, err
	}
	return UsageOf([]int{ps[0].PID}).PSS, nil
}
