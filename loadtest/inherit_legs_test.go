package loadtest

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// A stream of the wrapping kind comes round once in so many packets: four numbers
// go on by one, with the wrap in their middle, the others by what a network may lose
// without the stream being another (MAX_DROPOUT of RFC 3550 A.1 is 3,000).
const (
	turnPackets = 28
	turnWraps   = 2 // the packet of a turn whose number is 0
)

// turning is such a stream's numbers, if packet n is the late-th of its turn.
func turning(n, late uint32) uint16 {
	const single = 4
	k := (n + late) % turnPackets
	if k <= single {
		return uint16(k) - turnWraps
	}
	return single - turnWraps + uint16((k-single)*(1<<16-single)/(turnPackets-single))
}

// turnEnds ends speak in order, 20 each packetTime, and turnOf spreads their wraps: how
// late in its turn the first packet of an end is, so that one of them wraps each 7 ms.
const turnEnds = 80

func turnOf(end uint32) (late uint32) {
	nth := 3*end%20 + end/20*20
	return turnPackets - 7*nth/20%turnPackets
}

func TestTurningNumbersWrap(t *testing.T) {
	wraps := 0
	for n := range uint32(10 * turnPackets) {
		a, b := turning(n, 5), turning(n+1, 5)
		if step := b - a; step == 0 || step > 3000 {
			t.Errorf("from %d to %d", a, b)
		}
		if b < a {
			wraps++
			if a != 65535 || b != 0 || (n+1+5)%turnPackets != turnWraps {
				t.Errorf("from %d to %d at packet %d", a, b, n+1)
			}
		}
	}
	if wraps != 10 {
		t.Errorf("%d wraps in ten turns", wraps)
	}
	var at []uint32 // ms, of all wraps in three turns
	for end := range uint32(turnEnds) {
		for n := range uint32(3 * turnPackets) {
			if turning(n, turnOf(end)) == 0 {
				at = append(at, 20*n+end%20)
			}
		}
	}
	slices.Sort(at)
	if len(at) != 3*turnEnds {
		t.Errorf("%d wraps of %d ends in three turns", len(at), turnEnds)
	}
	for i := 1; i < len(at); i++ {
		if at[i]-at[i-1] != 7 {
			t.Errorf("none wraps between %d and %d ms", at[i-1], at[i])
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

// Sequence numbers wrap all the time, at some end every 7 ms, while the media process
// is replaced: and so, however long the heir takes to start, for some exactly in the
// moment in which nobody is at work.
func TestSequenceNumbersWrapWhileMediaIsInherited(t *testing.T) {
	b, _ := realSwitch(t, 0, nil)
	p := newCouples(t, b, packetTime)
	for i := range turnEnds / 2 {
		c := p.call(t, []string{legGCM, legCM, legSDES}[i%3], legPlain)
		for j, f := range c.far {
			late := turnOf(uint32(2*i + j))
			f.first, f.turn = 0, func(n uint32) uint16 { return turning(n, late) }
		}
	}
	p.connected(t)
	p.talk()
	pause(t.Context(), time.Second) // until the ways are known
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
	for _, c := range p.all {
		for j, f := range c.far {
			all.add(between(f, c.far[1-j], begin, end.Add(time.Second)))
			for n, s := range f.sent {
				if s.After(from) && s.Before(to) && f.seq(uint32(n)) == 0 {
					exactly++
				}
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
		for limit := patient(t, 10*time.Second); !mayLose && p.lost(begin, end) > 0 && pause(limit, 100*time.Millisecond); {
		} // a reader may be held up
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
