package media

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"callswitch/codecore"
	"callswitch/secrets"
	"callswitch/sessions"
)

// Config says where a media node listens and what it is wired to.
type Config struct {
	Node string // "n1"; the receiver's name is "media.n1"
	Boot string // incarnation, sortable by age

	Listen    netip.Addr // sockets are bound to it; required (0.0.0.0 is allowed)
	Advertise netip.Addr // stands in SDP; default Listen. Behind a 1:1 NAT the public address
	// Unmarked leaves the DSCP of our packets at 0. Default: EF (RFC 4594 4.1).
	Unmarked bool
	PortMin  int // first port, even; default 20000
	PortMax  int // last port, odd; default 29999

	Bus  sessions.Bus // required
	Legs LegStore     // cold records; nil: none, the owners' repeats rebuild after a crash
	Keep Keeper       // nil: nobody keeps sockets; a successor binds the ports again
	// Inherited are sockets of the generation before by their name at the
	// Keeper. New takes them over and closes what is not its own.
	Inherited map[string]*os.File
	// Handed is what the generation before said when it froze (Freeze): this one is
	// its heir. nil: it begins from the cold records.
	Handed []byte

	// Secrets derives our credentials and keys, and opens what the edge sealed. nil:
	// orders for secure legs are refused with "no-keys".
	Secrets *secrets.Key

	// Timeout without RTP or RTCP from a party that is due to send is reported
	// once as codecore.MediaSilent. Default 60 s; negative: never.
	Timeout time.Duration
	// RestPorts is how long a call's ports rest after it. Default 2 s.
	RestPorts time.Duration
	// Ahead is how many pairs of sockets are bound ahead. Default 64.
	Ahead int
	// MaxSockets bounds descriptors; what would need more is refused with
	// "ports-out". Default: the process's limit less 640, so that the Keeper, which
	// has the same limit and descriptors of its own, can keep every one of them.
	MaxSockets int

	// Lookup asks whether a call has a record; known is false when nobody can
	// say. Default: the queue group "orphan" is asked.
	Lookup func(ctx context.Context, id codecore.CallID) (exists, known bool)
	// Observe gets each leg's quality when it ends. It must not block. May be nil.
	Observe func(Quality)
	Log     *slog.Logger // default: discard
}

// Errors of New.
var ErrConfig = errors.New("media: configuration")

// Times that are the plane's own.
type times struct {
	window  time.Duration // of learning, after an answer
	behind  time.Duration // a change is stored after it
	tick    time.Duration // housekeeping
	claim   time.Duration // inherited sockets wait for their owners
	orphan  time.Duration // unconfirmed allocations, and "no record" answers, last it
	recheck time.Duration // a call nobody has spoken of is asked for
	tomb    time.Duration // a freed call's generation is remembered
	beat    time.Duration // announcements
	gather  time.Duration // of answers to orders, for one wake-up of the worker
}

var defaultTimes = times{
	window: 3 * time.Second, behind: 500 * time.Millisecond, tick: 250 * time.Millisecond,
	claim: 15 * time.Second, orphan: 60 * time.Second, recheck: 10 * time.Minute, tomb: 2 * time.Minute, beat: 5 * time.Second, gather: 50 * time.Millisecond,
}

// Media is one media node. Stats may be called at any time.
type Media struct {
	cfg   Config
	name  string
	log   *slog.Logger
	times times
	loop  *loop
	keep  *keepers
	cold  *cold
	v6    bool
	cert  tls.Certificate // of DTLS

	shaking  sync.WaitGroup
	shakes   atomic.Int32
	ending   bool // behind loop.mu: no handshake begins
	yielding bool // likewise: an heir will take them

	mu       sync.Mutex
	pool     *pool
	hot      *hot
	calls    map[codecore.CallID]*call
	tombs    map[codecore.CallID]tomb
	did      map[string]uint64
	restored bool // the store has been read: ports may be given out
	began    time.Time
	lastBeat time.Time
	failed   []failed

	post poster
	done news
}

// failed is a record whose call could not be put back yet: a port of it was not
// free, perhaps because a process before this one is still on its way out.
type failed struct {
	id    codecore.CallID
	body  []byte
	rev   uint64
	since time.Time
}

// tomb remembers a freed call, so that a late order does not dig it up.
type tomb struct {
	gen   codecore.Generation
	until time.Time
}

// New takes over inherited sockets and binds the first ports. Run must follow.
func New(cfg Config) (*Media, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	m := &Media{
		cfg: cfg, name: "media." + cfg.Node, log: cfg.Log, times: defaultTimes, v6: cfg.Listen.Is6(),
		calls: map[codecore.CallID]*call{}, tombs: map[codecore.CallID]tomb{}, did: map[string]uint64{},
		began: time.Now(),
	}
	var err error
	if m.loop, err = newLoop(cfg.Log, m.v6); err != nil {
		return nil, err
	}
	m.loop.own = newOwn(cfg.Listen, cfg.Advertise, cfg.PortMin, cfg.PortMax)
	if cfg.Secrets != nil {
		if m.cert, _, err = cfg.Secrets.Certificate(); err != nil {
			m.loop.close()
			return nil, err
		}
	}
	m.keep = newKeepers(cfg.Keep, cfg.Log)
	m.cold = newCold(cfg.Legs, cfg.Node, cfg.Boot, cfg.Log)
	m.restored = cfg.Legs == nil && cfg.Handed == nil
	pairs := (cfg.PortMax - cfg.PortMin + 1) / 2
	class := expedited
	if cfg.Unmarked {
		class = 0
	}
	m.pool = &pool{
		log: cfg.Log, loop: m.loop, keep: m.keep, ip: cfg.Listen, class: class, min: cfg.PortMin,
		pairs: make([]*pair, pairs), ahead: min(cfg.Ahead, pairs), most: cfg.MaxSockets / 2, rest: cfg.RestPorts,
		leastSince: time.Now(),
	}
	m.hot = openHot(cfg.Inherited[hotName], m.pool.most, m.keep)
	delete(cfg.Inherited, hotName)
	claim := m.times.claim
	if cfg.Handed != nil {
		claim = cfg.RestPorts // nobody comes later for his, but some rest
	}
	m.pool.inherit(cfg.Inherited, time.Now().Add(claim))
	if cfg.Legs != nil && m.pool.bound() == 0 {
		// Nobody has kept anything, and the newest calls may have no record here yet:
		// their owners will name their ports. What is bound meanwhile for calls to
		// come should not be these.
		h := fnv.New32a()
		_, _ = h.Write([]byte(cfg.Boot))
		m.pool.next = int(h.Sum32() % uint32(pairs))
	}
	if cfg.Handed != nil {
		if err := m.succeed(cfg.Handed); err != nil {
			m.pool.shut() // nothing is dropped: it is the predecessor's still
			m.hot.close()
			m.loop.close()
			return nil, err
		}
	}
	// Without the records a fresh bind could take a port that a record names; an
	// inherited one cannot. So a node that has a store binds after reading it.
	if m.restored && m.pool.grow(m.pool.ahead) == 0 && m.pool.bound() == 0 {
		m.loop.close()
		return nil, fmt.Errorf("media: no port of %d-%d on %s can be bound", cfg.PortMin, cfg.PortMax, cfg.Listen)
	}
	m.pool.least = m.pool.nfree
	m.post.m = m
	m.done.send = func(t told) { m.answer(t.reply, t.done) }
	return m, nil
}

func (c *Config) fill() error {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if !c.Listen.IsValid() {
		return fmt.Errorf("%w: no address to listen on", ErrConfig)
	}
	c.Listen = c.Listen.Unmap()
	if !c.Advertise.IsValid() {
		c.Advertise = c.Listen
	}
	c.Advertise = c.Advertise.Unmap()
	if c.Advertise.Is4() != c.Listen.Is4() || c.Advertise.IsUnspecified() {
		return fmt.Errorf("%w: %s cannot be advertised for sockets on %s", ErrConfig, c.Advertise, c.Listen)
	}
	if c.PortMin == 0 && c.PortMax == 0 {
		c.PortMin, c.PortMax = 20000, 29999
	}
	if c.PortMin < 1024 || c.PortMax > 65535 || c.PortMin%2 != 0 || c.PortMax%2 != 1 || c.PortMin >= c.PortMax {
		return fmt.Errorf("%w: ports %d-%d: the first is even, the last odd, both in 1024-65535", ErrConfig, c.PortMin, c.PortMax)
	}
	if c.Bus == nil || c.Node == "" {
		return fmt.Errorf("%w: node and bus are required", ErrConfig)
	}
	setDefault(&c.Timeout, 60*time.Second)
	setDefault(&c.RestPorts, 2*time.Second)
	setDefault(&c.Ahead, 64)
	if c.MaxSockets == 0 {
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return fmt.Errorf("media: descriptors: %w", err)
		}
		n := int(min(limit.Cur, 1<<17))
		c.MaxSockets = max(n-640, n/2-64)
	}
	if c.MaxSockets < 4 {
		return fmt.Errorf("%w: %d sockets are too few", ErrConfig, c.MaxSockets)
	}
	return nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Run relays and serves orders until ctx ends; then it stores what is not stored
// yet (2 s at most), closes its sockets and returns. The Keeper's duplicates stay,
// for a successor.
func (m *Media) Run(ctx context.Context) error {
	done := make(chan struct{})
	var relay, helpers sync.WaitGroup
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	m.mu.Lock()
	m.loop.mu.Lock()
	m.loop.shake = m.beginShake // an heir says nothing before it is one
	m.greetAll()
	m.loop.mu.Unlock()
	m.mu.Unlock()
	var deaf error
	relay.Go(func() {
		if deaf = m.loop.run(); deaf != nil {
			fail(deaf)
		}
	})
	helpers.Go(func() { m.keep.run(done) })
	err := m.serve(ctx)
	close(done)
	m.post.wait()
	m.flush()
	helpers.Wait()
	m.endShakes()
	m.loop.stop()
	relay.Wait()
	m.mu.Lock()
	m.pool.shut()
	m.hot.close()
	m.mu.Unlock()
	m.loop.close()
	return errors.Join(err, deaf)
}

// serve is Run between start and stop.
func (m *Media) serve(ctx context.Context) error {
	m.done.every = m.times.gather
	subs, err := m.subscribe(ctx)
	defer func() {
		for _, s := range subs {
			_ = s.Unsubscribe()
		}
		m.done.flush()
	}()
	if err != nil {
		return err
	}
	tick := time.NewTicker(m.times.tick)
	defer tick.Stop()
	for retry := time.Duration(0); ; {
		if !m.ready() {
			if err := m.restoreAll(ctx); err != nil && ctx.Err() == nil {
				retry = min(retry*2+50*time.Millisecond, time.Second)
				m.log.Warn("media: cold records cannot be read yet", "err", err)
				select {
				case <-ctx.Done():
				case <-time.After(retry):
				}
			}
		}
		m.tend(ctx, time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (m *Media) ready() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.restored
}

// flush writes what waits, as far as the store is there.
func (m *Media) flush() {
	if m.cfg.Legs == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		m.gatherDirty(time.Time{})
		m.cold.tend(ctx, time.Now().Add(time.Hour), m.recordOf)
		m.cold.wg.Wait()
		if m.cold.waiting() == 0 {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	m.log.Warn("media: cold records not stored", "calls", m.cold.waiting())
}
