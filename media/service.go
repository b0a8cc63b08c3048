package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"golang.org/x/sys/unix"

	"callswitch/codecore"
	"callswitch/media/codec"
)

// Services of the media plane: an echo, which needs nothing but the relay, and a
// tone, which needs a clock. Neither has a goroutine.

const reasonTone = "tone-codec" // refusal: a tone in a coding that is not G.711

var errTone = errors.New("media: a tone is G.711 only")

// A tone of 440 Hz repeats after 200 samples of 8 kHz, which are 11 of its periods.
const (
	tonePeriod = 200
	toneFrame  = 160 // samples of 20 ms
	toneEvery  = 20e6
	toneBehind = 5 // frames that are made up for when the relay was late
)

// toneSound is by payload type, 0 and 8: a period, and room to read a frame anywhere.
var toneSound = func() (sound [2][tonePeriod + toneFrame]byte) {
	for i := range sound[0] {
		s := int16(8000 * math.Sin(2*math.Pi*440*float64(i%tonePeriod)/8000))
		sound[0][i], sound[1][i] = codec.EncodeMu(s), codec.EncodeA(s)
	}
	return sound
}()

// tone is a player.
type tone struct {
	pt  byte
	pos uint32 // samples played
}

// checkService says whether a leg's service can be given.
func checkService(w codecore.MediaLeg) error {
	if w.Tone && (len(w.Payloads) == 0 || w.Payloads[0] != 0 && w.Payloads[0] != 8 || w.Opaque) {
		return fmt.Errorf("%w: payload types %d", errTone, w.Payloads)
	}
	return nil
}

// serve starts or ends the services of a leg. loop.mu is held.
func (l *loop) serve(g *leg, w codecore.MediaLeg) error {
	g.echo = w.Echo
	if !w.Tone {
		l.silence(g)
		return nil
	}
	if g.tone != nil {
		g.tone.pt = w.Payloads[0]
		return nil
	}
	g.tone = &tone{pt: w.Payloads[0]}
	l.tones = append(l.tones, g)
	return l.setClock()
}

func (l *loop) silence(g *leg) {
	if g.tone == nil {
		return
	}
	g.tone = nil
	l.tones = slices.DeleteFunc(l.tones, func(o *leg) bool { return o == g })
	_ = l.setClock()
}

// setClock has the relay woken every 20 ms while somebody is to hear a tone.
func (l *loop) setClock() (err error) {
	if l.clock < 0 {
		if l.clock, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
			return fmt.Errorf("media: clock: %w", err)
		}
		if err = l.watch(l.clock); err != nil {
			return err
		}
	}
	var every unix.ItimerSpec
	on := len(l.tones) > 0
	if on == l.ticking {
		return nil
	}
	if on {
		every.Interval = unix.NsecToTimespec(toneEvery)
		every.Value = every.Interval
	}
	l.ticking = on
	return unix.TimerfdSettime(l.clock, 0, &every, nil)
}

// tick plays what is due to everybody.
func (l *loop) tick(now int64) {
	var b [8]byte
	if n, err := unix.Read(l.clock, b[:]); n != 8 || err != nil {
		return
	}
	for range min(binary.NativeEndian.Uint64(b[:]), toneBehind) {
		for _, g := range l.tones {
			l.play(g, now)
		}
	}
}

// play sends one frame of a leg's tone.
func (l *loop) play(g *leg, now int64) {
	if !g.send || g.latch.dest().isZero() || g.sec != nil && g.sec.tx == nil {
		return
	}
	s := &g.out
	first := !s.started
	if first {
		s.own(g.call.id, g.id, 0, 0)
	}
	s.seq++
	s.ts += toneFrame
	s.at = now
	b := l.buf[:12+toneFrame]
	b[0], b[1] = 0x80, g.tone.pt
	if first {
		b[1] |= 0x80 // a talkspurt begins (RFC 3551 section 4.1)
	}
	binary.BigEndian.PutUint16(b[2:], s.seq)
	binary.BigEndian.PutUint32(b[4:], s.ts)
	binary.BigEndian.PutUint32(b[8:], s.out)
	from := g.tone.pos % tonePeriod
	copy(b[12:], toneSound[g.tone.pt/8][from:from+toneFrame])
	g.tone.pos += toneFrame
	l.transmit(g, b)
}

// own begins a stream of ours: its SSRC, and where its numbers begin, are other
// than the party's (RFC 3550 section 8.2) and the same for each process.
func (s *stream) own(call codecore.CallID, leg codecore.LegID, seq uint16, ts uint32) {
	a, b := hash2("stream", string(call), string(leg))
	*s = stream{
		out: uint32(a >> 32), seqOff: uint16(b), tsOff: uint32(b >> 32), started: true, shifted: true,
		seq: seq + uint16(b) - 1, ts: ts + uint32(b>>32),
	}
}
