package nats

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"callswitch/sessions"
)

func TestSamePortAndRecordsAfterRestart(t *testing.T) {
	var log syncBuffer
	dir := t.TempDir()
	url, stop := serve(t, dir, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	c := connect(t, url)
	ensure(t, c, Streams{})
	back := make(chan struct{}, 1)
	c.OnReconnect(func() { back <- struct{}{} })
	s := NewStore(c, StoreConfig{Patience: patient})
	rs := putAll(t, s, recs(0, 500))
	stop()
	short, cancel := context.WithTimeout(within(t), 300*time.Millisecond) // sent before the loss is noticed, it is never answered
	defer cancel()
	if _, err := c.Request(short, "x", nil); !errors.Is(err, sessions.ErrBusAway) && !errors.Is(err, sessions.ErrTimeout) {
		t.Errorf("Request without a server: %v, want ErrBusAway", err)
	}
	// Saves of live calls go on while the server is away, and succeed.
	var wg sync.WaitGroup
	results := make([]sessions.PutResult, len(rs))
	wg.Go(func() { results = s.PutAll(within(t), rs) })
	again, _ := serve(t, dir, nil)
	if again != url {
		t.Errorf("restarted on %s, was on %s: clients would not find it", again, url)
	}
	wg.Wait()
	for i, r := range results {
		if r.Err != nil {
			t.Fatalf("record %d across the restart: %v", i, r.Err)
		}
		if got, err := s.Get(within(t), rs[i].ID); err != nil || got.Rev != r.Rev {
			t.Fatalf("record %d: revision %d, %v; want %d", i, got.Rev, err, r.Rev)
		}
	}
	select {
	case <-back:
	case <-time.After(patient):
		t.Error("OnReconnect was not called")
	}
	if strings.Contains(log.String(), secret) {
		t.Error("the log has the secret")
	}
}

func TestWrongTokenIsRefused(t *testing.T) {
	url, _ := serve(t, t.TempDir(), nil)
	for wait := time.Second; ; wait *= 4 { // the first may be too short on a busy machine
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		c, err := Connect(ctx, Config{URL: url, Token: "guessed"})
		cancel()
		if c != nil {
			c.Close()
		}
		if errors.Is(err, ErrNoServer) && strings.Contains(err.Error(), "uthoriz") {
			return
		}
		if err == nil || wait > patient {
			t.Fatalf("Connect with a wrong token: %v, want ErrNoServer with its reason", err)
		}
	}
}

func TestSecondServerInDirIsRefused(t *testing.T) {
	dir := t.TempDir()
	serve(t, dir, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := RunServer(ctx, ServerConfig{Dir: dir}); !errors.Is(err, ErrServer) {
		t.Fatalf("second server in one directory: %v, want ErrServer", err)
	}
}

// syncBuffer is written by the server's goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
