package media

import (
	"testing"
	"time"
)

// A phone behind a NAT holds as RFC 2543 says, by 0.0.0.0, and comes back to the address
// that nothing can be sent to: it is where it was. So also in who goes on meanwhile.
func TestHoldByNoAddressBehindANAT(t *testing.T) {
	for _, how := range []string{"here", "in an heir", "after kill -9"} {
		t.Run(how, func(t *testing.T) {
			cfg, _, keep := keptConfig(t)
			n := start(t, cfg, nil)
			ports := n.alloc("c1")
			a, b := newPhone(t, ports[0], 1000), newPhone(t, ports[1], 2000)
			const inside = "127.0.0.9:4000"
			n.do("c1", 1, 1, talk("a", ports[0], inside, 1), talk("b", ports[1], b.addr(), 1))
			for i := range wanted {
				a.send(i)
			}
			for i := range wanted {
				b.must(i)
			}
			hold := talk("a", ports[0], "", 2)
			hold.Send = false
			n.do("c1", 1, 2, hold, talk("b", ports[1], b.addr(), 2))
			a.send(10) // music
			b.must(10)
			switch how {
			case "in an heir":
				n = n.yieldTo(t, cfg, keep, "m-2")
			case "after kill -9":
				n.await("in step, and kept", func() bool { return n.inStep() && keep.count() == n.Stats().Sockets })
				n.crash()
				cfg.Boot, cfg.Inherited = "m-2", keep.hand()
				n = start(t, cfg, nil)
			}
			n.do("c1", 1, 3, talk("a", ports[0], inside, 3), talk("b", ports[1], b.addr(), 3))
			b.send(20)
			a.must(20)
			a.send(21)
			b.must(21)
		})
	}
}

// Who sends on from where it was while its SDP says another address, at which nobody is,
// is the party behind its NAT; what was on its way when it moved makes it none.
func TestSourceThatNeverStopped(t *testing.T) {
	at := func(text string) sockaddr {
		s, ok := parseSockaddr(text, false)
		if !ok {
			t.Fatal(text)
		}
		return s
	}
	const frame, window = int64(20 * time.Millisecond), int64(3 * time.Second)
	for name, c := range map[string]struct {
		packets int // after the new SDP
		stays   bool
	}{"it goes on": {200, true}, "it was on its way": {5, false}} {
		var l latch
		from := at("192.0.2.1:4000")
		now, seq := int64(1), uint16(0)
		l.remote(at("10.0.0.1:4000"), true, now, window)
		for range 2 * window / frame {
			now, seq = now+frame, seq+1
			l.admit(&from, 7, seq, now)
		}
		if *l.dest() != from {
			t.Fatalf("%s: not learned", name)
		}
		l.remote(at("10.0.0.1:4002"), true, now, window)
		for range c.packets {
			now, seq = now+frame, seq+1
			if v, _ := l.admit(&from, 7, seq, now); v != pass {
				t.Fatalf("%s: the source of before is not heard", name)
			}
		}
		v, _ := l.admit(&from, 7, seq+200, now+2*window)
		if stays := v == pass && *l.dest() == from; stays != c.stays {
			t.Errorf("%s: verdict %d, we send to %s", name, v, l.dest())
		}
	}
}
