package loadtest

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

// deafPeer accepts, and tells of each connection when its first byte has come.
// It answers nothing and reads no more.
func deafPeer(t *testing.T) (netip.AddrPort, <-chan struct{}) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	heard, over := make(chan struct{}, 1), make(chan struct{})
	t.Cleanup(func() {
		_ = ln.Close()
		<-over
	})
	go func() {
		defer close(over)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer func() { _ = c.Close() }()
			if _, err := c.Read(make([]byte, 1)); err == nil {
				heard <- struct{}{}
			}
		}
	}()
	return addrOf(ln.Addr()), heard
}

// A switch that hangs makes a run fail, and does not hold it up.
func TestPeerThatHangs(t *testing.T) {
	local := netip.MustParseAddrPort("127.0.0.1:0")
	secure := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // nobody is there
	within := func(t *testing.T, what string, fn func() error) error {
		t.Helper()
		done := make(chan error, 1)
		go func() { done <- fn() }()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			t.Fatalf("%s waits for it", what)
			return nil
		}
	}
	t.Run("closed", func(t *testing.T) {
		to, heard := deafPeer(t)
		tr, err := newTCP(local, to, secure)
		if err != nil {
			t.Fatal(err)
		}
		tr.limit = time.Hour
		go tr.serve(func([]byte, func([]byte) error) {})
		sent := make(chan error, 1)
		go func() { sent <- tr.send([]byte("x")) }()
		<-heard // it is in the handshake
		if err := within(t, "close", tr.close); err != nil {
			t.Error(err)
		}
		if err := within(t, "send", func() error { return <-sent }); err == nil {
			t.Error("sent to nobody")
		}
	})
	for name, c := range map[string]*tls.Config{"handshake": secure, "message": nil} {
		t.Run(name, func(t *testing.T) {
			to, _ := deafPeer(t)
			tr, err := newTCP(local, to, c)
			if err != nil {
				t.Fatal(err)
			}
			tr.limit = 50 * time.Millisecond
			go tr.serve(func([]byte, func([]byte) error) {})
			var late net.Error
			if err := within(t, "send", func() error { return tr.send(make([]byte, 64<<20)) }); !errors.As(err, &late) || !late.Timeout() {
				t.Error(err)
			}
			if err := within(t, "close", tr.close); err != nil {
				t.Error(err)
			}
		})
	}
}
