package loadtest

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// Who begins to talk knocks until it is heard, and from there on every packet counts;
// who is not heard talks anyway, and all of it is lost.
func TestWhoBeginsToTalkKnocks(t *testing.T) {
	t.Parallel()
	s, err := NewSound()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ip := netip.MustParseAddr("127.0.0.1")
	a, err := s.Open(ip, 9, 'a')
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Open(ip, 9, 'b')
	if err != nil {
		t.Fatal(err)
	}
	a.peer, b.peer = b, a
	relay, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
	if err != nil {
		t.Fatal(err)
	}
	var shut atomic.Int64 // packets that do not pass
	over := make(chan struct{})
	go func() {
		defer close(over)
		for buf := make([]byte, 2048); ; {
			n, err := relay.Read(buf)
			if err != nil {
				return
			}
			if shut.Add(-1) < 0 {
				_, _ = relay.WriteToUDPAddrPort(buf[:n], b.Addr())
			}
		}
	}()
	defer func() { _ = relay.Close(); <-over }()
	a.SetRemote(addrOf(relay.LocalAddr()))
	b.SetRemote(addrOf(relay.LocalAddr()))
	c := &Call{SA: a, SB: b}
	reach := func() {
		t.Helper()
		c.Reach(patient(t, time.Minute))
		if a.Sent() > 0 && a.knocks.Load() > 0 {
			t.Error("it still knocks")
		}
	}
	says := func(n uint32) {
		t.Helper()
		for ctx, was := patient(t, time.Minute), a.Sent(); a.Sent() < was+n; {
			if !pause(ctx, time.Millisecond) {
				t.Fatal("nothing is said")
			}
		}
		a.Hush()
	}
	all := func() (h Hearing) {
		t.Helper()
		for ctx := patient(t, 20*time.Second); ; {
			if h = b.Heard(a.Sent()); h.Lost == 0 || !pause(ctx, 5*time.Millisecond) {
				return h
			}
		}
	}
	for _, closed := range []int64{7, 3, 0} {
		shut.Store(closed)
		a.Talk()
		reach()
		says(10)
		if h := all(); h.Lost+h.Broken+h.Foreign+h.Duplicated+h.Reordered+h.WrongSource != 0 {
			t.Errorf("%d packets did not pass before it was heard: %+v", closed, h)
		}
	}
	shut.Store(1 << 40)
	before := int(a.Sent())
	a.Talk()
	a.knocks.Store(3)
	reach()
	says(10)
	if h := b.Heard(a.Sent()); h.Sent < before+10 || h.Lost != h.Sent-before {
		t.Errorf("%d packets went nowhere: %+v", h.Sent-before, h)
	}
}
