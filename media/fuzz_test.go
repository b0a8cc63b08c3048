package media

import (
	"log/slog"
	"testing"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"

	"callswitch/codecore"
)

// bridged builds two bridged legs without sockets of their own: what is sent
// fails, what is read is given.
func bridged(t testing.TB) (l *loop, a *leg, from sockaddr) {
	l, err := newLoop(slog.New(slog.DiscardHandler), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	c := &call{id: "c"}
	legs := [2]*leg{}
	for i, id := range []codecore.LegID{"a", "b"} {
		g := &leg{id: id, call: c, rtp: &port{fd: -1}, rtcp: &port{fd: -1, rtcp: true}}
		g.rtp.leg, g.rtcp.leg = g, g
		g.program(codecore.MediaLeg{
			Leg: id, Remote: "127.0.0.1:4000", Learn: 1, Send: true, Recv: true,
			Map: map[byte]byte{8: 0},
		}, false, 1, 1e9)
		c.legs, legs[i] = append(c.legs, g), g
	}
	legs[0].peer, legs[1].peer = legs[1], legs[0]
	from, _ = parseSockaddr("127.0.0.1:4000", false)
	return l, legs[0], from
}

// FuzzPacket gives the relay what a network may bring: it must not panic, must
// not write past what it was given, and must not make a valid packet invalid.
func FuzzPacket(f *testing.F) {
	b, _ := (&rtp.Packet{Header: rtp.Header{
		Version: 2, Extension: true, ExtensionProfile: 0xbede, CSRC: []uint32{1, 2},
		Extensions: []rtp.Extension{},
	}, Payload: []byte("sound")}).Marshal()
	f.Add(b, false, uint32(1), uint16(2))
	sr, _ := rtcp.Marshal([]rtcp.Packet{
		&rtcp.SenderReport{SSRC: 1, Reports: []rtcp.ReceptionReport{{SSRC: 2}}},
		&rtcp.SourceDescription{Chunks: []rtcp.SourceDescriptionChunk{{Source: 1, Items: []rtcp.SourceDescriptionItem{{Type: rtcp.SDESCNAME, Text: "x@y"}}}}},
		&rtcp.Goodbye{Sources: []uint32{1}},
	})
	f.Add(sr, true, uint32(1), uint16(2))
	f.Add(sr[:12], true, uint32(1), uint16(2))
	f.Add([]byte{}, false, uint32(0), uint16(0))
	f.Add([]byte{0x80}, false, uint32(0), uint16(0))
	f.Add([]byte{0xbf, 200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, true, uint32(0), uint16(0))
	l, a, from := bridged(f)
	now := int64(1)
	f.Fuzz(func(t *testing.T, b []byte, control bool, ssrc uint32, off uint16) {
		now += 20e6
		s := &a.peer.out
		s.started, s.shifted, s.in, s.out, s.seqOff = true, true, ssrc, 7, off
		a.out = stream{started: true, shifted: true, in: 3, out: ssrc, seqOff: off}
		p := a.rtp
		if control {
			p = a.rtcp
			a.rtcpTo, a.rtcpSure = from, true
			a.peer.rtcpTo = from
		}
		var before rtp.Packet
		wasRTP := !control && before.Unmarshal(append([]byte(nil), b...)) == nil && validRTP(b)
		room := append(append([]byte(nil), b...), 0xaa, 0xbb)
		l.packet(p, room[:len(b):len(b)], &from, now)
		if room[len(b)] != 0xaa || room[len(b)+1] != 0xbb {
			t.Fatal("wrote past the packet")
		}
		if wasRTP {
			var after rtp.Packet
			if err := after.Unmarshal(room[:len(b)]); err != nil {
				t.Fatalf("a valid packet became invalid: %v", err)
			}
		}
	})
}

func TestRelayPathAllocatesNothing(t *testing.T) {
	l, a, from := bridged(t)
	b, _ := (&rtp.Packet{Header: rtp.Header{Version: 2, SSRC: 9}, Payload: make([]byte, 160)}).Marshal()
	seq := byte(0)
	l.packet(a.rtp, b, &from, 1)
	if n := testing.AllocsPerRun(1000, func() {
		seq++
		b[3] = seq
		l.packet(a.rtp, b, &from, int64(seq))
	}); n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
	if l.total.dropped[dropSend] < 1000 {
		t.Errorf("the packets did not reach the end of the path: %v", l.total.dropped)
	}
}
