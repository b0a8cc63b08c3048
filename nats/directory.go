package nats

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"callswitch/internal/wire"
	"callswitch/sessions"
)

// DirectoryConfig is a Directory's. Zero values mean the defaults of the comments.
type DirectoryConfig struct {
	// Healthy reports whether the store has a leader; deaths are not inferred
	// while it has none. Asked before each inference only. nil: always.
	Healthy   func(context.Context) bool
	DeadAfter time.Duration // 3 s of silence
	// MassHold is how long deaths are held back when more than half of all known
	// processes (three at least) fall silent together: then it is rather we who
	// are cut off. 60 s; claims stay safe without it, by the store's CAS.
	MassHold time.Duration
	Log      *slog.Logger
}

// Death is how a process was found to have ended.
type Death struct {
	sessions.Process // only ID when it was never heard of
	// Reported: its host saw it exit, or it said goodbye. Otherwise it has been
	// silent, and may yet wake up.
	Reported bool
}

// Directory knows which processes live, by their heartbeats. It decides no
// ownership: it only says when it is worth asking the store.
type Directory struct {
	cfg DirectoryConfig
	c   interface {
		sessions.Bus
		Connected() bool
	}

	mu      sync.Mutex
	procs   map[string]*heard
	ended   map[string]time.Time // reported ends; their late beats are not believed
	since   time.Time            // hearing without a gap since
	onDeath []func(Death)
}

type heard struct {
	sessions.Process
	last time.Time
	dead bool // inferred; a new beat revives it
}

// NewDirectory starts to listen, until ctx ends.
func NewDirectory(ctx context.Context, c *Conn, cfg DirectoryConfig) (*Directory, error) {
	def(&cfg.DeadAfter, DeadAfter)
	def(&cfg.MassHold, time.Minute)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &Directory{cfg: cfg, c: c, procs: map[string]*heard{}, ended: map[string]time.Time{}, since: time.Now()}
	c.OnReconnect(func() { d.forgive(time.Now()) })
	s, err := c.Subscribe(sessions.SubjectBeat("*", "*"), "", d.hear)
	if err != nil {
		return nil, err
	}
	go d.watch(ctx, s)
	return d, nil
}

// OnDeath registers a callback, called once for each death by whoever finds it:
// the calls may overlap.
func (d *Directory) OnDeath(fn func(Death)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.onDeath = append(d.onDeath, fn)
}

// Alive reports whether the process has been heard of and is not known to be dead.
func (d *Directory) Alive(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	h, ok := d.procs[id]
	return ok && !h.dead
}

// Dead reports whether the process is known to be dead, or has not been heard
// of for as long as we have listened, which is long enough. Neither Alive nor
// Dead: nobody can say yet.
func (d *Directory) Dead(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h, ok := d.procs[id]; ok {
		return h.dead
	}
	if _, ok := d.ended[id]; ok {
		return true
	}
	return d.c.Connected() && time.Since(d.since) > d.cfg.DeadAfter
}

// Processes returns those alive, by role, node and id.
func (d *Directory) Processes() []sessions.Process {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ps []sessions.Process
	for _, h := range d.procs {
		if !h.dead {
			ps = append(ps, h.Process)
		}
	}
	slices.SortFunc(ps, func(a, b sessions.Process) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID))
	})
	return ps
}

// Exited is told by the host at once when it has seen a process exit.
func (d *Directory) Exited(id string) { d.end(sessions.Process{ID: id}) }

// end takes a reported end.
func (d *Directory) end(p sessions.Process) {
	d.mu.Lock()
	_, again := d.ended[p.ID]
	if again || len(d.ended) < processesMax {
		d.ended[p.ID] = time.Now()
	}
	told := again
	if h, ok := d.procs[p.ID]; ok {
		p, told = h.Process, told || h.dead
		delete(d.procs, p.ID)
	}
	fns := slices.Clone(d.onDeath)
	d.mu.Unlock()
	if told {
		return
	}
	for _, fn := range fns {
		fn(Death{p, true})
	}
}

// processesMax bounds what strangers on the bus could make us remember.
const processesMax = 10_000

// hear takes one heartbeat.
func (d *Directory) hear(m sessions.Msg) {
	var b beat
	if err := wire.Open(m.Data, &b); err != nil || b.ID == "" {
		d.cfg.Log.Debug("unreadable heartbeat", "subject", m.Subject, "err", err)
		return
	}
	if b.Bye {
		d.end(b.Process)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.ended[b.ID]; ok {
		return
	}
	h := d.procs[b.ID]
	if h == nil {
		if len(d.procs) >= processesMax {
			return
		}
		h = new(heard)
		d.procs[b.ID] = h
	}
	if h.dead {
		d.cfg.Log.Warn("process thought dead is back", "process", b.ID, "silence", time.Since(h.last))
	}
	h.Process, h.last, h.dead = b.Process, time.Now(), false
}

// forgive starts the listening anew: whoever could not be heard is not blamed.
func (d *Directory) forgive(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.since = now
	for _, h := range d.procs {
		if !h.dead {
			h.last = now
		}
	}
}

// watch looks for the silent four times a second. It forgives when the bus is
// away, and when it has itself not run for a while.
func (d *Directory) watch(ctx context.Context, s sessions.Subscription) {
	defer func() { _ = s.Unsubscribe() }()
	tick := time.NewTicker(d.cfg.DeadAfter / 12)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		if !d.c.Connected() || now.Sub(last) > d.cfg.DeadAfter/3 {
			d.forgive(now)
		}
		last = now
		if silent := d.silent(now); len(silent) > 0 {
			if d.cfg.Healthy != nil && !d.cfg.Healthy(ctx) {
				d.forgive(time.Now())
			} else {
				d.bury(silent)
			}
			last = time.Now() // asking may have taken a while
		}
		d.forget(now)
	}
}

// silent returns the ids to be taken for dead now.
func (d *Directory) silent(now time.Time) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []string
	known := 0
	quiet, longest := 0, time.Duration(0)
	for id, h := range d.procs {
		if h.dead {
			continue
		}
		known++
		gone := now.Sub(h.last)
		if gone > d.cfg.DeadAfter/2 {
			quiet++ // counted early: those who vanished together are not blamed one by one
		}
		if gone > d.cfg.DeadAfter {
			ids = append(ids, id)
			longest = max(longest, gone)
		}
	}
	if quiet >= 3 && quiet*2 > known && longest < d.cfg.MassHold {
		return nil
	}
	return ids
}

func (d *Directory) bury(ids []string) {
	d.mu.Lock()
	now := time.Now()
	var deaths []Death
	for _, id := range ids {
		if h, ok := d.procs[id]; ok && !h.dead && now.Sub(h.last) > d.cfg.DeadAfter {
			h.dead = true
			deaths = append(deaths, Death{Process: h.Process})
		}
	}
	fns := slices.Clone(d.onDeath)
	d.mu.Unlock()
	for _, dead := range deaths {
		d.cfg.Log.Warn("process silent, taken for dead", "process", dead.ID, "role", dead.Role, "node", dead.Node)
		for _, fn := range fns {
			fn(dead)
		}
	}
}

// forget drops the dead after ten minutes: nobody asks for them any more, and
// an id is never used again.
func (d *Directory) forget(now time.Time) {
	const keep = 10 * time.Minute
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, h := range d.procs {
		if h.dead && now.Sub(h.last) > keep {
			delete(d.procs, id)
		}
	}
	for id, at := range d.ended {
		if now.Sub(at) > keep {
			delete(d.ended, id)
		}
	}
}
