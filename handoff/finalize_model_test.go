package handoff

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"callswitch/sessions"
)

// This model explores the two steps of finalize: a worker with a call at rest
// and a new one, each save on its way for as long as it likes; the document; the
// cluster's two numbers; whoever carries the rollout on, who looks at one thing
// after the other, may die at any point and may carry an order out late; and an
// operator who finalizes, takes it back, finalizes again or undoes. Decided is by
// Next and Steer, as in the driver.
type fState struct {
	phase         int8 // index of fPhases
	writes, floor int8
	turns         int8 // of the operator
	turn, told    int8 // Rollout.Turn; that of the last order carried out
	heard         int8 // what the worker knows it is to write at least
	rec, fly      [2]int8
	look          fLook
	orders        [2]fOrder
}

// fLook is what the one who looks has seen so far; a new document voids it.
type fLook struct{ stage, writes, floor, told, obeyed, behind, below int8 }

type fOrder struct {
	kind, schema int8 // 0 none, 1 write, 2 floor
	read         bool // the cluster's numbers and the document have been read, the numbers have not changed since
	turn         int8 // as read
}

var fPhases = []Phase{PhaseConfirmed, PhaseFinalizing, PhaseRaising, PhaseFinalized, PhaseUndoing, PhaseRolledBack}

type fModel struct {
	name                                string
	noHands, onlyHeard, noCheck, noTurn bool // mutants
	want                                string
	bad                                 string
}

func (m *fModel) fail(what string) {
	if m.bad == "" {
		m.bad = what
	}
}

func fPhase(p Phase) int8 {
	for i, q := range fPhases {
		if p == q {
			return int8(i)
		}
	}
	panic("no phase " + p)
}

// set stores the next document and gives its orders.
func (m *fModel) set(s fState, r Rollout, orders []Order) (fState, bool) {
	if p := fPhase(r.Phase); p != s.phase {
		s.phase, s.look = p, fLook{}
	}
	s.turn = int8(max(r.Turn.Unix(), 0))
	for _, o := range orders {
		k := fOrder{schema: int8(o.Schema)}
		switch o.Kind {
		case OrderWrite:
			k.kind = 1
		case OrderFloor:
			k.kind = 2
		default: // calls go back
			if s.heard > max(s.floor, 1) {
				m.fail("calls go back while the new schema is written")
			}
			s.phase = fPhase(PhaseRolledBack)
			return s, true
		}
		switch {
		case s.orders[0].kind == 0:
			s.orders[0] = k
		case s.orders[1].kind == 0:
			s.orders[1] = k
		default:
			return s, false // a third one under way changes nothing
		}
	}
	return s, true
}

func (m *fModel) rollout(s fState) (Rollout, Facts) {
	l := s.look
	f := Facts{
		Writes: int(l.writes), Floor: int(l.floor), Obeyed: int(l.obeyed), Behind: int(l.behind), Below: int(l.below),
		Workers: []sessions.Process{{ID: "w", Digest: "new", Calls: 2}},
	}
	turn := func(n int8) time.Time {
		if n == 0 {
			return time.Time{}
		}
		return time.Unix(int64(n), 0)
	}
	f.Turn = turn(l.told)
	if m.noTurn {
		f.Turn = turn(s.turn)
		if fPhases[s.phase] == PhaseFinalizing && l.writes < 2 && l.floor < 2 {
			f.Turn = time.Unix(-1, 0) // then it goes by the number alone
		}
	}
	return Rollout{
		Turn: turn(s.turn), Phase: fPhases[s.phase], Since: time.Unix(0, 0), From: Side{Digest: "old", Schema: 1}, To: Side{Digest: "new", Schema: 2},
		BackSteps: []int{100},
	}, f
}

func (m *fModel) next(s fState, emit func(fState, string)) {
	m.worker(s, emit)
	m.carry(s, emit)
	m.executor(s, emit)
	if s.turns < 3 {
		for _, verb := range []string{SteerFinalize, SteerAbort, SteerUndo} {
			r, f := m.rollout(s)
			f.Writes, f.Floor = int(s.writes), int(s.floor)
			if r.Phase == PhaseConfirmed && verb == SteerAbort { // it is as undo there
				continue
			}
			r, orders, err := Steer(r, verb, nil, time.Unix(int64(s.turns)+1, 0), f)
			if err != nil {
				continue
			}
			if t, ok := m.set(s, r, orders); ok {
				t.turns++
				emit(t, "the operator says "+verb)
			}
		}
	}
}

func (m *fModel) worker(s fState, emit func(fState, string)) {
	if w := max(s.writes, s.floor, 1); s.heard != w {
		t := s
		t.heard = w
		emit(t, "the worker hears")
	}
	for i := range s.rec {
		t := s
		if t.fly[i] = s.heard; t != s { // the first, or anew after a time-out
			emit(t, fmt.Sprintf("save %d begins", i))
		}
		if s.fly[i] == 0 {
			continue
		}
		t = s
		t.rec[i], t.fly[i] = s.fly[i], 0
		if t.rec[i] < s.floor {
			m.fail("a record came under the floor")
		}
		emit(t, fmt.Sprintf("save %d is made", i))
	}
	t := s
	t.fly, t.heard = [2]int8{}, max(s.writes, s.floor, 1)
	if t != s {
		emit(t, "the worker dies, its successor takes over")
	}
}

// carry looks at one thing after the other, then takes the step.
func (m *fModel) carry(s fState, emit func(fState, string)) {
	if s.phase == fPhase(PhaseFinalized) || s.phase == fPhase(PhaseRolledBack) {
		return
	}
	l := &s.look
	switch l.stage {
	case 0:
		*l = fLook{stage: 1, writes: s.writes, floor: s.floor, told: s.told, obeyed: s.heard}
		emit(s, "looks at the cluster")
		return
	case 1:
		l.stage = 2
		if fPhases[s.phase] == PhaseFinalizing && max(l.writes, l.floor) >= 2 {
			for i, v := range s.rec {
				if v == 1 || s.fly[i] == 1 && !m.noHands {
					l.behind++
				}
			}
			if s.heard < 2 {
				l.behind++
			}
			if m.onlyHeard && s.heard >= 2 {
				l.behind = 0
			}
		}
		emit(s, "asks the worker")
		return
	case 2:
		l.stage = 3
		if !m.onlyHeard && l.behind == 0 && fPhases[s.phase] == PhaseFinalizing {
			for _, v := range s.rec {
				if v == 1 {
					l.below++
				}
			}
		}
		emit(s, "counts the records")
		return
	}
	r, f := m.rollout(s)
	next, orders := Next(r, time.Unix(1, 0), f)
	s.look = fLook{}
	if t, ok := m.set(s, next, orders); ok {
		emit(t, "takes the next step")
	}
}

func (m *fModel) executor(s fState, emit func(fState, string)) {
	for i, o := range s.orders {
		if o.kind == 0 {
			continue
		}
		t := s
		t.orders[i] = fOrder{}
		emit(t, "an order is lost")
		if !o.read {
			r, _ := m.rollout(s)
			if o.kind == 1 && !r.WantsWritten(int(o.schema)) && !m.noCheck {
				continue // the document does not want it any more: lost
			}
			t = s
			t.orders[i].read, t.orders[i].turn = true, s.turn
			emit(t, "an order is begun")
			continue
		}
		t.orders[i] = fOrder{}
		if o.kind == 1 {
			t.writes, t.told = o.schema, o.turn
		} else {
			t.floor, t.writes = 2, 0
		}
		for k := range t.orders {
			t.orders[k].read, t.orders[k].turn = false, 0 // its CAS fails: it reads again
		}
		emit(t, "an order is carried out")
	}
}

func (m *fModel) explore() (states int, trace []string) {
	start := fState{floor: 1, heard: 1, rec: [2]int8{1, 0}}
	index, all, from, how := map[fState]int{start: 0}, []fState{start}, []int{-1}, []string{""}
	var edges []mEdge
	path := func(at int) (p []string) {
		for ; at > 0; at = from[at] {
			p = append([]string{how[at]}, p...)
		}
		return p
	}
	for at := 0; at < len(all); at++ {
		m.next(all[at], func(t fState, what string) {
			id, known := index[t]
			if !known {
				id = len(all)
				index[t] = id
				all, from, how = append(all, t), append(from, at), append(how, what)
			}
			edges = append(edges, mEdge{int32(at), int32(id)})
		})
		if m.bad != "" {
			return len(all), path(at)
		}
	}
	// From everywhere an end can be reached that the operator would take for one.
	back := make([][]int32, len(all))
	for _, e := range edges {
		back[e.to] = append(back[e.to], e.from)
	}
	good, todo := make([]bool, len(all)), []int32{}
	for i, s := range all {
		ended := s.phase == fPhase(PhaseFinalized) || s.phase == fPhase(PhaseRolledBack) || s.phase == fPhase(PhaseConfirmed) && s.writes == 0
		if ended && s.orders == [2]fOrder{} {
			good[i], todo = true, append(todo, int32(i))
		}
	}
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, f := range back[at] {
			if !good[f] {
				good[f], todo = true, append(todo, f)
			}
		}
	}
	for i, ok := range good {
		if !ok {
			m.fail("it never ends")
			return len(all), path(i)
		}
	}
	// No order that came late may leave the new schema behind.
	for i, s := range all {
		if s.phase == fPhase(PhaseRolledBack) && s.orders == [2]fOrder{} && s.writes > s.floor {
			m.fail("rolled back, and the new schema is written")
			return len(all), path(i)
		}
	}
	return len(all), nil
}

func TestFinalizeModel(t *testing.T) {
	for _, m := range []fModel{
		{name: "the protocol"},
		{name: "mutant: a save on its way is not counted", noHands: true, want: "under the floor"},
		{name: "mutant: the floor rises once everybody has heard", onlyHeard: true, want: "under the floor"},
		{name: "mutant: an order is carried out though the document has changed", noCheck: true, want: "new schema is written"},
		{name: "mutant: orders without a turn", noTurn: true, want: "calls go back while"},
	} {
		t.Run(m.name, func(t *testing.T) {
			states, trace := m.explore()
			t.Logf("%d states: %q", states, m.bad)
			if m.want == "" && m.bad != "" || !strings.Contains(m.bad, m.want) {
				t.Errorf("found %q, want %q\n  %s", m.bad, m.want, strings.Join(trace, "\n  "))
			}
		})
	}
}
