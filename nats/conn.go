package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"callswitch/sessions"
)

// ErrNoServer is returned by Connect when no server let us in before ctx ended.
var ErrNoServer = errors.New("nats: no server reached")

// Config says how to reach the server.
type Config struct {
	URL   string // "nats://127.0.0.1:4222", several with commas; tls:// for TLS
	Token string // secret shared by the cluster; "" = none
	Creds string // path of a user credentials file, for external clusters; "" = none
	Name  string // as the server lists this client: "worker.n1"
	Log   *slog.Logger
	// MailboxSize bounds the messages waiting in one Mailbox; what exceeds it is
	// dropped, counted, and sent again by its sender. Default 65536.
	MailboxSize int
}

// Stats counts what went wrong and was survived. All values only grow.
type Stats struct {
	Reconnects    atomic.Uint64 // times the bus came back
	SlowConsumers atomic.Uint64 // times a subscription or mailbox began to drop
	Retries       atomic.Uint64 // writes sent again
	Doubts        atomic.Uint64 // writes whose outcome had to be re-read
	Conflicts     atomic.Uint64 // writes that another writer beat
}

// Conn is one process's way to the server. It holds two connections, so that a
// burst of records never delays a message: one for the bus, one for JetStream.
type Conn struct {
	Stats Stats

	cfg   Config
	bus   *natsgo.Conn
	store *natsgo.Conn
	js    jetstream.JetStream
	ask   *inboxes // on bus
	keep  *inboxes // on store

	mu          sync.Mutex
	onReconnect []func()
	onClose     []func()
}

// Connect waits until the server has let us in, or ctx ends (ErrNoServer). From
// then on the connection mends itself for ever: while it is away messages are
// refused (sessions.ErrBusAway), never queued, because a queued one is stale.
func Connect(ctx context.Context, cfg Config) (*Conn, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MailboxSize <= 0 {
		cfg.MailboxSize = 1 << 16
	}
	c := &Conn{cfg: cfg}
	var err error
	if c.bus, err = c.dial(ctx, "bus"); err != nil {
		return nil, err
	}
	if c.store, err = c.dial(ctx, "store"); err != nil {
		c.bus.Close()
		return nil, err
	}
	c.ask, c.keep = newInboxes(c.bus), newInboxes(c.store)
	if c.js, err = jetstream.New(c.store); err != nil {
		c.Close()
		return nil, fmt.Errorf("nats: %w", err)
	}
	return c, nil
}

func (c *Conn) dial(ctx context.Context, part string) (*natsgo.Conn, error) {
	log := c.cfg.Log.With("conn", part)
	up := make(chan struct{}, 1)
	opts := []natsgo.Option{
		natsgo.Name(c.cfg.Name + "." + part),
		natsgo.RetryOnFailedConnect(true),
		natsgo.MaxReconnects(-1),
		natsgo.IgnoreAuthErrorAbort(), // a server with a stale secret must not end us
		natsgo.ReconnectWait(50 * time.Millisecond),
		natsgo.ReconnectJitter(50*time.Millisecond, 50*time.Millisecond),
		natsgo.ReconnectBufSize(-1),
		natsgo.SetCustomDialer(&gatherDialer{net.Dialer{Timeout: 2 * time.Second}}),
		natsgo.Timeout(2 * time.Second),
		natsgo.PingInterval(time.Second),
		natsgo.MaxPingsOutstanding(2),
		natsgo.NoCallbacksAfterClientClose(),
		natsgo.ConnectHandler(func(*natsgo.Conn) { up <- struct{}{} }),
		natsgo.DisconnectErrHandler(func(_ *natsgo.Conn, err error) { log.Warn("server away", "err", err) }),
		natsgo.ReconnectHandler(func(*natsgo.Conn) {
			log.Info("server back")
			if part == "bus" {
				c.reconnected()
			}
		}),
		natsgo.ErrorHandler(func(_ *natsgo.Conn, s *natsgo.Subscription, err error) {
			if errors.Is(err, natsgo.ErrSlowConsumer) {
				c.Stats.SlowConsumers.Add(1)
			}
			subject := ""
			if s != nil {
				subject = s.Subject
			}
			log.Warn("server error", "err", err, "subject", subject)
		}),
	}
	if c.cfg.Token != "" {
		opts = append(opts, natsgo.Token(c.cfg.Token))
	}
	if c.cfg.Creds != "" {
		opts = append(opts, natsgo.UserCredentials(c.cfg.Creds))
	}
	nc, err := natsgo.Connect(c.cfg.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoServer, err)
	}
	select {
	case <-up:
		return nc, nil
	case <-ctx.Done():
		why := nc.LastError()
		if why == nil {
			why = ctx.Err()
		}
		nc.Close()
		return nil, fmt.Errorf("%w: %w", ErrNoServer, why)
	}
}

// Connected reports whether the bus can be used now.
func (c *Conn) Connected() bool { return c.bus.IsConnected() }

// OnReconnect registers a callback for each time the bus comes back. Callbacks
// run one after the other on a goroutine of their own.
func (c *Conn) OnReconnect(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onReconnect = append(c.onReconnect, fn)
}

// atClose registers what is still to be sent when the connections are closed.
func (c *Conn) atClose(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onClose = append(c.onClose, fn)
}

func (c *Conn) reconnected() {
	c.Stats.Reconnects.Add(1)
	c.mu.Lock()
	fns := c.onReconnect[:len(c.onReconnect):len(c.onReconnect)]
	c.mu.Unlock()
	go func() {
		for _, fn := range fns {
			fn()
		}
	}()
}

// Flush returns when the server has seen all that was sent and subscribed on
// the bus (sessions.ErrTimeout when ctx ends first).
func (c *Conn) Flush(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
	}
	if err := c.bus.FlushWithContext(ctx); err != nil {
		if ctx.Err() != nil {
			return sessions.ErrTimeout
		}
		return fmt.Errorf("%w: %w", sessions.ErrBusAway, err)
	}
	return nil
}

// Close ends both connections; subscriptions end with them.
func (c *Conn) Close() {
	c.mu.Lock()
	last := c.onClose
	c.onClose = nil
	c.mu.Unlock()
	for _, fn := range last {
		fn()
	}
	if c.bus != nil {
		_ = c.bus.FlushTimeout(500 * time.Millisecond) // a last answer or goodbye is worth the wait
		c.bus.Close()
	}
	if c.store != nil {
		c.store.Close()
	}
}
