package loadtest

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// before waits until every end is about to send the packet of that number.
func (p *couples) before(t *testing.T, number int) {
	t.Helper()
	ctx := patient(t, 30*time.Second)
	for {
		ready := true
		for _, c := range p.all {
			for _, f := range c.far {
				f.mu.Lock()
				ready = ready && len(f.sent) >= number-1
				f.mu.Unlock()
			}
		}
		if ready {
			return
		}
		if !pause(ctx, time.Millisecond) {
			t.Fatal("nobody speaks")
		}
	}
}

// nobody is the longest time of a span in which no far end heard anything.
func (p *couples) nobody(begin, end time.Time) (from, to time.Time) {
	var all []time.Time
	for _, c := range p.all {
		for _, f := range c.far {
			f.mu.Lock()
			for _, h := range f.heard {
				if !h.at.Before(begin) && h.at.Before(end) {
					all = append(all, h.at)
				}
			}
			f.mu.Unlock()
		}
	}
	slices.SortFunc(all, time.Time.Compare)
	for i := 1; i < len(all); i++ {
		if all[i].Sub(all[i-1]) > to.Sub(from) {
			from, to = all[i-1], all[i]
		}
	}
	return from, to
}

// Sequence numbers of all ends wrap, one packet after the other, while the media
// process is replaced: for some exactly in the moment in which nobody is at work.
func TestSequenceNumbersWrapWhileMediaIsInherited(t *testing.T) {
	b, _ := realSwitch(t, 0, nil)
	p := newCouples(t, b, packetTime)
	const at = 150 // the first packet that wraps
	wraps := func(call, end int) int {
		// With each of 20 packets, 400 ms, four wrap, whose ends speak 5 ms apart.
		n := 2*call + end
		return at + n/20*5 + n%5
	}
	for i := range 40 {
		c := p.call(t, []string{legGCM, legCM, legSDES}[i%3], legPlain)
		for j, f := range c.far {
			f.first = -uint16(wraps(i, j))
		}
	}
	p.connected(t)
	p.talk()
	p.before(t, at)
	w := b.watch(t)
	begin := time.Now()
	if err := b.sw.API.Inherit(t.Context(), RoleMedia, ""); err != nil { // at once
		t.Fatal(err)
	}
	end := time.Now()
	pause(t.Context(), 2*time.Second)
	p.hush(t)
	from, to := p.nobody(begin, end)
	exactly := 0
	var all Figures
	for i, c := range p.all {
		for j, f := range c.far {
			all.add(between(f, c.far[1-j], begin, end.Add(time.Second)))
			if s := f.sent[wraps(i, j)]; s.After(from) && s.Before(to) {
				exactly++
			}
		}
	}
	t.Logf("nobody heard anything for %v; in that time %d of %d streams wrapped; %+v", to.Sub(from), exactly, 2*len(p.all), all)
	if all.Lost+all.Doubled != 0 {
		t.Errorf("%+v", all)
	}
	if all.Gap > chainPlanned {
		b.missed(t, w, "%+v", all)
	}
	if exactly == 0 {
		b.missed(t, w, "nobody's numbers wrapped in the moment itself: the test has shown nothing")
	}
	p.verdict(t)
}

// manyLegs is how many legs of a kind TestInheritUnderManyLegs has: SWITCH_LEGS per
// cent of 200 WebRTC, 50 SDES and 250 plain ones. CI takes a tenth.
func manyLegs(t *testing.T) (webrtc, sdes int) {
	t.Helper()
	percent := 10
	if s := os.Getenv("SWITCH_LEGS"); s != "" {
		var err error
		if percent, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	return 200 * percent / 100, 50 * percent / 100
}

// 500 legs at once, 20 packets a second each way, and the media process is replaced
// five times under them, and killed.
func TestInheritUnderManyLegs(t *testing.T) {
	b, _ := realSwitch(t, 0, nil)
	const every = 50 * time.Millisecond
	p := newCouples(t, b, every)
	webrtc, sdes := manyLegs(t)
	for i := range webrtc + sdes {
		kind := [2]string{legPlain, legGCM}
		switch {
		case i >= webrtc:
			kind[1] = legSDES
		case i%4 == 0:
			kind[1] = legCM
		}
		p.call(t, kind[i%2], kind[1-i%2])
	}
	p.connected(t)
	p.talk()
	pause(t.Context(), 3*time.Second)
	cpu := ownCPU()
	measure := func(what string, mayLose bool, happen func()) {
		begin := time.Now()
		happen()
		took := time.Since(begin)
		pause(t.Context(), time.Second) // what waited has come
		end := time.Now()
		pause(t.Context(), time.Second)
		var all Figures
		var gaps, delays samples
		for _, c := range p.all {
			for i, f := range c.far {
				d := between(c.far[1-i], f, begin, end)
				all.add(d)
				gaps.add(d.Gap)
				delays.add(d.Delay)
			}
		}
		g, d := gaps.quantiles(), delays.quantiles()
		t.Logf("| %s | %d ms | %d | %d | %d | %.0f / %.0f / %.0f | %.0f / %.0f / %.0f | %d ms |", what, took.Milliseconds(),
			all.Sent, all.Lost, all.Doubled, g.P50, g.P99, g.Max, d.P50, d.P99, d.Max, all.Own.Milliseconds())
		if all.Doubled != 0 || all.Lost != 0 && !mayLose {
			t.Errorf("%s: %+v", what, all)
		}
	}
	t.Logf("%d legs, a packet each %v", 2*len(p.all), every)
	t.Log("| event | in | sent | lost | doubled | silence p50 / p99 / max, ms | delay p50 / p99 / max, ms | longest of the senders |")
	measure("nothing", false, func() { pause(t.Context(), 500*time.Millisecond) })
	for i := range 5 {
		measure(fmt.Sprintf("inherit media, %d", i+1), false, func() { b.inherit(t, "media") })
	}
	measure("kill -9 of media", true, func() { b.dies(t, RoleMedia) })
	p.stun(t, "at the end")
	p.hush(t)
	t.Logf("the rig itself took %.1f s of CPU", ownCPU()-cpu)
	p.verdict(t)
}
