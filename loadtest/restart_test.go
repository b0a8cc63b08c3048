package loadtest

import (
	"syscall"
	"testing"
	"time"
)

// exits waits until serve itself has ended.
func (s *Switch) exits(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	gone := s.gone
	s.mu.Unlock()
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Fatal("serve does not exit")
	}
}

// interrupt signals serve itself, as a terminal or systemd would.
func (s *Switch) interrupt(t *testing.T, sig syscall.Signal) {
	t.Helper()
	s.mu.Lock()
	cmd := s.cmd
	s.mu.Unlock()
	if err := cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// flowing checks that every call hears both its sides now.
func flowing(t *testing.T, calls []*Call) {
	t.Helper()
	before := make([]int, len(calls))
	for i, c := range calls {
		before[i] = c.Hearing().Received
	}
	ctx := patient(t, time.Minute)
	for i, c := range calls {
		for c.Hearing().Received-before[i] < 50 {
			if !pause(ctx, 20*time.Millisecond) {
				t.Fatalf("%s: %d packets came after the restart", c.Number, c.Hearing().Received-before[i])
			}
		}
	}
}

// SIGTERM leaves the records: the next serve goes on with the calls.
func TestTermAndServeAgain(t *testing.T) {
	b, calls := realSwitch(t, 50, nil)
	if _, err := b.sw.Processes(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.sw.interrupt(t, syscall.SIGTERM)
	b.sw.exits(t)
	for pid := range b.sw.seen {
		if Alive(pid) {
			t.Errorf("process %d outlives serve", pid)
		}
	}
	if err := b.sw.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	flowing(t, calls)
	b.verdict(t, calls, 50*2*50*60)
}

// The host is killed alone: its children go on, a new serve adopts them.
func TestChildrenOutliveTheHost(t *testing.T) {
	b, calls := realSwitch(t, 50, nil)
	before := map[string]int{}
	ps, err := b.sw.Processes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ps {
		before[p.Role] = p.PID
	}
	if err := b.sw.Kill(b.only(t, RoleHost)); err != nil {
		t.Fatal(err)
	}
	b.sw.exits(t)
	// Without a host a call ends and a new one is placed.
	if err := calls[0].HangUp(patient(t, time.Minute), true); err != nil {
		t.Errorf("BYE without a host: %v", err)
	}
	fresh := b.rig.NewCall(Mark{}, answerAtOnce)
	if err := fresh.Establish(patient(t, time.Minute)); err != nil {
		t.Errorf("new call without a host: %v", err)
	}
	if err := b.sw.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ps, err = b.sw.Processes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ps {
		if p.Role != RoleHost && before[p.Role] != p.PID {
			t.Errorf("%s was %d and is %d: it was not adopted", p.Role, before[p.Role], p.PID)
		}
	}
	b.verdict(t, append(calls[1:], fresh), 0)
}

// closed waits until no new call is admitted.
func (b *bed) closed(t *testing.T) {
	t.Helper()
	ctx := patient(t, time.Minute)
	for {
		if st, err := b.sw.API.Status(ctx); err == nil && st.Ready && !st.Accepting {
			return
		}
		if !pause(ctx, 20*time.Millisecond) {
			t.Fatal("calls are still admitted after Ctrl-C")
		}
	}
}

// The first Ctrl-C waits for the calls, the second hangs them up.
func TestCtrlC(t *testing.T) {
	b, calls := realSwitch(t, 10, nil)
	b.sw.interrupt(t, syscall.SIGINT)
	ctx := patient(t, time.Minute)
	b.closed(t)
	late := b.rig.NewCall(Mark{}, answerAtOnce)
	if err := late.Place(); err != nil {
		t.Fatal(err)
	}
	if code, err := late.A.Final(ctx); code != 503 {
		t.Errorf("a call after Ctrl-C got %d %v, not 503", code, err)
	} else if late.A.invite.final.get("retry-after") == "" {
		t.Error("503 without Retry-After")
	}
	flowing(t, calls)
	if err := calls[0].HangUp(patient(t, time.Minute), false); err != nil {
		t.Errorf("BYE after Ctrl-C: %v", err)
	}
	b.sw.interrupt(t, syscall.SIGINT)
	for _, c := range calls[1:] {
		for _, l := range []*Leg{c.A, c.B} {
			if err := await(ctx, l.HungUp, "BYE after the second Ctrl-C"); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.sw.exits(t)
	if err := b.sw.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.once(t, calls)
}

// The first Ctrl-C alone: serve exits once the last call has ended, and not
// because a worker was started again and has none for a moment.
func TestCtrlCWaitsForTheLastCall(t *testing.T) {
	b, calls := realSwitch(t, 20, nil)
	b.sw.interrupt(t, syscall.SIGINT)
	p := b.only(t, RoleWorker)
	if err := b.sw.Kill(p); err != nil {
		t.Fatal(err)
	}
	if _, err := b.sw.Successor(patient(t, time.Minute), RoleWorker, p); err != nil {
		t.Fatal(err)
	}
	b.closed(t)
	flowing(t, calls)
	for _, c := range calls {
		if c.Dropped() {
			t.Fatal("the first Ctrl-C hung up")
		}
		if err := c.HangUp(patient(t, time.Minute), true); err != nil {
			t.Error(err)
		}
	}
	b.sw.exits(t)
}

// NATS is killed and stays away for 10 s (the host, which would start it again,
// sleeps): no call is lost, a BYE of that time arrives.
func TestKilledNATSStaysAway(t *testing.T) {
	b, calls := realSwitch(t, 50, nil)
	h, n := b.only(t, RoleHost), b.only(t, RoleNATS)
	if err := b.sw.Freeze(h); err != nil {
		t.Fatal(err)
	}
	if err := b.sw.Kill(n); err != nil {
		t.Fatal(err)
	}
	away := b.during(t, calls[0])
	pause(t.Context(), 10*time.Second)
	if err := b.sw.Wake(h); err != nil {
		t.Fatal(err)
	}
	calls = append(calls[1:], away()...)
	if _, err := b.sw.Successor(patient(t, time.Minute), RoleNATS, n); err != nil {
		t.Fatal(err)
	}
	b.verdict(t, calls, 0)
}

// during hangs one call up and places another while the store is away; the
// function returned waits for both and gives the new call, if it was taken.
func (b *bed) during(t *testing.T, old *Call) func() []*Call {
	t.Helper()
	bye := make(chan error, 1)
	go func() {
		old.Hush(t.Context())
		bye <- old.HangUp(patient(t, time.Minute), true)
	}()
	fresh := b.rig.NewCall(Mark{}, answerAtOnce)
	placed := make(chan error, 1)
	go func() { placed <- fresh.Establish(patient(t, time.Minute)) }()
	return func() []*Call {
		if err := <-bye; err != nil {
			t.Errorf("BYE during the outage: %v", err)
		}
		if err := <-placed; err == nil {
			pause(t.Context(), settle)
			fresh.Talk()
			return []*Call{fresh}
		} else if code, _ := fresh.A.Final(t.Context()); code != 503 {
			t.Errorf("new call during the outage: %v", err)
		} else if fresh.A.invite.final.get("retry-after") == "" {
			t.Error("503 without Retry-After")
		}
		return nil
	}
}
