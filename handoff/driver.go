package handoff

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// Core is the release's call code, as far as a move needs it. cmd/switch fills
// it from codecore; tests fill it with poison.
type Core struct {
	SchemaMin, SchemaMax int
	Decode               func(schema int, body []byte) (codecore.State, error) // migrates up
	Encode               func(s codecore.State, floor int) (schema int, body []byte, err error)
	Check                func(codecore.State) error
	// Classify names an error of Decode or Encode; nil or OK: CodeDecode.
	Classify func(error) Code
}

// Config of a Driver. Zero values of the optional fields have the defaults said.
type Config struct {
	Worker  string // this worker's incarnation
	Release string
	Core    Core
	Calls   Calls
	Bus     sessions.Bus
	Store   sessions.Store
	Floor   func() int                // schema floor now; default Core.SchemaMin
	Living  func() []sessions.Process // workers that live, this one too; default none
	Now     func() time.Time          // default time.Now
	Log     *slog.Logger              // default: discards
	Observe func(Observation)         // one per call and outcome, from any goroutine; default none
	Ready   func()                    // called once Run serves: offers find this worker; default none

	// Caretaker takes a call that was set aside: owned and reserved already, and
	// never to be decoded but for its stub. Default: the reservation stands, so
	// its media runs on and its events wait; nothing is stepped or ended.
	Caretaker func(rec sessions.Record)
	// InHand marks a call as being restored, until the returned function is
	// called: the memory word of R7. Default none.
	InHand func(id codecore.CallID) (over func())

	MigrateLimit   time.Duration // per call: decode, migrate, check, encode; default 250 ms
	PrepareTimeout time.Duration // answer to a Prepare; default 5 s
	OfferTimeout   time.Duration // answer to an Offer; default 1 s
	Recheck        time.Duration // between looks for strays; default 30 s
}

// An Observation is the outcome of one call, for metrics.
type Observation struct {
	What   string        // "moved" (at the target), "left" (at the source), "refused", "thawed", "claimed", "aside"
	Code   Code          // of a refusal
	Freeze time.Duration // of "moved"
}

// Driver carries out moves and takeovers for one worker.
type Driver struct {
	Config
	stuck atomic.Int64 // migrations that hang
	drain atomic.Bool

	mu       sync.Mutex
	prepared map[codecore.CallID]prepared
	chosen   map[codecore.CallID]bool   // under an order of so many calls
	deaths   map[string]Death           // told by the host, by owner
	strays   map[codecore.CallID]uint64 // found by the last FindStrays, with their revisions
	seen     uint64                     // revision up to which FindStrays has read
	looks    int                        // of FindStrays

	work  sync.WaitGroup       // handlers and settlers
	asked chan codecore.CallID // for ClaimCall
	slots chan struct{}        // bounds the handlers at work
	lanes chan struct{}        // bounds the batches frozen here
	done  chan struct{}        // closed when Run ends
}

// New returns a Driver; Run makes it serve.
func New(c Config) *Driver {
	if c.Floor == nil {
		c.Floor = func() int { return c.Core.SchemaMin }
	}
	if c.Living == nil {
		c.Living = func() []sessions.Process { return nil }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Observe == nil {
		c.Observe = func(Observation) {}
	}
	if c.InHand == nil {
		c.InHand = func(codecore.CallID) func() { return func() {} }
	}
	if c.Caretaker == nil {
		c.Caretaker = func(sessions.Record) {}
	}
	setDefault(&c.MigrateLimit, 250*time.Millisecond)
	setDefault(&c.PrepareTimeout, 5*time.Second)
	setDefault(&c.OfferTimeout, time.Second)
	setDefault(&c.Recheck, 30*time.Second)
	return &Driver{
		Config:   c,
		prepared: map[codecore.CallID]prepared{},
		chosen:   map[codecore.CallID]bool{},
		deaths:   map[string]Death{},
		asked:    make(chan codecore.CallID, maxAsked),
		slots:    make(chan struct{}, 4*Lanes),
		lanes:    make(chan struct{}, Lanes),
		done:     make(chan struct{}),
	}
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d == 0 {
		*d = v
	}
}

// Verbs of SubjectControl. A Driver serves the first six.
const (
	VerbPrepare   = "prepare"
	VerbOffer     = "offer"
	VerbMove      = "move"
	VerbDryRun    = "dryrun"
	VerbDrain     = "drain"
	VerbClaim     = "claim"
	VerbDethroned = "dethroned" // a Dethroned, published to a former owner; its Runner reads the records
	VerbProgress  = "progress"  // a MoveReport so far, published while a move goes on; lossy
)

// Run serves the worker's control subjects until ctx ends, then waits for what
// is under way. It returns an error only when it could not subscribe.
func (d *Driver) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer d.work.Wait()
	defer close(d.done)
	defer func() {
		d.mu.Lock() // no handler begins after this
		defer d.mu.Unlock()
		cancel()
	}()
	handlers := map[string]func(context.Context, sessions.Msg){
		VerbPrepare: answering(d, d.servePrepare),
		VerbOffer:   answering(d, d.serveOffer),
		VerbMove:    answering(d, d.serveMove),
		VerbDryRun:  answering(d, d.serveDryRun),
		VerbDrain:   answering(d, d.serveDrain),
		VerbClaim:   answering(d, d.serveClaim),
	}
	for verb, h := range handlers {
		long := verb == VerbMove || verb == VerbDryRun || verb == VerbDrain || verb == VerbClaim
		sub, err := d.Bus.Subscribe(sessions.SubjectControl(d.Worker, verb), "", func(m sessions.Msg) { d.spawn(ctx, long, m, h) })
		if err != nil {
			return err
		}
		defer func() { _ = sub.Unsubscribe() }()
	}
	if err := d.Bus.Flush(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	if d.Ready != nil {
		d.Ready()
	}
	again := make(chan struct{}, 1)
	d.Bus.OnReconnect(func() {
		select {
		case again <- struct{}{}:
		default:
		}
	})
	d.work.Go(func() { d.serveAsked(ctx) })
	d.tend(ctx, again)
	return nil
}

// spawn runs a handler in its own goroutine. Short ones are bounded, so that a
// flood of messages waits in the bus; long ones (orders) are few and must not
// keep an offer waiting.
func (d *Driver) spawn(ctx context.Context, long bool, m sessions.Msg, h func(context.Context, sessions.Msg)) {
	if !long {
		select {
		case d.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if ctx.Err() != nil {
		return // Run is waiting for the last ones
	}
	d.work.Go(func() {
		if !long {
			defer func() { <-d.slots }()
		}
		h(ctx, m)
	})
}

// answering turns a typed handler into one of messages.
func answering[In, Out any](d *Driver, h func(context.Context, In) Out) func(context.Context, sessions.Msg) {
	return func(ctx context.Context, m sessions.Msg) {
		var in In
		if err := wire.Open(m.Data, &in); err != nil {
			d.Log.Warn("order not understood", "subject", m.Subject, "err", err)
			if errors.Is(err, wire.ErrProto) {
				d.reply(m, Verdicts{Worker: d.Worker, Release: d.Release, Code: CodeProto})
			}
			return
		}
		d.reply(m, h(ctx, in))
	}
}

func (d *Driver) reply(m sessions.Msg, v any) {
	if m.Reply == "" {
		return
	}
	data, err := wire.Seal(v)
	if err == nil {
		err = d.Bus.Publish(m.Reply, data)
	}
	if err != nil {
		d.Log.Warn("answer not sent", "subject", m.Subject, "err", err)
	}
}

// tend forgets what was prepared and never offered, and looks for strays.
func (d *Driver) tend(ctx context.Context, again <-chan struct{}) {
	sweep := time.NewTicker(preparedFor / 2)
	defer sweep.Stop()
	reread := time.NewTicker(d.Recheck)
	defer reread.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			d.forgetPrepared(d.Now())
			continue
		case <-reread.C:
		case <-again:
		}
		if err := d.FindStrays(ctx); err != nil && ctx.Err() == nil {
			d.Log.Warn("records not read", "err", err)
		}
	}
}

// pause waits, unless ctx or the driver ends before: then false.
func (d *Driver) pause(ctx context.Context, t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-d.done:
	}
	return false
}

// within bounds ctx by t, and by the driver's end.
func (d *Driver) within(ctx context.Context, t time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, t)
	go func() {
		select {
		case <-ctx.Done():
		case <-d.done:
			cancel()
		}
	}()
	return ctx, cancel
}

// ended reports whether Run has ended, or is about to.
func (d *Driver) ended() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

// tell adds a line to the story of a call.
func (d *Driver) tell(rec sessions.Record, what string, freeze time.Duration, code Code) {
	d.Store.Tell(rec.ID, sessions.StoryLine{
		At: d.Now(), Owner: d.Worker, Release: d.Release, Epoch: rec.Epoch, N: rec.N,
		What: what, Freeze: ms(freeze), Reason: string(code),
	})
}

func ms(t time.Duration) float64 { return float64(t.Microseconds()) / 1000 }
