package media

import (
	"math"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"callswitch/codecore"
	"callswitch/media/codec"
)

func TestEchoIsAStreamOfItsOwn(t *testing.T) {
	cfg := config(&memBus{})
	n := start(t, cfg, nil)
	ports := n.alloc("c1")
	a := newPhone(t, ports[0], 1000)
	leg := talk("a", ports[0], a.addr(), 1)
	leg.Echo = true
	if d := n.do("c1", 1, 1, leg); d.Reason != "" {
		t.Fatalf("order: %+v", d)
	}
	a.send(1)
	first := a.must(1)
	if first.SSRC == a.ssrc {
		t.Error("the echo has the SSRC of who speaks")
	}
	a.ssrc, a.seq, a.ts = 77, 9, 5 // another source, such as music on hold
	for i := 2; i < 6; i++ {
		a.send(i)
		if g := a.must(i); g.SSRC != first.SSRC || g.SequenceNumber != first.SequenceNumber+uint16(i-1) || g.PayloadType != 0 {
			t.Fatalf("packet %d: SSRC %d seq %d after %d %d", i, g.SSRC, g.SequenceNumber, first.SSRC, first.SequenceNumber)
		}
	}
	evil := newPhone(t, ports[0], 3)
	evil.send(9)
	a.silent()
	evil.silent()
}

// heard is how much of a tone of hz there is in samples of 8 kHz, 0 to 1 (Goertzel).
func heard(samples []int16, hz float64) float64 {
	var s1, s2, all float64
	k := 2 * math.Cos(2*math.Pi*hz/8000)
	for _, x := range samples {
		s1, s2 = float64(x)+k*s1-s2, s1
		all += float64(x) * float64(x)
	}
	power := s1*s1 + s2*s2 - k*s1*s2
	return power / (all * float64(len(samples)) / 2)
}

func TestToneSoundsOnOverACrash(t *testing.T) {
	for _, pt := range []byte{0, 8} {
		legs := &memLegs{}
		keep := &memKeeper{}
		t.Cleanup(keep.close)
		cfg := config(&memBus{})
		cfg.Legs, cfg.Keep = legs, keep
		n := start(t, cfg, nil)
		ports := n.alloc("c1")
		a := newPhone(t, ports[0], 1000)
		leg := talk("a", ports[0], a.addr(), 1)
		leg.Tone, leg.Payloads = true, []byte{pt}
		from := time.Now()
		if d := n.do("c1", 1, 1, leg); d.Reason != "" {
			t.Fatalf("order: %+v", d)
		}
		listen := func(frames int) (samples []int16, last got) {
			t.Helper()
			for range frames {
				g, ok := a.recv(20 * time.Second)
				if !ok || len(g.Payload) != 160 || g.PayloadType != pt {
					t.Fatalf("payload type %d: frame of %d, type %d", pt, len(g.Payload), g.PayloadType)
				}
				if last.Payload != nil && (g.SequenceNumber != last.SequenceNumber+1 || g.Timestamp != last.Timestamp+160) {
					t.Fatalf("sequence %d after %d", g.SequenceNumber, last.SequenceNumber)
				}
				for _, b := range g.Payload {
					if pt == 0 {
						samples = append(samples, codec.DecodeMu(b))
					} else {
						samples = append(samples, codec.DecodeA(b))
					}
				}
				last = g
			}
			return samples, last
		}
		sound, last := listen(25)
		if took := time.Since(from); took < 25*toneEvery {
			t.Errorf("half a second of tone took %s", took)
		}
		var every unix.ItimerSpec
		if err := unix.TimerfdGettime(n.loop.clock, &every); err != nil || every.Interval.Nano() != toneEvery {
			t.Errorf("a frame every %d ns, %v", every.Interval.Nano(), err)
		}
		if p := heard(sound, 440); p < 0.98 {
			t.Errorf("440 Hz is %.2f of the sound", p)
		}
		n.await("stored and kept", func() bool { r, _ := legs.count(); return r == 1 && keep.count() == n.Stats().Sockets })
		n.crash()
		dead := n.calls["c1"].legs[0].out.seq // what it said last
		cfg.Boot, cfg.Inherited = "m-2", keep.hand()
		n = start(t, cfg, nil)
		g, ok := last, true
		for ok && g.SequenceNumber != dead {
			g, ok = a.recv(20 * time.Second) // what the kernel had
		}
		for i := 0; ok && int16(g.SequenceNumber-dead) <= 0 && i < 1000; i++ {
			g, ok = a.recv(20 * time.Second) // the heir guesses where the stream was
		}
		if !ok || g.SSRC != last.SSRC || g.SequenceNumber-last.SequenceNumber > 1000 {
			t.Fatalf("after the crash: SSRC %d seq %d, before %d %d", g.SSRC, g.SequenceNumber, last.SSRC, last.SequenceNumber)
		}
		n.do("c1", 1, 2)
		n.await("the end of the tone", func() bool { _, ok := a.recv(60 * time.Millisecond); return !ok })
	}
}

func TestToneNeedsG711(t *testing.T) {
	n := start(t, config(&memBus{}), nil)
	ports := n.alloc("c1")
	leg := talk("a", ports[0], "127.0.0.1:4000", 1)
	leg.Tone, leg.Payloads = true, []byte{111}
	if d := n.do("c1", 1, 1, leg); d.Reason != "tone-codec" || d.Gen != (codecore.Generation{}) {
		t.Errorf("%+v", d)
	}
}
