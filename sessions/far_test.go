package sessions_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
	"callswitch/sessions/sessionstest"
)

const theCall codecore.CallID = "0123456789abcdef01234567"

// rig is a store, a bus and whoever is on it. Everything runs in a bubble of
// testing/synctest: a goroutine that outlives its test fails it.
type rig struct {
	t                               testing.TB
	store                           *sessions.MemStore
	bus                             *sessionstest.MemBus
	panic, lost, bad, resent, saved count
}

type count struct {
	mu sync.Mutex
	n  int
}

func (c *count) add(string) { c.mu.Lock(); c.n++; c.mu.Unlock() }
func (c *count) get() int   { c.mu.Lock(); defer c.mu.Unlock(); return c.n }

// bubble runs a test with fake time.
func bubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, store: sessions.NewMemStore(), bus: sessionstest.NewBus(1)}
		test(t, r)
	})
}

// worker starts a Runner; stop ends it as a process that is told to exit would.
func (r *rig) worker(id string, change ...func(*sessions.Config)) (w *sessions.Runner, stop func()) {
	r.t.Helper()
	cfg := sessions.Config{
		ID: id, Node: "n1", Release: "r1", Digest: "d1", Store: r.store, Bus: r.bus,
		Plan: func() *codecore.Plan { return &codecore.Plan{Version: 1} },
		Log:  slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Observe: sessions.Observer{
			Panic: r.panic.add, Lost: r.lost.add, Bad: r.bad.add, Resend: r.resent.add,
			Save: func(result string, _ time.Duration) { r.saved.add(result) },
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	w = sessions.NewRunner(cfg)
	w.SetStep(toyStep)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	<-w.Ready()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				r.t.Errorf("Run: %v", err)
			}
		})
	}
	r.t.Cleanup(stop)
	return w, stop
}

// edge is a sender of events and receiver of actions, as the protocol wants it.
type edge struct {
	r    *rig
	name string
	boot string
	num  uint64

	mu   sync.Mutex
	last uint64
	held bool
	done []string // "1 INVITE"
	deaf bool     // does not answer Do
	gaps int
	sub  sessions.Subscription
}

func (r *rig) edge(name, boot string) *edge {
	r.t.Helper()
	e := &edge{r: r, name: name, boot: boot}
	sub, err := r.bus.Subscribe(sessions.SubjectDo(name), "", e.onDo)
	if err != nil {
		r.t.Fatal(err)
	}
	e.sub = sub
	return e
}

// restart is a new incarnation that knows nothing.
func (e *edge) restart(boot string) {
	e.mu.Lock()
	e.boot, e.num, e.last, e.held = boot, 0, 0, false
	e.mu.Unlock()
}

func (e *edge) announce() {
	data, _ := wire.Seal(sessions.Announce{Name: e.name, Boot: e.boot})
	if err := e.r.bus.Publish(sessions.SubjectAnnounce(e.name), data); err != nil {
		e.r.t.Error(err)
	}
}

func (e *edge) setDeaf(deaf bool) { e.mu.Lock(); e.deaf = deaf; e.mu.Unlock() }

func (e *edge) onDo(m sessions.Msg) {
	var do sessions.Do
	if err := wire.Open(m.Data, &do); err != nil {
		e.r.t.Error(err)
		return
	}
	e.mu.Lock()
	if e.deaf {
		e.mu.Unlock()
		return
	}
	done := sessions.Done{Boot: e.boot, Gap: !e.take(do.Actions), Accepted: e.last}
	e.mu.Unlock()
	if data, err := wire.Seal(done); err == nil && m.Reply != "" {
		_ = e.r.bus.Publish(m.Reply, data)
	}
}

// take performs actions by R3; false is a gap. e.mu is held.
func (e *edge) take(actions []codecore.Action) bool {
	for _, a := range actions {
		name := fmt.Sprintf("%d %s", a.Seq, a.Request.Msg.Method)
		switch {
		case a.Seq == 0:
			e.done = append(e.done, name)
		case e.held && a.Seq <= e.last:
		case e.held && a.Seq == e.last+1, !e.held && (a.First || a.Seq == 1):
			e.held, e.last = true, a.Seq
			e.done = append(e.done, name)
		default:
			e.gaps++
			return false
		}
	}
	return true
}

func (e *edge) performed() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.done)
}

// delivery makes the next event, a request whose body says what to do.
func (e *edge) delivery(method string, do script) sessions.Delivery {
	body, _ := json.Marshal(do)
	e.num++
	return sessions.Delivery{
		Call: theCall, From: e.name, Boot: e.boot, Num: e.num, Accepted: e.last,
		Event: codecore.Box(codecore.SIPRequest{
			Edge: "n1", At: time.Now(), Msg: codecore.Message{Method: method, Body: body},
		}),
	}
}

// try sends a delivery once and waits up to a second.
func (e *edge) try(subject string, d sessions.Delivery) (sessions.Answer, error) {
	data, err := wire.Seal(d)
	if err != nil {
		e.r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	raw, err := e.r.bus.Request(ctx, subject, data)
	if err != nil {
		return sessions.Answer{}, err
	}
	var a sessions.Answer
	if err := wire.Open(raw, &a); err != nil {
		e.r.t.Fatal(err)
	}
	return a, nil
}

// send sends an event until it is answered, and takes the actions.
func (e *edge) send(subject string, d sessions.Delivery) sessions.Answer {
	e.r.t.Helper()
	for range 200 {
		a, err := e.try(subject, d)
		if err == nil && a.Status != sessions.StatusLater {
			e.mu.Lock()
			if !e.take(a.Actions) {
				e.r.t.Errorf("answer to %d has a gap: %+v", d.Num, a.Actions)
			}
			e.mu.Unlock()
			return a
		}
		time.Sleep(100 * time.Millisecond)
	}
	e.r.t.Fatalf("event %d was never answered", d.Num)
	return sessions.Answer{}
}

func (e *edge) invite(do script) sessions.Answer {
	e.r.t.Helper()
	return e.send(sessions.SubjectNew("d1"), e.delivery("INVITE", do))
}

func (e *edge) ask(method string, do script) sessions.Answer {
	e.r.t.Helper()
	return e.send(sessions.SubjectCall(theCall), e.delivery(method, do))
}

// confirm is the un-numbered word of an edge that has no event to send.
func (e *edge) confirm() sessions.Answer {
	e.r.t.Helper()
	return e.confirmCall(theCall)
}

func (e *edge) confirmCall(id codecore.CallID) sessions.Answer {
	e.r.t.Helper()
	return e.send(sessions.SubjectCall(id), sessions.Delivery{
		Call: id, From: e.name, Boot: e.boot, Accepted: e.last,
		Event: codecore.Box(codecore.Accepted{To: e.name, Boot: e.boot, Seq: e.last}),
	})
}

func wantDone(t *testing.T, e *edge, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := e.performed(); !slices.Equal(got, want) {
		t.Errorf("%s performed %q, want %q", e.name, got, want)
	}
}
