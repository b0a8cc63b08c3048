package sessionstest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"callswitch/sessions"
)

// Bus runs the conformance suite of sessions.Bus; open returns a bus of its own
// and cleans up by t.Cleanup.
func Bus(t *testing.T, open func(t *testing.T) sessions.Bus) {
	for name, test := range map[string]func(*testing.T, sessions.Bus){
		"request and answer":    requestAnswer,
		"nobody listens":        nobodyListens,
		"no answer in time":     noAnswer,
		"queue group takes one": queueGroup,
		"plain subscribers":     plainSubscribers,
		"wildcard":              wildcard,
		"mailbox":               mailbox,
		"unsubscribe":           unsubscribe,
		"order of one sender":   order,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func mustSubscribe(t *testing.T, b sessions.Bus, subject, queue string, h func(sessions.Msg)) sessions.Subscription {
	t.Helper()
	s, err := b.Subscribe(subject, queue, h)
	if err != nil {
		t.Fatalf("Subscribe %s: %v", subject, err)
	}
	return s
}

func flush(t *testing.T, b sessions.Bus) {
	t.Helper()
	if err := b.Flush(within(t)); err != nil {
		t.Fatalf("Flush: %v", err)
	}
}

func mustPublish(t *testing.T, b sessions.Bus, subject, data string) {
	t.Helper()
	if err := b.Publish(subject, []byte(data)); err != nil {
		t.Fatalf("Publish %s: %v", subject, err)
	}
}

func next(t *testing.T, c <-chan string) string {
	t.Helper()
	select {
	case s := <-c:
		return s
	case <-time.After(patience):
		t.Fatal("no message came")
		return ""
	}
}

func nothing(t *testing.T, c <-chan string) {
	t.Helper()
	select {
	case s := <-c:
		t.Fatalf("%q came, want nothing", s)
	default:
	}
}

func echo(t *testing.T, b sessions.Bus) func(sessions.Msg) {
	return func(m sessions.Msg) {
		if err := b.Publish(m.Reply, append([]byte("re: "), m.Data...)); err != nil {
			t.Errorf("answer: %v", err)
		}
	}
}

func requestAnswer(t *testing.T, b sessions.Bus) {
	mustSubscribe(t, b, "call.1.in", "", echo(t, b))
	flush(t, b)
	got, err := b.Request(within(t), "call.1.in", []byte("hello"))
	if err != nil || string(got) != "re: hello" {
		t.Fatalf("Request = %q, %v", got, err)
	}
}

func nobodyListens(t *testing.T, b sessions.Bus) {
	began := time.Now()
	if _, err := b.Request(within(t), "call.none.in", []byte("x")); !errors.Is(err, sessions.ErrNoResponders) {
		t.Fatalf("Request to nobody: %v, want ErrNoResponders", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Fatalf("took %v: it must be said at once", took)
	}
	mustPublish(t, b, "call.none.in", "x") // one-way: nobody is no error
}

func noAnswer(t *testing.T, b sessions.Bus) {
	mustSubscribe(t, b, "deaf", "", func(sessions.Msg) {})
	flush(t, b)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := b.Request(ctx, "deaf", []byte("x")); !errors.Is(err, sessions.ErrTimeout) {
		t.Fatalf("Request without an answer: %v, want ErrTimeout", err)
	}
}

func queueGroup(t *testing.T, b sessions.Bus) {
	const messages = 50
	got := make(chan string, 4*messages)
	for i := range 3 {
		mustSubscribe(t, b, "new.r1", sessions.QueueWorkers, func(m sessions.Msg) { got <- fmt.Sprint(i, " ", string(m.Data)) })
	}
	flush(t, b)
	for range messages {
		mustPublish(t, b, "new.r1", "x")
	}
	for range messages {
		next(t, got)
	}
	flush(t, b)
	nothing(t, got)
}

func plainSubscribers(t *testing.T, b sessions.Bus) {
	one, two := make(chan string, 4), make(chan string, 4)
	mustSubscribe(t, b, "s", "", func(m sessions.Msg) { one <- string(m.Data) })
	mustSubscribe(t, b, "s", "", func(m sessions.Msg) { two <- string(m.Data) })
	flush(t, b)
	mustPublish(t, b, "s", "x")
	if a, b := next(t, one), next(t, two); a != "x" || b != "x" {
		t.Fatalf("got %q and %q", a, b)
	}
}

func wildcard(t *testing.T, b sessions.Bus) {
	got := make(chan string, 4)
	mustSubscribe(t, b, "announce.>", "", func(m sessions.Msg) { got <- m.Subject })
	flush(t, b)
	mustPublish(t, b, "announcement", "x")
	mustPublish(t, b, "announce.edge.n1", "x")
	if s := next(t, got); s != "announce.edge.n1" {
		t.Fatalf("got %q", s)
	}
}

func mailbox(t *testing.T, b sessions.Bus) {
	got, busy := make(chan string, 100), make(chan struct{}, 1)
	box := b.Mailbox(func(m sessions.Msg) {
		select {
		case busy <- struct{}{}:
		default:
			t.Error("two messages of one mailbox at a time")
		}
		got <- m.Subject
		<-busy
	})
	subs := map[string]sessions.Subscription{}
	for i := range 10 {
		subject := fmt.Sprintf("call.%d.in", i)
		s, err := box.Add(subject)
		if err != nil {
			t.Fatalf("Add: %v", err)
		}
		subs[subject] = s
	}
	flush(t, b)
	for subject := range subs {
		mustPublish(t, b, subject, "x")
	}
	seen := map[string]bool{}
	for range subs {
		seen[next(t, got)] = true
	}
	if len(seen) != len(subs) {
		t.Fatalf("messages of %d subjects, want %d", len(seen), len(subs))
	}
	if err := subs["call.3.in"].Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	flush(t, b)
	if _, err := b.Request(within(t), "call.3.in", nil); !errors.Is(err, sessions.ErrNoResponders) {
		t.Fatalf("after Unsubscribe: %v, want ErrNoResponders", err)
	}
	if err := box.Close(); err != nil {
		t.Fatal(err)
	}
	flush(t, b)
	if _, err := b.Request(within(t), "call.4.in", nil); !errors.Is(err, sessions.ErrNoResponders) {
		t.Fatalf("after Close: %v, want ErrNoResponders", err)
	}
}

func unsubscribe(t *testing.T, b sessions.Bus) {
	got := make(chan string, 4)
	s := mustSubscribe(t, b, "s", "", func(m sessions.Msg) { got <- string(m.Data) })
	flush(t, b)
	if err := s.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	flush(t, b)
	mustPublish(t, b, "s", "x")
	flush(t, b)
	nothing(t, got)
}

func order(t *testing.T, b sessions.Bus) {
	const messages = 200
	got := make(chan string, messages)
	mustSubscribe(t, b, "s", "", func(m sessions.Msg) { got <- string(m.Data) })
	flush(t, b)
	for i := range messages {
		mustPublish(t, b, "s", fmt.Sprint(i))
	}
	for i := range messages {
		if s := next(t, got); s != fmt.Sprint(i) {
			t.Fatalf("message %d is %s", i, s)
		}
	}
}
