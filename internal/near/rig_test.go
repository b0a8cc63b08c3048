package near

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"callswitch/nats"
	"callswitch/sessions"
)

func TestMain(m *testing.M) {
	if os.Getenv("NEAR_TEST_CHILD") != "" {
		childMain()
		return
	}
	goleak.VerifyTestMain(m)
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A host is a server and a directory of sockets.
type host struct {
	url, dir string
	stop     func()
}

func newHost(t testing.TB) *host {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan string, 1), make(chan error, 1)
	dir := t.TempDir()
	go func() {
		ended <- nats.RunServer(ctx, nats.ServerConfig{Dir: dir, Token: "t", Ready: func(u string) { ready <- u }})
	}()
	h := &host{dir: dir + "/near"}
	h.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	t.Cleanup(h.stop)
	select {
	case h.url = <-ready:
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}
	return h
}

func kindOf(subject string) Kind {
	switch {
	case strings.HasPrefix(subject, "call."), strings.HasSuffix(subject, ".do"), subject == "deaf":
		return One
	case strings.HasPrefix(subject, "new."):
		return Group
	}
	return Far
}

func (h *host) connect(t testing.TB) *nats.Conn {
	t.Helper()
	c, err := nats.Connect(within(t), nats.Config{URL: h.url, Token: "t", Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (h *host) process(t testing.TB, name string) *Bus {
	t.Helper()
	// Tests count whom a dial has reached: it may take long.
	b, err := New(Config{Far: h.connect(t), Dir: h.dir, Name: name, Kind: kindOf, DialWait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// serve answers with name and the request.
func serve(t testing.TB, b sessions.Bus, subject, queue, name string) sessions.Subscription {
	t.Helper()
	s, err := b.Subscribe(subject, queue, func(m sessions.Msg) { _ = b.Publish(m.Reply, []byte(name+" "+string(m.Data))) })
	if err != nil {
		t.Fatal(err)
	}
	flush(t, b)
	return s
}

func flush(t testing.TB, b sessions.Bus) {
	t.Helper()
	if err := b.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
}

func request(t testing.TB, b sessions.Bus, subject, data, want string) {
	t.Helper()
	got, err := b.Request(within(t), subject, []byte(data))
	if err != nil || string(got) != want {
		t.Fatalf("Request %s = %q, %v; want %q", subject, got, err, want)
	}
}

// forgotten waits until b holds no request that nobody waits for.
func forgotten(t testing.TB, b *Bus) {
	t.Helper()
	for ctx := within(t); ; time.Sleep(time.Millisecond) {
		b.mu.Lock()
		n := len(b.open)
		b.mu.Unlock()
		if n == 0 {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%d requests are kept that nobody waits for", n)
		}
	}
}

// counts checks how many requests took which way.
func counts(t testing.TB, b *Bus, near, far uint64) {
	t.Helper()
	if n, f := b.Stats.Near.Load(), b.Stats.Far.Load(); n != near || f != far {
		t.Fatalf("%d near and %d far, want %d and %d", n, f, near, far)
	}
}

// A child process serves "call.child.in" and answers with its pid.
func (h *host) child(t testing.TB, name string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "NEAR_TEST_CHILD="+name, "NEAR_TEST_URL="+h.url, "NEAR_TEST_DIR="+h.dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := fmt.Fscanln(out); err != nil {
		t.Fatal("child not ready: ", err)
	}
	return cmd
}

func childMain() {
	ctx := context.Background()
	c, err := nats.Connect(ctx, nats.Config{URL: os.Getenv("NEAR_TEST_URL"), Token: "t", Name: "child"})
	if err != nil {
		panic(err)
	}
	b, err := New(Config{Far: c, Dir: os.Getenv("NEAR_TEST_DIR"), Name: os.Getenv("NEAR_TEST_CHILD"), Kind: kindOf, DialWait: time.Minute})
	if err != nil {
		panic(err)
	}
	if _, err := b.Subscribe("call.child.in", "", func(m sessions.Msg) { _ = b.Publish(m.Reply, fmt.Append(nil, os.Getpid())) }); err != nil {
		panic(err)
	}
	if err := b.Flush(ctx); err != nil {
		panic(err)
	}
	fmt.Println()
	select {}
}
