package registrant

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// Store keeps one value for each key by compare-and-set on its revision; its
// errors are those of sessions (ErrNotFound, ErrConflict, ErrUnavailable).
type Store interface {
	// Put writes if the revision is still rev (0: there is no value), and forgets
	// the value after keep (0: never). An empty value says that there is none.
	Put(ctx context.Context, key string, value []byte, rev uint64, keep time.Duration) (uint64, error)
	// Get reads the newest value; ErrNotFound comes with the revision to write over.
	Get(ctx context.Context, key string) (value []byte, rev uint64, err error)
	// Watch calls fn for each value there is and for each that changes (nil: it
	// has gone) until ctx ends; it returns once fn has had all there is.
	Watch(ctx context.Context, fn func(key string, value []byte)) error
}

// Config is what a Keeper is made of. Only Now, Prefer, Log and Observe have defaults.
type Config struct {
	ID      string // incarnation of this worker
	Release string
	Store   Store
	Bus     sessions.Bus
	Plan    func() *codecore.Plan
	Living  func() []sessions.Process // workers, this one too, and edges
	Dead    func(id string) bool      // known to be dead; neither that nor in Living: nobody can say yet
	Token   func(codecore.CallID) string
	Now     func() time.Time // store time; default time.Now
	Prefer  func() string    // digest of the release that takes the new calls; "" (the default): any
	Log     *slog.Logger     // default: nowhere
	// Observe is told what happens, for metrics: "sent", "granted", "removed",
	// "created", "claimed", "lost", "panic", or the reason of a failure.
	Observe func(peer, what string)
}

const (
	tick    = time.Second     // between looks
	resend  = time.Second     // between repetitions of an action without its answer
	grace   = 5 * time.Second // of an edge that is silent
	settled = 3 * time.Second // an owner that lives is left alone after a claim: all have heard by then who it is
	refused = 10 * time.Second
	tombFor = time.Hour // an empty value is kept for all to hear of it
)

// A Keeper takes part in keeping the registrations of a cluster: it owns those
// that it ought to, and knows of the others. One goroutine does it all.
type Keeper struct {
	cfg     Config
	changes chan change
	mail    chan sessions.Msg
	kick    chan struct{}
	asked   chan chan []Record
	ids     atomic.Pointer[map[codecore.CallID]bool] // that are stored, for Knows

	held  map[codecore.CallID]*held
	edges map[string]time.Time // node -> when its edge was seen last
	ready bool                 // every record there is has been seen
}

// held is a registration as this worker knows it.
type held struct {
	rec  Record
	rev  uint64 // of rec, when it is ours
	sub  sessions.Subscription
	sent time.Time // of the last action
	wait time.Time // no step, or no claim, before
}

type change struct {
	key   string
	value []byte
	all   bool // the first pass is over
}

// NewKeeper makes a Keeper; Run keeps.
func NewKeeper(c Config) *Keeper {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Prefer == nil {
		c.Prefer = func() string { return "" }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Observe == nil {
		c.Observe = func(string, string) {}
	}
	return &Keeper{
		cfg: c, changes: make(chan change, 64), mail: make(chan sessions.Msg, 256), kick: make(chan struct{}, 1),
		asked: make(chan chan []Record),
		held:  map[codecore.CallID]*held{}, edges: map[string]time.Time{},
	}
}

// Kick has the keeper look at once: somebody died, or the plan changed.
func (k *Keeper) Kick() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// Run keeps until ctx ends, then says nothing more: what is under way is in the
// records, for the next owner.
func (k *Keeper) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	defer func() {
		stop()
		<-done
		for _, h := range k.held {
			k.silence(h)
		}
	}()
	go func() {
		defer close(done)
		tell := func(c change) {
			select {
			case k.changes <- c:
			case <-ctx.Done():
			}
		}
		for ctx.Err() == nil {
			if err := k.cfg.Store.Watch(ctx, func(key string, value []byte) { tell(change{key: key, value: value}) }); err == nil {
				tell(change{all: true})
				return
			} else if ctx.Err() == nil {
				k.cfg.Log.Warn("registrations at carriers not read, trying again", "err", err)
				pause(ctx, tick)
			}
		}
	}()
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-k.changes:
			k.heard(c)
		case m := <-k.mail:
			k.deliver(ctx, m)
			continue
		case reply := <-k.asked:
			reply <- k.owned()
			continue
		case <-k.kick:
		case <-look.C:
		}
		k.round(ctx)
		k.list()
		look.Reset(tick)
	}
}

// Knows reports whether a registration has the id: an event for it waits for its
// owner when nobody listens.
func (k *Keeper) Knows(id codecore.CallID) bool {
	ids := k.ids.Load()
	return ids != nil && (*ids)[id]
}

func (k *Keeper) list() {
	ids := make(map[codecore.CallID]bool, len(k.held))
	for id, h := range k.held {
		ids[id] = h.rec.Owner != ""
	}
	k.ids.Store(&ids)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Owned are the registrations of this worker; nil when Run has ended.
func (k *Keeper) Owned(ctx context.Context) []Record {
	reply := make(chan []Record, 1)
	select {
	case k.asked <- reply:
		return <-reply
	case <-ctx.Done():
		return nil
	}
}

func (k *Keeper) owned() (out []Record) {
	for _, h := range k.held {
		if k.mine(h) {
			out = append(out, h.rec)
		}
	}
	return out
}

func (k *Keeper) mine(h *held) bool { return h.sub != nil }

// heard takes what the store tells of a record. One that another owns now is
// dropped in silence (R4).
func (k *Keeper) heard(c change) {
	if c.all {
		k.ready = true
		return
	}
	id := codecore.CallID(c.key)
	h := k.held[id]
	if c.value == nil {
		if h != nil && !k.mine(h) {
			delete(k.held, id)
		}
		return // of one of ours we know more
	}
	rec, err := Decode(c.value)
	if err != nil && !errors.Is(err, ErrForm) {
		k.cfg.Log.Error("registration at a carrier not readable", "id", id, "err", err)
	}
	switch {
	case h == nil:
		k.held[id] = &held{rec: rec}
	case !rec.after(h.rec):
	default:
		if k.mine(h) && rec.Owner != k.cfg.ID {
			k.lose(h, "notice")
		}
		if !k.mine(h) { // else a write of ours of which we had no word: the next one finds out
			h.rec = rec
		}
	}
}

// lose goes silent: another owns it, or nobody knows.
func (k *Keeper) lose(h *held, why string) {
	k.cfg.Log.Info("registration is not ours any more", "trunk", h.rec.State.Peer, "epoch", h.rec.Epoch, "why", why)
	k.cfg.Observe(h.rec.State.Peer, "lost")
	k.silence(h)
}

func (k *Keeper) silence(h *held) {
	if h.sub != nil {
		_ = h.sub.Unsubscribe()
		h.sub = nil
	}
}

// round looks at every registration there is or ought to be. When the store is
// away it ends: each attempt takes seconds.
func (k *Keeper) round(ctx context.Context) {
	plan := k.cfg.Plan()
	if !k.ready || plan.Version == 0 {
		return
	}
	now := k.cfg.Now()
	living := k.cfg.Living()
	nodes := k.nodes(living, now)
	wanted := map[codecore.CallID]string{}
	for peer := range plan.Enlisted() {
		wanted[codecore.EnlistID(peer)] = peer
	}
	for id := range wanted {
		if k.held[id] == nil {
			k.held[id] = new(held)
		}
	}
	prefer := k.cfg.Prefer()
	for _, id := range slices.Sorted(maps.Keys(k.held)) {
		h := k.held[id]
		var err error
		switch {
		case now.Before(h.wait):
		case k.mine(h):
			err = k.step(ctx, id, h, plan, nodes, now)
		case h.rec.Owner == "" && wanted[id] == "":
			delete(k.held, id) // neither stored nor in the plan
		case k.ought(id, h.rec, living, prefer, now):
			err = k.claim(ctx, id, h, wanted[id], living, prefer)
		}
		if errors.Is(err, sessions.ErrUnavailable) || ctx.Err() != nil {
			return
		}
	}
}

// ought reports whether this worker is to own it now: its owner lives elsewhere
// (then it is a move) or is dead, and is not one of whom nobody can say yet.
func (k *Keeper) ought(id codecore.CallID, rec Record, living []sessions.Process, prefer string, now time.Time) bool {
	if Owner(id, rec.Form, rec.Owner, living, prefer) != k.cfg.ID {
		return false
	}
	if rec.Owner == "" || rec.Owner == k.cfg.ID || k.cfg.Dead(rec.Owner) {
		return true
	}
	lives := slices.ContainsFunc(living, func(p sessions.Process) bool { return p.ID == rec.Owner })
	return lives && now.Sub(rec.Claimed) >= settled
}

// step brings one of ours forward by what is due.
func (k *Keeper) step(ctx context.Context, id codecore.CallID, h *held, plan *codecore.Plan, nodes []string, now time.Time) error {
	err := k.tend(ctx, id, h, func(s State) State { return s.Tick(plan, nodes, now) })
	if err != nil || !k.mine(h) {
		return err
	}
	if h.rec.State.Gone() {
		return k.remove(ctx, id, h)
	}
	if a, ok := h.rec.State.Request(); ok && now.Sub(h.sent) >= resend {
		k.do(id, h, a, now)
	}
	return nil
}

// nodes are those whose edge lives, or was alive a moment ago: one that is killed
// is back at once, with what it had to do.
func (k *Keeper) nodes(living []sessions.Process, now time.Time) []string {
	for _, p := range living {
		if p.Role == "edge" {
			k.edges[p.Node] = now
		}
	}
	maps.DeleteFunc(k.edges, func(_ string, at time.Time) bool { return now.Sub(at) > grace })
	return slices.Sorted(maps.Keys(k.edges))
}

// claim takes a registration over, or makes it. What is stored is read and
// checked before the compare-and-set (R5): the old owner goes on if it
// cannot be.
func (k *Keeper) claim(ctx context.Context, id codecore.CallID, h *held, peer string, living []sessions.Process, prefer string) error {
	now := k.cfg.Now()
	value, rev, err := k.cfg.Store.Get(ctx, string(id))
	what := "claimed"
	var rec Record
	switch {
	case errors.Is(err, sessions.ErrNotFound) && peer == "":
		delete(k.held, id)
		return nil
	case errors.Is(err, sessions.ErrNotFound):
		what = "created"
		rec = Record{Form: Form, State: New(peer, k.cfg.Plan(), k.cfg.Token(id), rand.Uint64(), now)}
	case err != nil:
		return err
	default:
		if rec, err = Decode(value); err != nil {
			h.wait = now.Add(refused)
			k.cfg.Log.Error("registration not taken over", "id", id, "owner", rec.Owner, "err", err)
			return nil
		}
		if rec.Owner == k.cfg.ID { // our own write, of which we had no word
			h.rec, h.rev = rec, rev
			return k.adopt(id, h)
		}
		if !k.ought(id, rec, living, prefer, now) {
			h.rec = rec
			return nil
		}
	}
	from := rec.Owner
	rec = Claim(rec, k.cfg.ID, k.cfg.Release, now)
	if rev, err = k.put(ctx, id, rec, rev, 0); err != nil {
		return err
	}
	h.rec, h.rev = rec, rev
	k.cfg.Observe(rec.State.Peer, what)
	k.cfg.Log.Info("registration "+what, "trunk", rec.State.Peer, "epoch", rec.Epoch, "from", from)
	if err := k.adopt(id, h); err != nil {
		return err
	}
	k.Kick() // its first step comes at once
	return nil
}

// adopt listens for it, and repeats what is under way.
func (k *Keeper) adopt(id codecore.CallID, h *held) error {
	sub, err := k.cfg.Bus.Subscribe(sessions.SubjectCall(id), "", func(m sessions.Msg) {
		select {
		case k.mail <- m:
		default: // it is sent again
		}
	})
	if err != nil {
		return err
	}
	h.sub, h.sent, h.wait = sub, time.Time{}, time.Time{}
	if node := h.rec.State.Edge; node != "" { // it may not have been heard of here yet
		k.edges[node] = k.cfg.Now()
	}
	return nil
}
