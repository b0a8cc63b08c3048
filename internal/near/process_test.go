package near

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"callswitch/sessions"
)

func decode(data []byte) (frame, error) {
	return readFrame(bufio.NewReader(bytes.NewReader(data)), 1<<16)
}

// A process that is stopped: nobody waits longer than for an answer, writers
// not at all; when it wakes, it is near again.
func TestStoppedProcess(t *testing.T) {
	h := newHost(t)
	a := h.process(t, "a")
	c := h.child(t, "child")
	pid := fmt.Sprint(c.Process.Pid)
	request(t, a, "call.child.in", "", pid)
	request(t, a, "call.child.in", "", pid)
	counts(t, a, 1, 1)
	if err := c.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range 2000 { // more than its socket holds
		if err := a.Publish("call.child.in", make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Fatalf("2000 messages to a stopped process took %v", took)
	}
	for range 2 { // the first by the stream, or by none: its socket is full
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := a.Request(ctx, "call.child.in", nil); !errors.Is(err, sessions.ErrTimeout) {
			t.Fatalf("a stopped process: %v", err)
		}
		cancel()
	}
	if err := c.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	near := a.Stats.Near.Load()
	for ctx := within(t); a.Stats.Near.Load() == near; {
		one, cancel := context.WithTimeout(ctx, time.Second)
		_, _ = a.Request(one, "call.child.in", nil)
		cancel()
		if ctx.Err() != nil {
			t.Fatal("it is not near again")
		}
	}
}

// A stopped process with room in its socket: the request times out, the next
// does not go there.
func TestSilentProcess(t *testing.T) {
	h := newHost(t)
	a, w := h.process(t, "a"), h.process(t, "w")
	if _, err := w.Subscribe("call.1.in", "", func(m sessions.Msg) {
		if len(m.Data) > 0 {
			_ = w.Publish(m.Reply, m.Data)
		}
	}); err != nil {
		t.Fatal(err)
	}
	flush(t, w)
	request(t, a, "call.1.in", "x", "x")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := a.Request(ctx, "call.1.in", nil); !errors.Is(err, sessions.ErrTimeout) {
		t.Fatal(err)
	}
	request(t, a, "call.1.in", "x", "x")
	counts(t, a, 0, 2)
}

// A process is killed, and another comes under its name.
func TestKilledProcess(t *testing.T) {
	h := newHost(t)
	a := h.process(t, "a")
	c := h.child(t, "child")
	for range 2 {
		request(t, a, "call.child.in", "", fmt.Sprint(c.Process.Pid))
	}
	counts(t, a, 1, 1)
	_ = c.Process.Kill()
	_ = c.Wait()
	for ctx := within(t); ; { // the far bus's server may need a moment to see it dead
		one, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		_, err := a.Request(one, "call.child.in", nil)
		cancel()
		if errors.Is(err, sessions.ErrNoResponders) {
			break
		}
		if !errors.Is(err, sessions.ErrTimeout) || ctx.Err() != nil {
			t.Fatalf("a dead process: %v", err)
		}
	}
	far := a.Stats.Far.Load()
	if _, err := os.Stat(filepath.Join(h.dir, "child.sock")); err != nil {
		t.Fatal("the dead one's socket should be there still: ", err)
	}
	h.process(t, "another") // sweeps
	if _, err := os.Stat(filepath.Join(h.dir, "child.sock")); err == nil {
		t.Error("the dead one's socket was not swept")
	}
	c = h.child(t, "child")
	a.peers.mu.Lock()
	clear(a.peers.all) // do not wait for the next dial
	a.peers.mu.Unlock()
	for range 2 {
		request(t, a, "call.child.in", "", fmt.Sprint(c.Process.Pid))
	}
	counts(t, a, 2, far+1)
}

// A request waits when its process is killed: one alone is asked for by the far
// bus, at once; of a group the caller hears that it may have been taken.
func TestKilledUnderARequest(t *testing.T) {
	h := newHost(t)
	a, w1, w2 := h.process(t, "a"), h.process(t, "w1"), h.process(t, "w2")
	for _, subject := range []string{"call.1.in", "new.r1"} {
		queue := ""
		if strings.HasPrefix(subject, "new") {
			queue = "workers"
		}
		n, dying := 0, make(chan struct{}, 1)
		if _, err := w1.Subscribe(subject, queue, func(m sessions.Msg) {
			if n++; n == 1 {
				_ = w1.Publish(m.Reply, []byte("w1"))
				return
			}
			if strings.HasPrefix(m.Reply, replyPrefix) {
				dying <- struct{}{}
			}
		}); err != nil {
			t.Fatal(err)
		}
		flush(t, w1)
		request(t, a, subject, "x", "w1")
		go func() {
			<-dying
			if queue == "" {
				serve(t, w2, subject, queue, "w2")
			}
			w1.mu.Lock()
			for s := range w1.served {
				s.link.close()
			}
			w1.mu.Unlock()
		}()
		got, err := a.Request(within(t), subject, nil)
		if queue == "" && (err != nil || string(got) != "w2 ") {
			t.Fatalf("%s: %q, %v", subject, got, err)
		}
		if queue != "" && !errors.Is(err, sessions.ErrTimeout) {
			t.Fatalf("%s: %q, %v", subject, got, err)
		}
		a.peers.mu.Lock()
		clear(a.peers.all)
		a.peers.mu.Unlock()
	}
}
