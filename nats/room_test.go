package nats

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"callswitch/sessions"
)

// TestFullDisk fills the disk, as far as a process of its own can tell: no file may
// grow. What was acknowledged is there afterwards, and writes go on when there is
// room, by a new start of the server.
func TestFullDisk(t *testing.T) {
	if os.Getenv("NATS_TEST_FULL") == "" {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestFullDisk$", "-test.v", "-test.timeout", "2m")
		cmd.Env = append(os.Environ(), "NATS_TEST_FULL=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	ready, ended := make(chan string, 1), make(chan error, 1)
	run := func() {
		ended <- RunServer(ctx, ServerConfig{Dir: dir, Token: secret, Ready: func(u string) { ready <- u }, lookEvery: 50 * time.Millisecond})
	}
	go run()
	c := connect(t, <-ready)
	ensure(t, c, Streams{})
	s := NewStore(c, StoreConfig{Patience: patient})
	rs := putAll(t, s, recs(0, 500))

	limitFiles(t, 4<<10)
	full := rs[0]
	full.N++
	s.rec.patience = 1500 * time.Millisecond
	if _, err := s.Put(within(t), full); !errors.Is(err, sessions.ErrUnavailable) {
		t.Fatalf("Put on a full disk: %v, want ErrUnavailable", err)
	}
	s.rec.patience = patient
	if r, err := s.Get(within(t), rs[1].ID); err != nil || r.Rev != rs[1].Rev {
		t.Errorf("Get on a full disk: revision %d, %v", r.Rev, err)
	}
	select {
	case err := <-ended:
		t.Fatalf("the server has ended while there is no room: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	limitFiles(t, 1<<40)
	if err := <-ended; !errors.Is(err, ErrServer) {
		t.Fatalf("RunServer when there is room again: %v, want ErrServer", err)
	}
	go run()
	<-ready
	eventually(t, "the record is written", func() bool {
		_, err := s.Put(within(t), full)
		if err != nil && !errors.Is(err, sessions.ErrUnavailable) {
			t.Fatalf("Put when there is room again: %v", err)
		}
		return err == nil
	})
	for _, r := range rs[1:] {
		if got, err := s.Get(within(t), r.ID); err != nil || got.Rev != r.Rev {
			t.Fatalf("record %s: revision %d, %v; want %d", r.ID, got.Rev, err, r.Rev)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// limitFiles bounds the size of this process's files: a write beyond it fails.
func limitFiles(t *testing.T, size uint64) {
	t.Helper()
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &lim); err != nil {
		t.Fatal(err)
	}
	lim.Cur = min(size, lim.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &lim); err != nil {
		t.Fatal(err)
	}
}
