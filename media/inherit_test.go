package media

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/webrtc/v4"
)

// yield freezes a node and hands over to an heir; the node is gone when the heir
// is made, as a process is that ends without closing anything.
func (n *node) yieldTo(t *testing.T, cfg Config, keep *memKeeper, boot string) *node {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	state, err := n.Freeze(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return n.succeededBy(t, cfg, keep, boot, state)
}

// succeededBy hands over what a frozen node has said.
func (n *node) succeededBy(t *testing.T, cfg Config, keep *memKeeper, boot string, state []byte) *node {
	t.Helper()
	frozen := time.Now()
	cfg.Boot, cfg.Inherited, cfg.Handed = boot, keep.hand(), state
	heir, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.loop.stopped = true
	n.sever()
	n.keep.to = nil // what it drops on its way out is not its own any more
	n.loop.mu.Unlock()
	n.mu.Unlock()
	n.stop()
	t.Logf("handed over %d bytes in %s", len(state), time.Since(frozen))
	return run(t, heir, cfg, nil)
}

func TestHeirGoesOn(t *testing.T) {
	for name, profile := range map[string]dtls.SRTPProtectionProfile{"gcm": dtls.SRTP_AEAD_AES_128_GCM, "cm": dtls.SRTP_AES128_CM_HMAC_SHA1_80} {
		t.Run(name, func(t *testing.T) {
			cfg, key, keep := keptConfig(t)
			n := start(t, cfg, nil)
			ports, plainA, plainB := n.pairOfPhones("c1")
			_, browser, phone, _ := n.dialled("c2", key, false, profile)
			phone.seq = 65500 // wraps soon; a jump is believed at the second packet
			phone.send(1)
			waiting := n.alloc("c3")
			sent := make(chan int, 1)
			var heard atomic.Int64
			stop := make(chan struct{})
			defer func() {
				if stop != nil {
					close(stop)
					<-sent
				}
			}()
			go func(stop <-chan struct{}) {
				for i := 2; ; i++ {
					select {
					case <-stop:
						sent <- i
						return
					case <-time.After(3 * time.Millisecond):
					}
					if i > int(heard.Load())+unheard {
						i--
						continue
					}
					plainA.send(i)
					plainB.send(i)
					browser.send(i)
					phone.send(i)
				}
			}(stop)
			i := 2
			hear := func(until int) {
				t.Helper()
				for ; i < until; i++ {
					plainB.must(i)
					plainA.must(i)
					phone.must(i)
					browser.must(i)
					heard.Store(int64(i))
				}
			}
			for generation := range 3 {
				hear(20 * (generation + 1))
				n = n.yieldTo(t, cfg, keep, "m-"+string(rune('2'+generation)))
			}
			hear(100)
			close(stop)
			stop = nil
			hear(<-sent)
			if !browser.state(webrtc.PeerConnectionStateConnected) {
				t.Error("the browser is not connected")
			}
			s := n.Stats()
			if s.Handshakes != 0 || s.Calls != 3 || s.PairsUsed != 6 {
				t.Errorf("stats %+v", s)
			}
			for reason, dropped := range s.Dropped {
				if dropped != 0 && reason != "straggler" {
					t.Errorf("%d dropped: %s", dropped, reason)
				}
			}
			if q := n.quality("c1", "a"); q.PacketsIn != uint64(i-1) || q.Lost != 0 {
				t.Errorf("%d packets of %d, %d lost", q.PacketsIn, i-1, q.Lost)
			}
			// Who is not the party is a stranger as before, and what was known is known.
			evil := newPhone(t, ports[0], 3)
			evil.send(1)
			plainB.silent()
			if again := n.alloc("c3"); again != waiting {
				t.Errorf("the call that was only allocated has %v, not %v", again, waiting)
			}
			n.do("c1", 1, 2)
			n.do("c2", 1, 2)
			n.await("no record left", func() bool { r, _ := cfg.Legs.(*memLegs).count(); return r == 0 })
		})
	}
}

func TestThawedGoesOn(t *testing.T) {
	keep := &memKeeper{}
	t.Cleanup(keep.close)
	cfg, key := secureConfig(t)
	cfg.Keep = keep
	n := start(t, cfg, nil)
	_, browser, phone, _ := n.dialled("c1", key, false, dtls.SRTP_AEAD_AES_128_GCM)
	for i := 2; i < 6; i++ {
		state, err := n.Freeze(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		browser.send(i)
		phone.send(i)
		phone.silent()
		heir := cfg
		heir.Boot, heir.Inherited, heir.Handed = "m-2", keep.hand(), []byte(strings.Replace(string(state), `"v":1`, `"v":99`, 1))
		if _, err := New(heir); !errors.Is(err, errHanded) {
			t.Errorf("another version: %v", err)
		}
		n.Thaw()
		phone.must(i)
		browser.must(i)
	}
}

// Who has a port is known to an heir: the others need not wait for anybody to say so.
func TestHeirGivesPortsOutSoon(t *testing.T) {
	cfg, _, keep := keptConfig(t)
	n := start(t, cfg, nil)
	n.pairOfPhones("c1")
	state, err := n.Freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Thaw()
	cfg.Boot, cfg.Inherited, cfg.Handed = "m-2", keep.hand(), state
	heir, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer bury(heir)
	soon := time.Now().Add(cfg.RestPorts)
	for _, p := range heir.pool.resting {
		if p.until.After(soon) {
			t.Errorf("port %d rests for %s", p.p.rtp.num, time.Until(p.until))
		}
	}
}
