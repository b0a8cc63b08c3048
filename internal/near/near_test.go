package near

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"callswitch/sessions"
	"callswitch/sessions/sessionstest"
)

// pair is one bus of two processes: one asks, the other serves.
type pair struct {
	*Bus
	server *Bus
}

func (p pair) Publish(subject string, data []byte) error {
	if subject[0] == '_' {
		return p.server.Publish(subject, data)
	}
	return p.Bus.Publish(subject, data)
}

func (p pair) Subscribe(subject, queue string, h func(sessions.Msg)) (sessions.Subscription, error) {
	return p.server.Subscribe(subject, queue, h)
}
func (p pair) Mailbox(h func(sessions.Msg)) sessions.Mailbox { return p.server.Mailbox(h) }
func (p pair) Flush(ctx context.Context) error {
	return errors.Join(p.server.Flush(ctx), p.Bus.Flush(ctx))
}

func TestConforms(t *testing.T) {
	h := newHost(t)
	n := 0
	sessionstest.Bus(t, func(t *testing.T) sessions.Bus {
		n++
		return pair{h.process(t, fmt.Sprint("asker-", n)), h.process(t, fmt.Sprint("server-", n))}
	})
}

// The first answer says where the second request can go.
func TestSecondRequestIsNear(t *testing.T) {
	h := newHost(t)
	a, w := h.process(t, "a"), h.process(t, "w")
	replies := make(chan string, 2)
	if _, err := w.Subscribe("call.1.in", "", func(m sessions.Msg) {
		replies <- m.Reply
		_ = w.Publish(m.Reply, m.Data)
	}); err != nil {
		t.Fatal(err)
	}
	flush(t, w)
	request(t, a, "call.1.in", "x", "x")
	request(t, a, "call.1.in", "y", "y")
	if first, second := <-replies, <-replies; strings.HasPrefix(first, replyPrefix) || !strings.HasPrefix(second, replyPrefix) {
		t.Fatalf("answers asked for on %s and %s", first, second)
	}
	counts(t, a, 1, 1)
}

// What was made while a request was served is asked for over a stream at once.
func TestNewSubjectIsTold(t *testing.T) {
	h := newHost(t)
	a, w := h.process(t, "a"), h.process(t, "w")
	box := w.Mailbox(func(m sessions.Msg) { _ = w.Publish(m.Reply, m.Data) })
	defer func() { _ = box.Close() }()
	if _, err := w.Subscribe("new.r1", "workers", func(m sessions.Msg) {
		if _, err := box.Add("call." + string(m.Data) + ".in"); err != nil {
			t.Error(err)
		}
		_ = w.Publish(m.Reply, m.Data)
	}); err != nil {
		t.Fatal(err)
	}
	flush(t, w)
	request(t, a, "new.r1", "1", "1")
	request(t, a, "new.r1", "2", "2")
	request(t, a, "call.2.in", "x", "x")
	counts(t, a, 2, 1)
}

// A subject that has moved is found by the far bus, at once.
func TestMovedSubject(t *testing.T) {
	h := newHost(t)
	a, w1, w2 := h.process(t, "a"), h.process(t, "w1"), h.process(t, "w2")
	s := serve(t, w1, "call.1.in", "", "w1")
	request(t, a, "call.1.in", "x", "w1 x")
	request(t, a, "call.1.in", "x", "w1 x")
	serve(t, w2, "call.1.in", "", "w2")
	if err := s.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	flush(t, w1)
	request(t, a, "call.1.in", "x", "w2 x")
	request(t, a, "call.1.in", "x", "w2 x")
	counts(t, a, 2, 2)
	if a.Stats.Lost.Load() != 1 {
		t.Fatalf("%d short cuts lost, want 1", a.Stats.Lost.Load())
	}
}

// A subject that moves while a request waits: the one that has it now answers.
func TestMovesUnderARequest(t *testing.T) {
	h := newHost(t)
	a, w1, w2 := h.process(t, "a"), h.process(t, "w1"), h.process(t, "w2")
	asked := make(chan string, 1)
	first := true
	s, err := w1.Subscribe("call.1.in", "", func(m sessions.Msg) {
		if first {
			first = false
			_ = w1.Publish(m.Reply, []byte("w1"))
			return
		}
		asked <- m.Reply
	})
	if err != nil {
		t.Fatal(err)
	}
	flush(t, w1)
	request(t, a, "call.1.in", "x", "w1")
	go func() {
		<-asked
		serve(t, w2, "call.1.in", "", "w2")
		_ = s.Unsubscribe()
	}()
	request(t, a, "call.1.in", "x", "w2 x")
	forgotten(t, w1)
}

// The one that leaves a subject answers a request after all, and nobody else does.
func TestAnswerAfterLeaving(t *testing.T) {
	for _, deaf := range []bool{false, true} { // true: nor is the question by the far bus refused
		t.Run(fmt.Sprint("deaf ", deaf), func(t *testing.T) { answerAfterLeaving(t, deaf) })
	}
}

func answerAfterLeaving(t *testing.T, deaf bool) {
	h := newHost(t)
	a, w := h.process(t, "a"), h.process(t, "w")
	if deaf {
		plain := h.connect(t)
		if _, err := plain.Subscribe("call.1.in", "", func(sessions.Msg) {}); err != nil {
			t.Fatal(err)
		}
		flush(t, plain)
	}
	var s sessions.Subscription
	n, ready := 0, make(chan struct{})
	s, err := w.Subscribe("call.1.in", "", func(m sessions.Msg) {
		<-ready
		if n++; n > 1 {
			_ = s.Unsubscribe()
			_ = w.Flush(context.Background())
		}
		_ = w.Publish(m.Reply, fmt.Append(nil, n))
	})
	if err != nil {
		t.Fatal(err)
	}
	close(ready)
	flush(t, w)
	request(t, a, "call.1.in", "x", "1")
	ctx := within(t)
	got, err := a.Request(ctx, "call.1.in", nil)
	// The question by the far bus may be refused before or after the answer is
	// read here; both are true, a time-out is not.
	if err != nil && (deaf || !errors.Is(err, sessions.ErrNoResponders)) || err == nil && string(got) != "2" || ctx.Err() != nil {
		t.Fatalf("%q, %v; %v", got, err, ctx.Err())
	}
}

// Two workers of a queue group have equal shares, and one that admits nothing
// more gets none.
func TestBalance(t *testing.T) {
	h := newHost(t)
	a, w1, w2 := h.process(t, "a"), h.process(t, "w1"), h.process(t, "w2")
	s := serve(t, w1, "new.r1", "workers", "w1")
	serve(t, w2, "new.r1", "workers", "w2")
	ask := func(n int) map[string]int {
		got := map[string]int{}
		for range n {
			answer, err := a.Request(within(t), "new.r1", nil)
			if err != nil {
				t.Fatal(err)
			}
			got[strings.TrimSpace(string(answer))]++
		}
		return got
	}
	got := ask(4000) // the server chooses every 8th by lot, and so when each is found
	if got["w1"] < 1800 || got["w2"] < 1800 {
		t.Fatalf("shares %v, want 1800 to 2200 each", got)
	}
	if near := a.Stats.Near.Load(); near < 3200 {
		t.Fatalf("%d of 4000 near", near)
	}
	if err := s.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	flush(t, w1)
	if got = ask(100); got["w1"] != 0 {
		t.Fatalf("shares %v after w1 has drained", got)
	}
	serve(t, w1, "new.r1", "workers", "w1")
	if got = ask(4000); got["w1"] < 1800 || got["w2"] < 1800 {
		t.Fatalf("shares %v after w1 is back, want 1800 to 2200 each", got)
	}
}

// A worker that no stream reaches (another host, an older release) has its share.
func TestBalanceWithAFarWorker(t *testing.T) {
	h := newHost(t)
	a, w1, plain := h.process(t, "a"), h.process(t, "w1"), h.connect(t)
	serve(t, w1, "new.r1", "workers", "w1")
	serve(t, plain, "new.r1", "workers", "plain")
	serve(t, plain, "call.1.in", "", "plain")
	got := map[string]int{}
	for range 1000 {
		answer, err := a.Request(within(t), "new.r1", nil)
		if err != nil {
			t.Fatal(err)
		}
		got[strings.TrimSpace(string(answer))]++
	}
	if got["w1"] < 420 || got["w1"] > 580 { // chosen at random by the server
		t.Fatalf("shares %v", got)
	}
	before := a.Stats.Near.Load()
	request(t, a, "call.1.in", "x", "plain x")
	request(t, a, "call.1.in", "x", "plain x")
	counts(t, a, before, 1000-before+2)
}

// A message that a stream must not carry goes by the far bus.
func TestTooLarge(t *testing.T) {
	h := newHost(t)
	var a, w *Bus
	for name, b := range map[string]**Bus{"a": &a, "w": &w} {
		var err error
		if *b, err = New(Config{Far: h.connect(t), Dir: h.dir, Name: name, Kind: kindOf, MaxMsg: 1000, DialWait: time.Minute}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup((*b).Close)
	}
	serve(t, w, "call.1.in", "", "w")
	request(t, a, "call.1.in", "x", "w x")
	big := strings.Repeat("x", 1001)
	request(t, a, "call.1.in", big, "w "+big)
	request(t, a, "call.1.in", "x", "w x")
	counts(t, a, 1, 2)
	just := strings.Repeat("x", 1000)
	request(t, a, "call.1.in", just, "w "+just) // the answer is too large
	counts(t, a, 1, 3)
}

// Much at a time, and larger than a socket holds.
func TestLargeAndMany(t *testing.T) {
	h := newHost(t)
	a, w := h.process(t, "a"), h.process(t, "w")
	serve(t, w, "call.1.in", "", "w")
	request(t, a, "call.1.in", "x", "w x")
	var back atomic.Int64 // what goes by the far bus as a connection to it is lost is lost with it
	a.OnReconnect(func() { back.Add(1) })
	w.OnReconnect(func() { back.Add(1) })
	ask := func(body []byte) {
		for {
			was := back.Load()
			got, err := a.Request(within(t), "call.1.in", body)
			if err == nil && bytes.Equal(got[2:], body) {
				return
			}
			for end := time.Now().Add(10 * time.Second); err != nil && back.Load() == was && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
			}
			if err == nil || back.Load() == was {
				t.Errorf("%d bytes: %d, %v", len(body), len(got), err)
				return
			}
		}
	}
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for j := range 20 {
				ask(bytes.Repeat([]byte{byte(i)}, 50_000*(j%10)+j))
			}
		})
	}
	all.Wait()
}

// What one process tells and asks of one subject stays in order.
func TestOrder(t *testing.T) {
	h := newHost(t)
	a, w := h.process(t, "a"), h.process(t, "w")
	var told []string
	if _, err := w.Subscribe("edge.do", "", func(m sessions.Msg) {
		told = append(told, string(m.Data))
		if m.Reply != "" {
			_ = w.Publish(m.Reply, []byte(strings.Join(told, " ")))
		}
	}); err != nil {
		t.Fatal(err)
	}
	flush(t, w)
	request(t, a, "edge.do", "0", "0")
	for i := range 5 {
		if err := a.Publish("edge.do", fmt.Append(nil, i+1)); err != nil {
			t.Fatal(err)
		}
	}
	request(t, a, "edge.do", "6", "0 1 2 3 4 5 6")
	counts(t, a, 1, 1)
}

// The server of the far bus is away: what has a stream goes on.
func TestFarBusAway(t *testing.T) {
	h := newHost(t)
	a, w := h.process(t, "a"), h.process(t, "w")
	serve(t, w, "call.1.in", "", "w")
	request(t, a, "call.1.in", "x", "w x")
	h.stop()
	request(t, a, "call.1.in", "x", "w x")
}

// Garbage ends its stream and nothing else.
func TestGarbage(t *testing.T) {
	h := newHost(t)
	a, w := h.process(t, "a"), h.process(t, "w")
	serve(t, w, "call.1.in", "", "w")
	request(t, a, "call.1.in", "x", "w x")
	hello := appendFrame(nil, &frame{kind: kindHello})
	for what, bytes := range map[string][]byte{
		"http":         []byte("GET / HTTP/1.1\r\n\r\n"),
		"zeros":        make([]byte, 64),
		"huge":         append(hello[:len(hello):len(hello)], 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0),
		"no hello":     appendFrame(nil, &frame{kind: kindAsk, subject: "call.1.in"}),
		"too new":      {0, 0, 0, 11, 1, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9},
		"wrong way":    appendFrame(hello[:len(hello):len(hello)], &frame{kind: kindAnswer}),
		"long subject": append(hello[:len(hello):len(hello)], 0, 0, 0, 11, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff),
	} {
		c, err := net.Dial("unix", filepath.Join(h.dir, "w.sock"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(bytes)
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the stream stays open (%d, %v)", what, n, err)
		}
		_ = c.Close()
	}
	request(t, a, "call.1.in", "x", "w x")
	counts(t, a, 1, 1)
}

func FuzzFrame(f *testing.F) {
	for _, x := range []frame{
		{kind: kindHello},
		{kind: kindAsk, id: 1, subject: "s", data: []byte("x")},
		{kind: kindAnswer, id: 2, news: []string{"a", "b"}, data: []byte("x")},
	} {
		f.Add(appendFrame(nil, &x))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := decode(data)
		if err != nil {
			return
		}
		if x.kind == kindHello {
			return // says nothing
		}
		y, err := decode(appendFrame(nil, &x))
		if err != nil || fmt.Sprint(x) != fmt.Sprint(y) {
			t.Fatalf("%v is read again as %v, %v", x, y, err)
		}
	})
}

// Subscribing and leaving while others ask: every request gets an answer or a
// reason, and nothing stays behind.
func TestRaces(t *testing.T) {
	h := newHost(t)
	a, w := h.process(t, "a"), h.process(t, "w")
	box := w.Mailbox(func(m sessions.Msg) { _ = w.Publish(m.Reply, m.Data) })
	began := time.Now()
	going := func() bool { // until something has gone near, too
		took := time.Since(began)
		return took < 500*time.Millisecond || a.Stats.Near.Load() == 0 && took < time.Minute
	}
	var all sync.WaitGroup
	for i := range 4 {
		subject := fmt.Sprintf("call.%d.in", i)
		all.Go(func() {
			for going() {
				s, err := box.Add(subject)
				if err != nil {
					t.Error(err)
					return
				}
				for range 10 {
					one, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
					_, _ = a.Request(one, subject, []byte("x"))
					cancel()
				}
				_ = s.Unsubscribe()
			}
		})
		all.Go(func() {
			for going() {
				one, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
				_, _ = a.Request(one, subject, []byte("y"))
				cancel()
			}
		})
	}
	all.Wait()
	if err := box.Close(); err != nil {
		t.Fatal(err)
	}
	if a.Stats.Near.Load() == 0 {
		t.Error("nothing went near")
	}
	forgotten(t, w)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.subs) != 0 {
		t.Errorf("%d subjects are left", len(w.subs))
	}
}

// A path longer than a sockaddr_un, and names that are none.
func TestNames(t *testing.T) {
	h := newHost(t)
	h.dir = filepath.Join(t.TempDir(), strings.Repeat("long", 30), "near")
	a, w := h.process(t, "a"), h.process(t, "w")
	serve(t, w, "call.1.in", "", "w")
	request(t, a, "call.1.in", "x", "w x")
	request(t, a, "call.1.in", "x", "w x")
	counts(t, a, 1, 1)
	for _, name := range []string{"", ".", "../w", "a/b", strings.Repeat("x", 65)} {
		if _, err := New(Config{Far: h.connect(t), Dir: h.dir, Name: name, Kind: kindOf}); !errors.Is(err, ErrName) {
			t.Errorf("name %q: %v", name, err)
		}
	}
}
