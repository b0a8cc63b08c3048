package handoff

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// stage is a small world for rollouts: workers with so many calls each, of
// which some refuse to move.
type stage struct {
	mu      sync.Mutex
	now     time.Time
	workers []sessions.Process
	refuse  map[string]int // of a worker's calls
	health  Health
	orders  []Order
	stuck   bool   // OrderStart brings nobody
	broken  string // why
	doc     []byte
	rev     uint64
	writes  int
	turn    time.Time
	floor   int
	below   int    // records under the new schema
	deaf    bool   // OrderWrite is lost
	unasked bool   // OrderDryRun is lost
	dies    string // worker that is killed when it has moved ten calls of an order
	orphans int    // its calls, until somebody takes them over
}

func newStage(calls ...int) *stage {
	s := &stage{now: time.Unix(1000, 0), refuse: map[string]int{}}
	for i, n := range calls {
		s.workers = append(s.workers, sessions.Process{Role: "worker", ID: fmt.Sprintf("w-old%d", i), Digest: "old", Calls: n})
	}
	return s
}

func (s *stage) find(id string) *sessions.Process {
	for i := range s.workers {
		if s.workers[i].ID == id {
			return &s.workers[i]
		}
	}
	return &sessions.Process{}
}

func (s *stage) clock() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return s.now }

func (s *stage) pass(d time.Duration) { s.mu.Lock(); defer s.mu.Unlock(); s.now = s.now.Add(d) }

func (s *stage) Facts(context.Context, Rollout) (Facts, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Facts{Workers: append([]sessions.Process(nil), s.workers...), Health: s.health, Broken: s.broken, Floor: s.floor, Writes: s.writes, Turn: s.turn, Below: s.below, Obeyed: s.writes, Older: s.older()}, nil
}

func (s *stage) older() (out []string) {
	for _, w := range s.workers {
		if w.Digest == "old" {
			out = append(out, w.ID)
		}
	}
	return out
}

func (s *stage) Do(ctx context.Context, o Order) (MoveReport, error) {
	r, _, _ := ReadRollout(ctx, s, "rollout")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.orders = append(s.orders, o)
	switch o.Kind {
	case OrderStart:
		if !s.stuck {
			s.workers = append(s.workers, sessions.Process{Role: "worker", ID: "w-" + o.Digest, Digest: o.Digest})
		}
	case OrderStop:
		var left []sessions.Process
		for _, w := range s.workers {
			if w.Digest != o.Digest || w.Calls > 0 {
				left = append(left, w)
			}
		}
		s.workers = left
	case OrderWrite:
		if !s.deaf {
			s.writes, s.turn = o.Schema, r.Turn
		}
	case OrderFloor:
		s.floor, s.writes = o.Schema, 0
	case OrderMove, OrderDryRun:
		if o.Kind == OrderDryRun && s.unasked {
			return MoveReport{}, errors.New("the bus is away")
		}
		from, to := s.find(o.Source), s.find(o.Move.To)
		n := o.Move.Count
		if n == 0 || n > from.Calls { // another host's order may have come first
			n = from.Calls
		}
		if o.Kind == OrderMove && o.Source == s.dies {
			to.Calls, s.orphans = to.Calls+10, from.Calls-10
			s.workers = slices.DeleteFunc(s.workers, func(p sessions.Process) bool { return p.ID == s.dies })
			return MoveReport{}, errors.New("it died")
		}
		r := MoveReport{Asked: n}
		r.Moved = min(n, from.Calls-s.refuse[o.Source])
		for i := range n - r.Moved {
			r.Refused = append(r.Refused, Refusal{Call: codecore.CallID(fmt.Sprintf("c%d", i)), Code: CodePinned})
		}
		for i := range r.Moved {
			r.Freeze = append(r.Freeze, float64(i%10))
		}
		if o.Kind == OrderMove {
			from.Calls -= r.Moved
			to.Calls += r.Moved
		}
		return r, nil
	}
	return MoveReport{}, nil
}

func (s *stage) Get(context.Context, string) ([]byte, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rev == 0 {
		return nil, 0, sessions.ErrNotFound
	}
	return s.doc, s.rev, nil
}

func (s *stage) Put(_ context.Context, _ string, value []byte, rev uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rev != s.rev {
		return 0, sessions.ErrConflict
	}
	s.rev++
	s.doc = value
	return s.rev, nil
}

func (s *stage) config() RolloutConfig {
	return RolloutConfig{Docs: s, Key: "rollout", Executor: s, Every: time.Millisecond, Now: s.clock}.withDefaults()
}

func (s *stage) start(t *testing.T, steps ...int) {
	t.Helper()
	r, err := NewRollout("r-1", Side{Release: "v1", Digest: "old"}, Side{Release: "v2", Digest: "new", Schema: 2}, steps, 30*time.Second, 10*time.Minute, s.now)
	if err == nil {
		err = StartRollout(context.Background(), s, "rollout", r)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// settle advances until nothing more happens at this moment.
func (s *stage) settle(t *testing.T) Rollout {
	t.Helper()
	for quiet := 0; quiet < 100; {
		worked, err := s.config().advance(context.Background(), new(time.Time))
		if err != nil {
			t.Fatal(err)
		}
		if quiet++; worked {
			quiet = 0
		}
		if quiet > 2 { // an order without a new document counts as rest
			r, _, err := ReadRollout(context.Background(), s, "rollout")
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
	}
	t.Fatal("the rollout does not come to rest")
	return Rollout{}
}

func (s *stage) on(digest string) (n int) {
	f, _ := s.Facts(context.Background(), Rollout{})
	return alive(workersOf(f, digest))
}

func (s *stage) steer(t *testing.T, verb string, steps ...int) Rollout {
	t.Helper()
	r, err := SteerRollout(context.Background(), s.config(), verb, steps)
	if err != nil {
		t.Fatalf("%s: %v", verb, err)
	}
	return r
}

func TestRolloutByWaves(t *testing.T) {
	s := newStage(120, 80)
	s.start(t, 1, 10, 50, 100)
	for i, want := range []int{2, 20, 100} {
		r := s.settle(t)
		if r.Phase != PhasePausing || s.on("new") != want || len(r.Waves) != i+1 {
			t.Fatalf("after wave %d: %s with %d of 200 on the new release", i+1, r.Phase, s.on("new"))
		}
		if got := r.Weights(); got["new"] != r.Steps[i] || got["old"] != 100-r.Steps[i] {
			t.Errorf("weights after wave %d: %v", i+1, got)
		}
		s.pass(31 * time.Second)
	}
	r := s.settle(t)
	if r.Phase != PhaseDone || s.on("old") != 0 || r.DryRun.Moved != 200 || r.Waves[3].Max < 9 {
		t.Fatalf("at the end: %+v, %d left", r, s.on("old"))
	}
	if w := r.Weights(); w["new"] != 100 || w["old"] != 0 {
		t.Errorf("weights %v", w)
	}
	s.steer(t, SteerConfirm)
	if r = s.settle(t); r.Phase != PhaseConfirmed || len(s.workers) != 1 {
		t.Fatalf("%s, workers %v", r.Phase, s.workers)
	}
	s.steer(t, SteerFinalize)
	if r = s.settle(t); r.Phase != PhaseFinalized || s.floor != 2 {
		t.Errorf("%s with the floor at %d", r.Phase, s.floor)
	}
}

// A source that is killed with its order in hand tells nothing: the wave counts what
// the others told, the gate judges that, and the calls are met again where they
// have been taken over.
func TestSourceDiesWithItsOrder(t *testing.T) {
	s := newStage(100, 100)
	s.dies, s.refuse["w-old1"] = "w-old0", 5
	s.start(t, 50, 100)
	r := s.settle(t)
	if w := r.Waves[0]; r.Phase != PhasePausing || w.Listed != 100 || w.Moved != 50 || w.Refused+w.Gone+w.Left != 0 {
		t.Fatalf("%s, %+v", r.Phase, w)
	}
	s.find("w-old1").Calls += s.orphans
	s.pass(31 * time.Second)
	r = s.settle(t)
	if w := r.Waves[1]; r.Phase != PhaseDone || s.on("old") != 5 || w.Listed != 140 || w.Moved != 135 || w.Refused != 5 || w.Left != 0 {
		t.Errorf("%s, %d left, %+v", r.Phase, s.on("old"), w)
	}
}

// confirmed is a stage after its rollout: one worker, two hundred records in the old schema.
func confirmed(t *testing.T) *stage {
	t.Helper()
	s := newStage(200)
	s.start(t, 100)
	s.settle(t)
	s.steer(t, SteerConfirm)
	if r := s.settle(t); r.Phase != PhaseConfirmed || len(s.workers) != 1 {
		t.Fatalf("%s, workers %v", r.Phase, s.workers)
	}
	s.floor, s.below = 1, 200
	return s
}

// TestFinalizeInTwoSteps: what is written rises first, the floor when no record is below.
func TestFinalizeInTwoSteps(t *testing.T) {
	s := confirmed(t)
	s.deaf = true // whoever gave the first order dies with it
	s.steer(t, SteerFinalize)
	if r := s.settle(t); r.Phase != PhaseFinalizing || s.writes != 0 {
		t.Fatalf("%s, writes %d", r.Phase, s.writes)
	}
	s.deaf = false
	for _, left := range []int{200, 7} {
		s.below = left
		if r := s.settle(t); r.Phase != PhaseFinalizing || s.writes != 2 || s.floor != 1 || r.Left != left {
			t.Fatalf("%s, writes %d, floor %d, %d left", r.Phase, s.writes, s.floor, r.Left)
		}
	}
	s.below = 0
	if r := s.settle(t); r.Phase != PhaseFinalized || s.floor != 2 || r.Left != 0 {
		t.Fatalf("%s, floor %d", r.Phase, s.floor)
	}
	for _, verb := range []string{SteerAbort, SteerUndo, SteerFinalize} {
		if _, err := SteerRollout(context.Background(), s.config(), verb, nil); !errors.Is(err, ErrPhase) {
			t.Errorf("%s after the end: %v", verb, err)
		}
	}
}

// TestFinalizeIsTakenBack: before its second step it can be, by whatever dies.
func TestFinalizeIsTakenBack(t *testing.T) {
	s := confirmed(t)
	s.steer(t, SteerFinalize)
	s.settle(t)
	s.deaf = true
	s.pass(time.Second)
	s.steer(t, SteerAbort)
	if r := s.settle(t); r.Phase != PhaseConfirmed || s.writes != 2 {
		t.Fatalf("%s, writes %d", r.Phase, s.writes)
	}
	s.deaf = false
	if r := s.settle(t); r.Phase != PhaseConfirmed || s.writes != 0 || s.floor != 1 {
		t.Fatalf("%s, writes %d: the order that was lost is not given again", r.Phase, s.writes)
	}
	s.pass(time.Second)
	s.steer(t, SteerFinalize)
	s.settle(t)
	s.pass(time.Second)
	s.steer(t, SteerUndo)
	if r := s.settle(t); r.Phase != PhaseRolledBack || s.writes != 0 || s.on("old") != 200 {
		t.Fatalf("%s, writes %d, %d back", r.Phase, s.writes, s.on("old"))
	}
}

// TestFinalizeWaitsForTheOld: not begun while they live, not ended when one comes.
func TestFinalizeWaitsForTheOld(t *testing.T) {
	s := confirmed(t)
	old := sessions.Process{Role: "worker", ID: "w-old9", Digest: "old", Calls: 1}
	s.workers = append(s.workers, old)
	if _, err := SteerRollout(context.Background(), s.config(), SteerFinalize, nil); !errors.Is(err, ErrOlder) || !strings.Contains(err.Error(), "w-old9") {
		t.Fatalf("finalized beside an old worker: %v", err)
	}
	s.workers = s.workers[:1]
	s.steer(t, SteerFinalize)
	s.workers, s.below = append(s.workers, old), 0
	if r := s.settle(t); r.Phase != PhaseFinalizing || s.floor != 1 {
		t.Errorf("%s, floor %d with an old worker that came meanwhile", r.Phase, s.floor)
	}
}

func TestRolloutGoesBack(t *testing.T) {
	for name, c := range map[string]struct {
		harm   func(*stage)
		reason string
	}{
		"calls lost": {func(s *stage) { s.health.Drops = 1 }, "gate: 1 calls lost"},
		"media gaps": {func(s *stage) { s.health.MediaGaps = 50 }, "gate: 50 legs fell silent"},
		"new calls failed": {func(s *stage) {
			s.health.Attempts, s.health.Failed = map[string]int{"new": 40}, map[string]int{"new": 4}
		}, "gate: 4 of 40 new calls failed on v2"},
		"not confirmed": {func(s *stage) { s.pass(time.Hour) }, "not confirmed in time"},
		"aborted":       {nil, "aborted by the operator"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(100)
			s.start(t, 100)
			if r := s.settle(t); r.Phase != PhaseDone {
				t.Fatal(r.Phase)
			}
			if c.harm == nil {
				s.steer(t, SteerAbort)
			} else {
				c.harm(s)
			}
			r := s.settle(t)
			if r.Phase != PhaseRolledBack || r.Reason != c.reason || s.on("old") != 100 || r.Weights()["old"] != 100 {
				t.Errorf("%s because %q, %d back", r.Phase, r.Reason, s.on("old"))
			}
			if len(s.workers) != 1 {
				t.Errorf("workers left: %v", s.workers)
			}
		})
	}
}

// TestWhoWasLeavingComesBack: all was killed while a worker of the side that was
// left was about to go. It is started again, takes calls over, and is seen off.
func TestWhoWasLeavingComesBack(t *testing.T) {
	s := newStage(100)
	s.start(t, 100)
	s.settle(t)
	s.steer(t, SteerUndo)
	if r := s.settle(t); r.Phase != PhaseRolledBack || len(s.workers) != 1 {
		t.Fatalf("%s, workers %v", r.Phase, s.workers)
	}
	s.workers[0].Calls = 60
	s.workers = append(s.workers, sessions.Process{Role: "worker", ID: "w-new", Digest: "new", Calls: 40})
	s.pass(31 * time.Second)
	s.settle(t)
	s.pass(time.Minute)
	if r := s.settle(t); r.Phase != PhaseRolledBack || s.on("old") != 100 || len(s.workers) != 1 {
		t.Errorf("%s, workers %v", r.Phase, s.workers)
	}
	// Serve was upgraded by a restart since: nobody is there to whom it could leave them.
	s.workers = []sessions.Process{{Role: "worker", ID: "w-new", Digest: "new"}}
	s.pass(time.Minute)
	if s.settle(t); len(s.workers) != 1 {
		t.Error("the only worker was stopped")
	}
}

func TestUndoBySteps(t *testing.T) {
	s := newStage(100)
	s.start(t, 50)
	s.settle(t)
	s.steer(t, SteerUndo, 60, 100)
	r := s.settle(t)
	var back []int
	for _, w := range r.Waves {
		if w.Back {
			back = append(back, w.Moved)
		}
	}
	if r.Phase != PhaseRolledBack || s.on("old") != 100 || fmt.Sprint(back) != "[10 40]" {
		t.Errorf("%s, %d back, waves %v", r.Phase, s.on("old"), back)
	}
}

// TestRefusedStay lets three calls refuse: they are listed and the rollout ends.
func TestRefusedStay(t *testing.T) {
	s := newStage(100)
	s.refuse["w-old0"] = 3
	s.start(t, 100)
	r := s.settle(t)
	if r.Phase != PhaseDone || s.on("old") != 3 || len(r.Refused) != 3 || r.Waves[0].Moved != 97 || r.Waves[0].Refused != 3 || len(r.DryRun.Refused) != 0 || r.DryRun.Why[CodePinned] != 3 {
		t.Fatalf("%+v", r)
	}
	s.steer(t, SteerConfirm)
	s.settle(t)
	if len(s.workers) != 2 {
		t.Errorf("the old worker left with calls: %v", s.workers)
	}
}

// TestDryRunRefused: what the dry run says of most calls ends it before any is touched.
func TestDryRunRefused(t *testing.T) {
	s := newStage(100)
	s.refuse["w-old0"] = 40
	s.start(t, 100)
	r := s.settle(t)
	if r.Phase != PhaseFailed || !strings.Contains(r.Reason, "40 of 100") || s.on("old") != 100 || len(r.Waves) != 0 || len(s.workers) != 1 {
		t.Errorf("%s: %s, %d left, workers %v", r.Phase, r.Reason, s.on("old"), s.workers)
	}
	few := Rollout{DryRun: &MoveReport{Asked: 3, Why: map[Code]int{CodeMigratePanic: 3}}}
	if few.tooFew() == "" {
		t.Error("three of three calls panic, and it goes on")
	}
	few.DryRun.Why = map[Code]int{CodePinned: 3}
	if why := few.tooFew(); why != "" {
		t.Errorf("three pinned calls: %s", why)
	}
}

// TestDryRunIsAwaited: nothing moves before all of it is known, whoever looks
// meanwhile and whoever dies with it.
func TestDryRunIsAwaited(t *testing.T) {
	s := newStage(50, 50)
	s.refuse["w-old1"] = 40
	s.unasked = true
	s.start(t, 100)
	if r := s.settle(t); r.Phase != PhasePreparing || r.Asking != 2 {
		t.Fatalf("%s, %d orders awaited", r.Phase, r.Asking)
	}
	s.unasked = false
	if r := s.settle(t); r.Phase != PhasePreparing {
		t.Fatalf("%s without a dry run", r.Phase)
	}
	s.pass(dryLimit)
	if r := s.settle(t); r.Phase != PhaseFailed || !strings.Contains(r.Reason, "40 of 100") || len(r.Waves) != 0 {
		t.Errorf("%s: %s, waves %v", r.Phase, r.Reason, r.Waves)
	}
}

func TestHeldAndPromoted(t *testing.T) {
	s := newStage(100)
	s.start(t, 10, 100)
	s.settle(t)
	s.steer(t, SteerPause)
	s.pass(time.Hour)
	if r := s.settle(t); r.Phase != PhasePausing || s.on("new") != 10 {
		t.Fatalf("%s with %d moved", r.Phase, s.on("new"))
	}
	s.steer(t, SteerPromote)
	if r := s.settle(t); r.Phase != PhaseDone {
		t.Errorf("%s", r.Phase)
	}
}

func TestNoNewWorker(t *testing.T) {
	s := newStage(10)
	s.stuck = true
	s.start(t)
	s.settle(t)
	s.pass(2 * time.Minute)
	if r := s.settle(t); r.Phase != PhaseFailed || s.on("old") != 10 || len(s.orders) != 2 || s.orders[1].Kind != OrderStop {
		t.Errorf("%s: %s, orders %v; want start, then stop: the host would try for ever", r.Phase, r.Reason, s.orders)
	}
}

// TestBrokenRelease: workers that end again and again are not waited for.
func TestBrokenRelease(t *testing.T) {
	s := newStage(10)
	s.stuck, s.broken = true, "exit code 7"
	s.start(t)
	if r := s.settle(t); r.Phase != PhaseFailed || r.Reason != "exit code 7" || len(s.orders) != 2 || s.orders[1].Kind != OrderStop {
		t.Errorf("%s: %s, orders %v", r.Phase, r.Reason, s.orders)
	}
}

// TestManyHostsRunOneRollout runs it in four processes: each order is given once.
func TestManyHostsRunOneRollout(t *testing.T) {
	s := newStage(50, 50)
	s.start(t, 10, 100)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := RunRollout(ctx, s.config()); err != nil {
				t.Error(err)
			}
		})
	}
	phase := func() Phase {
		r, _, _ := ReadRollout(ctx, s, "rollout")
		return r.Phase
	}
	eventually(t, "the first wave", func() bool { return phase() == PhasePausing })
	s.pass(31 * time.Second)
	eventually(t, "the last wave", func() bool { return phase() == PhaseDone })
	cancel()
	all.Wait()
	count := map[OrderKind]int{}
	for _, o := range s.orders {
		count[o.Kind]++
	}
	if s.on("new") != 100 || count[OrderStart] != 1 || count[OrderDryRun] != 2 {
		t.Errorf("%d moved by orders %v", s.on("new"), count)
	}
}

func TestNewRolloutRefuses(t *testing.T) {
	side := func(d string) Side { return Side{Digest: d} }
	for _, steps := range [][]int{{0}, {50, 50}, {101}, {50, 20}} {
		if _, err := NewRollout("x", side("a"), side("b"), steps, 0, 0, time.Time{}); err == nil {
			t.Errorf("steps %v taken", steps)
		}
	}
	if _, err := NewRollout("x", side("a"), side("a"), nil, 0, 0, time.Time{}); err == nil {
		t.Error("a rollout to itself taken")
	}
}
