// Package near is the second carrier between processes: a unix stream to those
// of the same host, with the same envelope inside. A message over the bus's
// server wakes three processes each way; over a stream it wakes one, and a
// wake-up is what a message costs.
//
// It is a sessions.Bus around another (the far one), and only ever a short cut:
// it decides nothing about who serves a subject. Answers that come by the far bus
// name the process that gave them; the next request to that subject goes to that
// process over a stream, and there to the handler that it has subscribed. Nobody
// there, a full socket, a broken or silent one: the short cut is forgotten and
// the request goes by the far bus. It does not carry what many listen to, nor
// what is not named by Config.Kind.
package near

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"callswitch/sessions"
)

var _ sessions.Bus = (*Bus)(nil)

// Kind says who listens to a subject.
type Kind int

const (
	Far   Kind = iota // whoever: goes by the far bus
	One               // one process at a time
	Group             // one of a queue group, each with its share
)

// FarBus is the carrier that reaches everybody.
type FarBus interface {
	sessions.Bus
	// PublishFrom is Publish with the sender's name beside the data; RequestFrom
	// returns the name beside the answer, "" = none.
	PublishFrom(subject string, data []byte, from string) error
	RequestFrom(ctx context.Context, subject string, data []byte) (answer []byte, from string, err error)
}

// Config of a Bus.
type Config struct {
	Far  FarBus
	Dir  string // of the sockets, the same for all processes of the host; made when missing, 0700
	Name string // of this process, never used twice: letters, digits, '-', '.', at most 64
	Kind func(subject string) Kind
	// MaxMsg is the largest message a stream carries, in bytes; what is larger
	// goes by the far bus. Default 1 MiB.
	MaxMsg int
	// DialWait bounds a dial: a unix socket answers at once, or its backlog is full.
	// Default 250 ms.
	DialWait time.Duration
	Log      *slog.Logger
}

// Stats counts messages. All values only grow.
type Stats struct {
	Near  atomic.Uint64 // requests answered over a stream
	Far   atomic.Uint64 // requests that could have been and went by the far bus
	Lost  atomic.Uint64 // short cuts forgotten: nobody there, full, broken, silent
	Fails atomic.Uint64 // streams that broke or were closed for what came over them
}

// ErrName refuses a name that cannot be a file's.
var ErrName = errors.New("near: name is empty, too long or has odd characters")

// Bus is a sessions.Bus. Close ends its streams, not the far bus.
type Bus struct {
	Stats Stats

	cfg   Config
	far   FarBus
	log   *slog.Logger
	dir   *os.File // so that no path is too long for a socket
	l     *net.UnixListener
	tasks sync.WaitGroup

	// What others ask of this process.
	mu     sync.Mutex
	closed bool
	served map[*served]struct{}
	subs   map[string][]*entry
	open   map[uint64]*openAsk
	opened uint64 // number of the newest in open

	// What this process asks of others.
	peers  peers
	hints  hints
	groups groups
}

// New opens this process's socket in cfg.Dir and removes those of the dead.
func New(cfg Config) (*Bus, error) {
	if !validName(cfg.Name) {
		return nil, fmt.Errorf("%w: %q", ErrName, cfg.Name)
	}
	if cfg.MaxMsg <= 0 {
		cfg.MaxMsg = 1 << 20
	}
	if cfg.DialWait <= 0 {
		cfg.DialWait = 250 * time.Millisecond
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b := &Bus{
		cfg: cfg, far: cfg.Far, log: cfg.Log,
		served: map[*served]struct{}{}, subs: map[string][]*entry{}, open: map[uint64]*openAsk{},
	}
	b.peers.bus, b.peers.all = b, map[string]*peer{}
	if err := b.listen(); err != nil {
		return nil, err
	}
	b.tasks.Go(b.accept)
	return b, nil
}

// Close ends what is under way and waits for it; requests that wait over a
// stream go by the far bus.
func (b *Bus) Close() {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return
	}
	b.closed = true
	for s := range b.served {
		s.link.close()
	}
	for _, all := range b.subs {
		for _, e := range all {
			e.box.stop()
		}
	}
	b.mu.Unlock()
	b.hush()
	b.peers.close()
	b.tasks.Wait()
	_ = b.dir.Close()
}

// replyPrefix begins the subjects on which handlers answer what came over a stream.
const replyPrefix = "_NEAR."

// Publish sends once. An answer takes the way that its request came.
func (b *Bus) Publish(subject string, data []byte) error {
	if n, ok := strings.CutPrefix(subject, replyPrefix); ok {
		b.answer(n, data)
		return nil
	}
	if strings.HasPrefix(subject, "_INBOX.") {
		return b.far.PublishFrom(subject, data, b.cfg.Name)
	}
	if b.cfg.Kind(subject) == One && b.fits(subject, data) {
		if a := b.shortCut(subject); a != nil {
			if a.tell(subject, data) == nil {
				return nil
			}
			b.forget(subject, a.name)
		}
	}
	return b.far.Publish(subject, data)
}

// Request waits for one answer until ctx ends.
func (b *Bus) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	kind := b.cfg.Kind(subject)
	if kind == Far {
		return b.far.Request(ctx, subject, data)
	}
	var waits *wait // of an asked process that may answer yet
	if b.fits(subject, data) {
		if a := b.way(subject, kind); a != nil {
			answer, w, err := a.ask(ctx, subject, data)
			if err == nil {
				b.Stats.Near.Add(1)
				return answer, nil
			}
			b.lose(subject, kind, a.name)
			if errors.Is(err, sessions.ErrTimeout) || kind == Group && errors.Is(err, errBroken) {
				return nil, sessions.ErrTimeout // it may have been taken: the caller knows what to do then
			}
			waits = w
		}
	}
	b.Stats.Far.Add(1)
	answer, from, err := b.askFar(ctx, subject, data, waits)
	if err != nil {
		if late, ok := waits.late(); ok {
			return late, nil
		}
		return nil, err
	}
	waits.over()
	b.learn(subject, kind, from)
	return answer, nil
}

// askFar asks by the far bus, until the one that has left the subject answers after
// all: the server may have given the question to nobody but that one.
func (b *Bus) askFar(ctx context.Context, subject string, data []byte, w *wait) (answer []byte, from string, err error) {
	if w == nil {
		return b.far.RequestFrom(ctx, subject, data)
	}
	ctx, enough := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case o := <-w.ch:
			w.put(o) // late takes it
			if o.err == nil {
				enough()
			}
		case <-ctx.Done():
		}
	})
	answer, from, err = b.far.RequestFrom(ctx, subject, data)
	enough()
	watch.Wait()
	return answer, from, err
}

func (b *Bus) fits(subject string, data []byte) bool {
	return len(subject) <= maxSubject && len(data) <= b.cfg.MaxMsg
}

// Flush is the far bus's: what goes over a stream is in the other's socket when
// it has been sent.
func (b *Bus) Flush(ctx context.Context) error { return b.far.Flush(ctx) }

// OnReconnect is the far bus's.
func (b *Bus) OnReconnect(fn func()) { b.far.OnReconnect(fn) }

func replySubject(n uint64) string { return replyPrefix + strconv.FormatUint(n, 36) }

// validName reports whether a name, which comes from others, can be a file's.
func validName(name string) bool {
	if name == "" || len(name) > 64 || name[0] == '.' {
		return false
	}
	for _, c := range []byte(name) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '.' {
			return false
		}
	}
	return true
}
