package loadtest

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// MatrixConfig is a run of every kind through every event. Zero values mean the
// defaults of the comments.
type MatrixConfig struct {
	SwitchBinary string
	NextBinary   string
	Calls        int       // of each kind at once, default 20
	Kinds        []string  // default MatrixKinds
	Progress     io.Writer // default os.Stderr
}

// The columns of a Matrix: what happens to the switch while every call is in its moment.
const (
	EventNone    = "quiet"
	EventRelease = "release and back"
	EventWorker  = "kill -9 worker"
	EventEdge    = "kill -9 edge"
	EventInherit = "inherit edge, three times"
	EventSound   = "inherit media, three times"
)

// MatrixEvents are the columns, in order.
func MatrixEvents() []string {
	return []string{EventNone, EventRelease, EventWorker, EventEdge, EventInherit, EventSound}
}

// MatrixKinds are the rows, in order.
func MatrixKinds() []string {
	return []string{
		KindTalking, KindRinging, KindEarly, KindHeld, KindSilent, KindPending, KindUpdate, KindPrack, KindRefresh,
		KindTransfer, KindFork, KindDTMF, KindInfo, KindInvite, KindChallenged, KindChallenges,
	}
}

// Matrix is how the calls of each kind ended, by event and kind. An outcome is the
// words of the far ends alone (Call.outcome).
type Matrix struct {
	Calls    int                            `json:"calls"` // of each kind
	Kinds    []string                       `json:"kinds"`
	Events   []string                       `json:"events"`
	Same     map[string]map[string]int      `json:"same"`  // as in the quiet run, by event and kind; in the quiet run: ended well
	Moved    map[string]map[string]int      `json:"moved"` // calls whose owner changed while they were in their moment
	Outcomes map[string]map[string][]string `json:"-"`
	Problems []string                       `json:"problems,omitempty"`
	Seconds  float64                        `json:"seconds"`
}

// matrix is a Matrix that is being filled.
type matrix struct {
	cfg MatrixConfig
	bed *bed
	out Matrix
}

// RunMatrix places Calls of each kind at once, brings each to its moment, lets the
// event happen and the calls go on, for one event after the other; each call is
// held against the one of its kind and number in the quiet run.
func RunMatrix(ctx context.Context, c MatrixConfig) (Matrix, error) {
	setDefault(&c.Calls, 20)
	if len(c.Kinds) == 0 {
		c.Kinds = MatrixKinds()
	}
	if c.Progress == nil {
		c.Progress = os.Stderr
	}
	begin := time.Now()
	b, err := newBed(ctx, BenchConfig{SwitchBinary: c.SwitchBinary, Config: KindsConfig}, c.Calls*len(c.Kinds)*len(MatrixEvents()), 1,
		RigConfig{RTP: true, Phone: phoneIP})
	if err != nil {
		return Matrix{}, err
	}
	defer b.close()
	plan := b.rig.Dialplan()
	plan.Routes = append(plan.Routes, b.rig.kindRoutes()...)
	if err := b.sw.plan(ctx, plan); err != nil {
		return Matrix{}, err
	}
	m := &matrix{cfg: c, bed: b, out: Matrix{
		Calls: c.Calls, Kinds: c.Kinds, Events: MatrixEvents(),
		Same: map[string]map[string]int{}, Moved: map[string]map[string]int{}, Outcomes: map[string]map[string][]string{},
	}}
	for _, event := range m.out.Events {
		if err := m.round(ctx, event); err != nil {
			return m.out, fmt.Errorf("%s: %w", event, err)
		}
	}
	m.compare()
	m.out.Seconds = time.Since(begin).Seconds()
	return m.out, nil
}

// player is one call of a round.
type player struct {
	*Call
	err error
}

// round has all calls in their moments, lets the event happen, and ends them.
func (m *matrix) round(ctx context.Context, event string) error {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	stage := newStage()
	var up, over sync.WaitGroup
	players := m.place(ctx, event, stage, &up, &over)
	there := make(chan struct{})
	go func() { up.Wait(); close(there) }()
	select {
	case <-there:
	case <-ctx.Done():
		return fmt.Errorf("loadtest: not every call came into its moment: %w", ctx.Err())
	}
	placed := time.Since(begin)
	before, err := m.epochs(ctx)
	if err != nil {
		return err
	}
	stage.moving.set()
	err = m.strike(ctx, event, len(before))
	took := time.Since(begin) - placed
	if err != nil {
		cancel()
		over.Wait()
		return err
	}
	after, err := m.epochs(ctx)
	stage.forth.set()
	stage.back.set()
	stage.end.set()
	over.Wait()
	if err != nil {
		return err
	}
	if err := m.note(ctx, event, players, before, after); err != nil {
		return err
	}
	for _, ps := range players {
		for _, p := range ps {
			p.Close()
		}
	}
	_, _ = fmt.Fprintf(m.cfg.Progress, "%s: all in their moments after %.1f s, the event took %.1f s, all over after %.1f s\n",
		event, placed.Seconds(), took.Seconds(), time.Since(begin).Seconds())
	return nil
}

// matrixSession is the interval of a session whose refresh falls due in an event:
// half of it before, a sixth of it for the event (RFC 4028 section 10).
func matrixSession(event string) int {
	switch event {
	case EventRelease, EventInherit, EventSound: // they take 1 to 2 s, or 5 on a machine that is held up
		return 48
	}
	return 30
}

// matrixLead is how long before a refresh falls due the calls of the other kinds are
// brought to their moments; there they wait for it, and no transaction of theirs lasts
// longer than 32 s.
const matrixLead = 8 * time.Second

func (m *matrix) place(ctx context.Context, event string, s *Stage, up, over *sync.WaitGroup) map[string][]*player {
	players := map[string][]*player{}
	one := func(kind string, i int) {
		p := &player{Call: m.bed.rig.NewOf(kind, Mark{}, i)}
		if kind == KindRefresh {
			p.refreshing(matrixSession(event))
		}
		players[kind] = append(players[kind], p)
		up.Add(1)
		there := sync.OnceFunc(up.Done)
		over.Go(func() {
			defer there()
			p.err = kindOf[kind].play(ctx, p.Call, s, there)
		})
		pause(ctx, 5*time.Millisecond)
	}
	for i := range m.cfg.Calls { // theirs is what is waited for
		for _, kind := range m.cfg.Kinds {
			if kind == KindRefresh {
				one(kind, i)
			}
		}
	}
	if slices.Contains(m.cfg.Kinds, KindRefresh) {
		pause(ctx, time.Duration(matrixSession(event))*time.Second/2-matrixLead)
	}
	for i := range m.cfg.Calls {
		for _, kind := range m.cfg.Kinds {
			if kind != KindRefresh {
				one(kind, i)
			}
		}
	}
	return players
}

// epochs are the ownerships of all calls, by number dialled.
func (m *matrix) epochs(ctx context.Context) (map[string]uint64, error) {
	calls, err := m.bed.sw.API.Calls(ctx)
	out := map[string]uint64{}
	for _, c := range calls {
		out[c.To] = c.Epoch
	}
	return out, err
}

// note keeps what the far ends saw, once every call has its CDR.
func (m *matrix) note(ctx context.Context, event string, players map[string][]*player, before, after map[string]uint64) error {
	cdrs := map[string][]CDR{}
	for range 600 {
		all, err := m.bed.sw.API.CDRs(ctx)
		if err != nil {
			return err
		}
		clear(cdrs)
		for _, c := range all {
			cdrs[c.To] = append(cdrs[c.To], c)
		}
		missing := 0
		for _, ps := range players {
			for _, p := range ps {
				if len(cdrs[p.Number]) == 0 {
					missing++
				}
			}
		}
		if missing == 0 || !pause(ctx, 100*time.Millisecond) {
			break
		}
	}
	m.out.Outcomes[event], m.out.Moved[event] = map[string][]string{}, map[string]int{}
	for kind, ps := range players {
		for _, p := range ps {
			m.out.Outcomes[event][kind] = append(m.out.Outcomes[event][kind], p.outcome(p.err, cdrs[p.Number]))
			if after[p.Number] > before[p.Number] && before[p.Number] > 0 {
				m.out.Moved[event][kind]++
			}
			if event == EventNone {
				for _, s := range judge(p.Call, p.err, true) {
					m.out.Problems = append(m.out.Problems, fmt.Sprintf("%s %d, quiet: %s", kind, p.index, s))
				}
			}
		}
	}
	return nil
}

// compare holds every call against the quiet run's. Calls of a kind that differ in
// the same way are one problem.
func (m *matrix) compare() {
	quiet := m.out.Outcomes[EventNone]
	for _, event := range m.out.Events {
		m.out.Same[event] = map[string]int{}
		for _, kind := range m.out.Kinds {
			odd := map[string][]string{}
			for i, o := range m.out.Outcomes[event][kind] {
				if o == quiet[kind][i] {
					m.out.Same[event][kind]++
					continue
				}
				how := o + "where the quiet run has\n" + quiet[kind][i]
				odd[how] = append(odd[how], strconv.Itoa(i))
			}
			for _, how := range sortedKeys(odd) {
				m.out.Problems = append(m.out.Problems, fmt.Sprintf("%s, %s, calls %s:\n%s", kind, event, strings.Join(odd[how], " "), how))
			}
		}
	}
}

// WriteTable writes the matrix as Markdown.
func (m *Matrix) WriteTable(w io.Writer) {
	_, _ = fmt.Fprintf(w, "| kind | %s |\n|---|%s\n", strings.Join(m.Events, " | "), strings.Repeat("---|", len(m.Events)))
	for _, kind := range m.Kinds {
		_, _ = fmt.Fprintf(w, "| %s |", kind)
		for _, event := range m.Events {
			_, _ = fmt.Fprintf(w, " %d/%d |", m.Same[event][kind], m.Calls)
		}
		_, _ = fmt.Fprintln(w)
	}
}

// IsKind tells whether a matrix has rows of that name.
func IsKind(name string) bool { return slices.Contains(MatrixKinds(), name) }
