package loadtest

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// chainLimits of the longest silence, one interval of 20 ms between packets
// included.
const (
	chainPlanned = 60 * time.Millisecond
	chainKilled  = 300 * time.Millisecond
)

// chainTail is how long the calls go on after the last event: SWITCH_CHAIN_TAIL.
func chainTail(t *testing.T) time.Duration {
	t.Helper()
	tail := 10 * time.Second
	if s := os.Getenv("SWITCH_CHAIN_TAIL"); s != "" {
		var err error
		if tail, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	return tail
}

// chainEvent is one thing that happens under the calls; nil: there is no such verb
// yet.
type chainEvent struct {
	name   string
	limit  time.Duration
	happen func(*testing.T)
}

// dies is kill -9 of the one process of a role, until its successor is at work.
func (b *bed) dies(t *testing.T, role string) {
	t.Helper()
	p := b.only(t, role)
	if err := b.sw.Kill(p); err != nil {
		t.Fatal(err)
	}
	if _, err := b.sw.Successor(patient(t, time.Minute), role, p); err != nil {
		t.Fatal(err)
	}
}

func (b *bed) chain() []chainEvent {
	media := func(t *testing.T) { b.inherit(t, "media") }
	dies := func(role string) func(*testing.T) {
		return func(t *testing.T) { b.dies(t, role) }
	}
	return []chainEvent{
		{"a release and back", chainPlanned, func(t *testing.T) {
			bin, _ := binaries()
			b.moveAll(t, bin[1])
			if err := b.say(t, "undo"); err != nil {
				t.Fatal(err)
			}
			b.inState(t, RolloutRolledBack)
		}},
		{"inherit media", chainPlanned, media},
		{"inherit media", chainPlanned, media},
		{"inherit media", chainPlanned, media},
		{"kill -9 of media", chainKilled, dies(RoleMedia)},
		{"inherit edge", chainPlanned, func(t *testing.T) { b.inherit(t, "edge") }},
		{"kill -9 of edge", chainKilled, dies(RoleEdge)},
		{"inherit host", chainPlanned, func(t *testing.T) { t.Log(strings.TrimSpace(b.cli(t, "", "inherit", "host"))) }},
		{"kill -9 of host", chainKilled, func(t *testing.T) {
			if err := b.sw.Kill(b.only(t, RoleHost)); err != nil {
				t.Fatal(err)
			}
			b.sw.exits(t)
			if err := b.sw.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
	}
}

// Calls of every kind of leg live through one chain of events, planned ones and
// kill -9 of every process that has a part in sound, in the same ICE and DTLS
// sessions, and nothing planned costs a packet.
func TestChainOfEvents(t *testing.T) {
	b, _ := realSwitch(t, 0, nil)
	p := newCouples(t, b, packetTime)
	for _, kinds := range [][2]string{
		{legPlain, legPlain},
		{legSDES, legPlain},
		{legPlain, legSDES},
		{legSDES, legSDES},
		{legGCM, legPlain},
		{legPlain, legGCM},
		{legGCM, legGCM},
		{legCM, legPlain},
		{legPlain, legCM},
		{legCM, legGCM},
		{legGCM, legSDES},
		{legSDES, legCM},
	} {
		p.call(t, kinds[0], kinds[1])
	}
	p.connected(t)
	p.talk()
	pause(t.Context(), time.Second) // until the ways are known

	type span struct {
		chainEvent
		begin, end time.Time
		took, stun time.Duration
		watch      watch
	}
	var spans []span
	note := func(s span) {
		if n := len(spans); n > 0 {
			spans[n-1].end = s.begin
		}
		spans = append(spans, s)
	}
	note(span{chainEvent: chainEvent{"nothing", chainPlanned, nil}, begin: time.Now(), watch: b.watch(t)})
	spans[0].stun = p.stun(t, "before everything")
	pause(t.Context(), time.Second)
	for _, e := range b.chain() {
		s := span{chainEvent: e, begin: time.Now(), watch: b.watch(t)}
		e.happen(t)
		s.took = time.Since(s.begin)
		s.stun = p.stun(t, "after "+e.name)
		note(s)
		pause(t.Context(), time.Second)
	}
	note(span{chainEvent: chainEvent{"the time after", chainPlanned, nil}, begin: time.Now(), watch: b.watch(t)})
	pause(t.Context(), chainTail(t))
	spans[len(spans)-1].stun = p.stun(t, "at the end")
	spans[len(spans)-1].end = time.Now()
	last := b.watch(t)
	p.hush(t)

	for i, s := range spans {
		next := last
		if i+1 < len(spans) {
			next = spans[i+1].watch
		}
		var all Figures
		by := map[string]*Figures{}
		for _, c := range p.all {
			for i := range c.far {
				f := between(c.far[i], c.far[1-i], s.begin, s.end)
				all.add(f)
				kind := c.far[i].kind + " to " + c.far[1-i].kind
				if by[kind] == nil {
					by[kind] = new(Figures)
				}
				by[kind].add(f)
			}
		}
		ms := func(d time.Duration) string { return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds()) }
		t.Logf("| %s | in %s | sent %d | lost %d | doubled %d | longest silence %s | (of the senders %s) | delay %s | STUN in %s | others took %.0f %% of a CPU |",
			s.name, ms(s.took), all.Sent, all.Lost, all.Doubled, ms(all.Gap), ms(all.Own), ms(all.Delay), ms(s.stun), 100*s.watch.others(next))
		var odd, long strings.Builder
		for kind, f := range by {
			if f.Doubled > 0 || f.Lost > 0 && s.limit == chainPlanned {
				fmt.Fprintf(&odd, "\n  %s: %+v", kind, *f)
			}
			if f.Gap > s.limit {
				fmt.Fprintf(&long, "\n  %s: %+v", kind, *f)
			}
		}
		if odd.Len() > 0 {
			t.Errorf("%s: packets lost or doubled:%s", s.name, odd.String())
		}
		if long.Len() > 0 {
			b.missedBy(t, s.watch.others(next), "%s: a silence longer than %v:%s", s.name, s.limit, long.String())
		}
	}
	p.verdict(t)
}
