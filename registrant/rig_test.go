package registrant

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
	"callswitch/sessions/sessionstest"
)

// shelf is a Store in memory. Each write is checked: one owner an epoch, and no
// number twice.
type shelf struct {
	t     *testing.T
	mu    sync.Mutex
	value []byte
	rev   uint64
	away  bool
	blind bool // writes are made, and their word is lost
	after func(Record)
	puts  int
	watch []chan struct{}
}

const shelfKey = "carrier"

func (s *shelf) Put(ctx context.Context, key string, value []byte, rev uint64, _ time.Duration) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away || ctx.Err() != nil {
		return 0, sessions.ErrUnavailable
	}
	if key != string(codecore.EnlistID(shelfKey)) {
		s.t.Errorf("key %s", key)
	}
	if rev != s.rev {
		return 0, sessions.ErrConflict
	}
	if value != nil {
		now, err := Decode(value)
		if err != nil {
			s.t.Error(err)
		}
		if was, err := Decode(s.value); err == nil && (now.N != was.N+1 || now.Epoch < was.Epoch || (now.Owner != was.Owner) != (now.Epoch == was.Epoch+1)) {
			s.t.Errorf("owner %s epoch %d n %d after owner %s epoch %d n %d", now.Owner, now.Epoch, now.N, was.Owner, was.Epoch, was.N)
		}
		if s.after != nil {
			defer s.after(now)
		}
	}
	s.rev++
	s.puts++
	s.value = value
	for _, w := range s.watch {
		select {
		case w <- struct{}{}:
		default:
		}
	}
	if s.blind {
		return 0, sessions.ErrUnavailable
	}
	return s.rev, nil
}

func (s *shelf) Get(context.Context, string) ([]byte, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.away:
		return nil, 0, sessions.ErrUnavailable
	case s.value == nil:
		return nil, s.rev, sessions.ErrNotFound
	}
	return s.value, s.rev, nil
}

func (s *shelf) Watch(ctx context.Context, fn func(string, []byte)) error {
	w := make(chan struct{}, 1)
	s.mu.Lock()
	s.watch = append(s.watch, w)
	value := s.value
	s.mu.Unlock()
	id := string(codecore.EnlistID(shelfKey))
	if value != nil {
		fn(id, value)
	}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-w:
				value, _, _ := s.Get(ctx, id)
				fn(id, value)
			}
		}
	}()
	return nil
}

func (s *shelf) record() (Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := Decode(s.value)
	return r, err == nil
}

// world is a cluster of workers and one edge, with a registrar behind it.
type world struct {
	t     *testing.T
	shelf *shelf
	bus   *sessionstest.MemBus

	mu       sync.Mutex
	plan     *codecore.Plan
	living   map[string]sessions.Process
	dead     map[string]bool
	stops    map[string]func()
	kicks    []*Keeper
	prefer   string
	last     uint64 // action taken by the edge
	boot     int
	edgeOff  bool
	asked    []string // what came to the registrar: "1", "1 again", "2 leave"
	branch   map[string]int
	cseq     uint32
	callID   string
	until    time.Time
	lapsed   bool
	password string // asked for when set
	deaf     bool
	grant    int
}

func inWorld(t *testing.T, do func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, shelf: &shelf{t: t}, bus: sessionstest.NewBus(1), plan: plan1, grant: 300,
			living: map[string]sessions.Process{"e1": {Role: "edge", Node: "n1", ID: "e1"}},
			dead:   map[string]bool{}, stops: map[string]func(){}, branch: map[string]int{},
		}
		sub, err := w.bus.Subscribe(sessions.SubjectDo("edge.n1"), "", w.onDo)
		if err != nil {
			t.Fatal(err)
		}
		do(w)
		for id := range w.stops {
			w.kill(id)
		}
		_ = sub.Unsubscribe()
	})
}

// worker starts one; a form of 0 is a release that keeps no registrations.
func (w *world) worker(id, digest string, form int) *Keeper {
	p := sessions.Process{Role: "worker", Node: "n1", ID: id, Digest: digest, Release: digest, Registrant: form}
	w.mu.Lock()
	w.living[id] = p
	w.mu.Unlock()
	if form == 0 {
		return nil
	}
	k := NewKeeper(Config{
		ID: id, Release: digest, Store: w.shelf, Bus: w.bus,
		Plan: func() *codecore.Plan { w.mu.Lock(); defer w.mu.Unlock(); return w.plan },
		Living: func() (ps []sessions.Process) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, p := range w.living {
				if p.Role != "edge" || !w.edgeOff {
					ps = append(ps, p)
				}
			}
			return ps
		},
		Dead:   func(id string) bool { w.mu.Lock(); defer w.mu.Unlock(); return w.dead[id] },
		Prefer: func() string { w.mu.Lock(); defer w.mu.Unlock(); return w.prefer },
		Token:  func(id codecore.CallID) string { return string(id) + "0123456789ab" },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := k.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kicks = append(w.kicks, k)
	w.stops[id] = func() { cancel(); <-done }
	return k
}

// kill ends a worker, and everybody hears of it.
func (w *world) kill(id string) {
	w.mu.Lock()
	stop := w.stops[id]
	delete(w.stops, id)
	w.mu.Unlock()
	if stop != nil {
		stop()
	}
	w.bury(id)
}

func (w *world) bury(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.living, id)
	w.dead[id] = true
	for _, k := range w.kicks {
		k.Kick()
	}
}

func (w *world) set(p *codecore.Plan) { w.mu.Lock(); w.plan = p; w.mu.Unlock() }

func (w *world) restartEdge() { w.mu.Lock(); w.last = 0; w.boot++; w.mu.Unlock() }

// onDo is the edge: it performs the next action, once.
func (w *world) onDo(m sessions.Msg) {
	var d sessions.Do
	if err := wire.Open(m.Data, &d); err != nil {
		w.t.Error(err)
		return
	}
	w.perform(d.Actions)
}

func (w *world) perform(as []codecore.Action) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range as {
		if w.edgeOff || a.To != "edge.n1" || a.Seq <= w.last {
			continue
		}
		if !a.First {
			w.t.Error("an action that is not First")
		}
		w.last = a.Seq
		if answer := w.registrar(a.Request); answer != nil {
			go w.deliver(codecore.SIPResponse{Branch: a.Request.Branch, Msg: *answer}, w.boot)
		}
	}
}

// deliver sends an answer until somebody takes it, or the edge dies.
func (w *world) deliver(r codecore.SIPResponse, boot int) {
	id := codecore.EnlistID(shelfKey)
	data, _ := wire.Seal(sessions.Delivery{Call: id, From: "edge.n1", Boot: strconv.Itoa(boot), Num: 1, Event: codecore.Box(r)})
	for range 400 {
		w.mu.Lock()
		over := w.boot != boot
		w.mu.Unlock()
		if over {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 250*time.Millisecond)
		raw, err := w.bus.Request(ctx, sessions.SubjectCall(id), data)
		cancel()
		var a sessions.Answer
		if err == nil && wire.Open(raw, &a) == nil && a.Status == sessions.StatusOK {
			w.perform(a.Actions)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// registrar answers as RFC 3261 10.3 has it. w.mu is held.
func (w *world) registrar(r *codecore.SendRequest) *codecore.Message {
	m := &r.Msg
	number, _, _ := strings.Cut(m.Get("CSeq"), " ")
	n, _ := strconv.Atoi(number)
	cseq := uint32(n)
	if w.callID != "" && w.callID != m.Get("Call-ID") {
		w.t.Errorf("Call-ID %s after %s", m.Get("Call-ID"), w.callID)
	}
	w.callID = m.Get("Call-ID")
	if !w.until.IsZero() && time.Now().After(w.until) {
		w.lapsed = true
	}
	line := number
	if m.Get("Expires") == "0" {
		line += " leave"
	}
	for _, a := range r.Auth {
		line += fmt.Sprintf(" %s/%d", a.Nonce, a.NC)
	}
	again := w.branch[r.Branch] == n
	if again {
		line += " again"
	} else if cseq <= w.cseq {
		w.t.Errorf("CSeq %d after %d", cseq, w.cseq)
	}
	w.asked = append(w.asked, line)
	w.branch[r.Branch], w.cseq = n, max(w.cseq, cseq)
	answer := codecore.Message{Method: "REGISTER", Status: 200}
	switch {
	case w.deaf:
		return nil
	case w.password != "" && (len(r.Auth) == 0 || r.Auth[0].Nonce != w.password):
		answer.Status = 401
		answer.Add("WWW-Authenticate", `Digest realm="c", nonce="`+w.password+`", qop="auth"`)
	case m.Get("Expires") == "0":
		w.until = time.Time{}
	default:
		w.until = time.Now().Add(time.Duration(w.grant) * time.Second)
		answer.Add("Contact", "<sip:"+r.ContactUser+"@192.0.2.1>;expires="+strconv.Itoa(w.grant))
	}
	return &answer
}

// heard is what came to the registrar since it was asked last.
func (w *world) heard() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := strings.Join(w.asked, ", ")
	w.asked = nil
	return out
}

// after lets some time pass, and compares what came to the registrar.
func (w *world) after(d time.Duration, want string) {
	w.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	if got := w.heard(); got != want {
		w.t.Errorf("the registrar heard %q, want %q", got, want)
	}
}

func (w *world) owner() string {
	r, _ := w.shelf.record()
	return r.Owner
}
