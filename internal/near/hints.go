package near

import (
	"slices"
	"sync"
	"time"
)

// hints say which process answered last for a subject that one process serves.
// They are kept in two halves; when the newer is full it becomes the older, and
// the older is forgotten.
type hints struct {
	mu       sync.Mutex
	new, old map[string]string
}

const halfHints = 16 << 10

func (h *hints) get(subject string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if name := h.new[subject]; name != "" {
		return name
	}
	name := h.old[subject]
	if name != "" {
		delete(h.old, subject)
		h.put(subject, name)
	}
	return name
}

// put is called with h.mu held.
func (h *hints) put(subject, name string) {
	if len(h.new) >= halfHints {
		h.old, h.new = h.new, nil
	}
	if h.new == nil {
		h.new = map[string]string{}
	}
	h.new[subject] = name
}

// set remembers an answer; fresh: only if nothing is known yet.
func (h *hints) set(subject, name string, fresh bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if fresh && (h.new[subject] != "" || h.old[subject] != "") {
		return
	}
	delete(h.old, subject)
	h.put(subject, name)
}

// forget forgets name for a subject, and nothing newer.
func (h *hints) forget(subject, name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.new[subject] != name && h.old[subject] != name {
		return false
	}
	delete(h.new, subject)
	delete(h.old, subject)
	return true
}

// A group is who has answered for the subject of a queue group. They are asked in
// turn; each sample-th request goes by the far bus, to find others. When one of
// them cannot be reached over a stream, all goes by the far bus for a while, so
// that it has its share.
type group struct {
	names []string
	turn  int
	count int
	far   time.Time // until then by the far bus
}

type groups struct {
	mu  sync.Mutex
	all map[string]*group
}

const (
	maxGroups = 64
	maxNames  = 32
	sample    = 8
	farFor    = 10 * time.Second
)

// group returns a subject's, made if need be. g.mu is held.
func (g *groups) group(subject string) *group {
	x := g.all[subject]
	if x == nil {
		if g.all == nil || len(g.all) >= maxGroups {
			g.all = map[string]*group{}
		}
		x = &group{}
		g.all[subject] = x
	}
	return x
}

// pick says who is asked next; "": whom the far bus chooses.
func (g *groups) pick(subject string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.group(subject)
	if x.count++; len(x.names) == 0 || x.count%sample == 0 || !x.far.IsZero() && time.Now().Before(x.far) {
		return ""
	}
	x.turn++
	return x.names[x.turn%len(x.names)]
}

// learn remembers who answered by the far bus; "" is one that no stream reaches.
func (g *groups) learn(subject, name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.group(subject)
	switch {
	case name == "":
		x.far = time.Now().Add(farFor)
	case slices.Contains(x.names, name):
	case len(x.names) < maxNames:
		x.names = append(x.names, name)
	}
}

func (g *groups) forget(subject, name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.group(subject)
	x.names = slices.DeleteFunc(x.names, func(n string) bool { return n == name })
}

// shortCut returns the stream to who serves a subject alone, nil = not known.
func (b *Bus) shortCut(subject string) *asked {
	name := b.hints.get(subject)
	if name == "" {
		return nil
	}
	a := b.peers.get(name)
	if a == nil {
		b.forget(subject, name)
	}
	return a
}

// way returns the stream to ask a subject over, nil = the far bus.
func (b *Bus) way(subject string, kind Kind) *asked {
	if kind == One {
		return b.shortCut(subject)
	}
	name := b.groups.pick(subject)
	if name == "" {
		return nil
	}
	a := b.peers.get(name)
	if a == nil {
		b.lose(subject, Group, name)
	}
	return a
}

// learn remembers who answered by the far bus.
func (b *Bus) learn(subject string, kind Kind, from string) {
	if !validName(from) || from == b.cfg.Name || b.peers.get(from) == nil {
		from = ""
	}
	switch {
	case kind == Group:
		b.groups.learn(subject, from)
	case from != "":
		b.hints.set(subject, from, false)
	}
}

// noted remembers a subject that name says it serves.
func (b *Bus) noted(subject, name string) {
	if b.cfg.Kind(subject) == One {
		b.hints.set(subject, name, true)
	}
}

// lose forgets a short cut that failed.
func (b *Bus) lose(subject string, kind Kind, name string) {
	if kind == Group {
		b.Stats.Lost.Add(1)
		b.groups.forget(subject, name)
		return
	}
	b.forget(subject, name)
}

func (b *Bus) forget(subject, name string) {
	if b.hints.forget(subject, name) {
		b.Stats.Lost.Add(1)
	}
}
