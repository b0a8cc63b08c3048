package loadtest

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// lossy drops every third message that a UA sends and doubles every fourth.
type lossy struct {
	transport
	n atomic.Int64
}

func (l *lossy) send(b []byte) error {
	switch n := l.n.Add(1); {
	case n%3 == 0:
		return nil
	case n%4 == 0:
		_ = l.transport.send(b)
	}
	return l.transport.send(b)
}

func twoUAs(t *testing.T, tcp bool, accept func(*Leg)) (a, b *UA) {
	t.Helper()
	ip := netip.MustParseAddrPort("127.0.0.1:0")
	b, err := NewUA(UAConfig{Local: ip, TCP: tcp, Accept: accept})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	a, err = NewUA(UAConfig{Local: ip, TCP: tcp, Switch: b.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a, b
}

func invite(t *testing.T, u *UA) *Leg {
	t.Helper()
	l, err := Invite(u, "1", "7", func(l *Leg) { l.SetSound(netip.MustParseAddrPort("127.0.0.1:9"), false) })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A whole call with hold, resume, INFO and BYE, over UDP, over TCP, and over
// UDP that loses and doubles messages: retransmissions, and no violation.
func TestCall(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ tcp, lossy bool }{"udp": {}, "tcp": {tcp: true}, "lossy": {lossy: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			legs := make(chan *Leg, 1)
			a, _ := twoUAs(t, c.tcp, func(l *Leg) {
				l.SetSound(netip.MustParseAddrPort("127.0.0.1:11"), false)
				l.Ring()
				l.Answer()
				legs <- l
			})
			if c.lossy {
				a.tr = &lossy{transport: a.tr}
			}
			l := invite(t, a)
			if code, err := l.Final(ctx); err != nil || code != 200 {
				t.Fatal(code, err)
			}
			other := <-legs
			if err := await(ctx, other.Accepted, "ACK"); err != nil {
				t.Fatal(err)
			}
			for _, d := range []string{sendOnly, sendRecv} {
				if err := l.Reinvite(ctx, d); err != nil || other.Direction() != d {
					t.Fatal(d, other.Direction(), err)
				}
			}
			if err := l.Info(ctx, "5"); err != nil || other.Infos() != 1 {
				t.Fatal(other.Infos(), err)
			}
			if err := l.Bye(ctx); err != nil {
				t.Fatal(err)
			}
			if err := await(ctx, other.HungUp, "BYE"); err != nil {
				t.Fatal(err)
			}
			for _, leg := range []*Leg{l, other} {
				v, n := leg.Violations()
				if len(v) > 0 || c.lossy && n == 0 && leg == other {
					t.Errorf("violations %q, %d retransmissions", v, n)
				}
			}
		})
	}
}

func TestCancelAndBusy(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{"cancel": 487, "busy": 486} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			a, _ := twoUAs(t, false, func(l *Leg) {
				l.Ring()
				if want == 486 {
					l.Reject(486)
				}
			})
			l := invite(t, a)
			if err := await(ctx, l.Ringing, "180"); err != nil {
				t.Fatal(err)
			}
			if want == 487 {
				if err := l.Cancel(ctx); err != nil {
					t.Fatal(err)
				}
			}
			if code, err := l.Final(ctx); err != nil || code != want {
				t.Error(code, err)
			}
		})
	}
}
