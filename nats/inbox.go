package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"callswitch/sessions"
)

// An inbox takes the answers to one asker's requests. The connection's reader
// hands them straight to the goroutine that waits: the client library's own
// request path goes through a goroutine more, and at low rates a wake-up is
// what a request costs.
type inbox struct {
	prefix string // "_INBOX.xyz."
	ch     chan *natsgo.Msg
	sub    *natsgo.Subscription
	timer  *time.Timer
	n      uint64 // number of the request in hand: late answers to others are dropped
	used   time.Time
}

// subject is where answers to request n go.
func (b *inbox) subject(n uint64) string { return b.prefix + strconv.FormatUint(n, 36) }

// number is the request that a message answers.
func (b *inbox) number(m *natsgo.Msg) (uint64, bool) {
	if len(m.Subject) <= len(b.prefix) {
		return 0, false
	}
	n, err := strconv.ParseUint(m.Subject[len(b.prefix):], 36, 64)
	return n, err == nil
}

func openInbox(nc *natsgo.Conn, size int) (*inbox, error) {
	b := &inbox{prefix: natsgo.NewInbox() + ".", ch: make(chan *natsgo.Msg, size), timer: time.NewTimer(time.Hour)}
	b.timer.Stop()
	var err error
	b.sub, err = nc.ChanSubscribe(b.prefix+"*", b.ch)
	if err != nil {
		return nil, awayErr(err)
	}
	return b, nil
}

func (b *inbox) close() { _ = b.sub.Unsubscribe() }

// inboxes lends inboxes: one per request in flight, kept for the next, for as
// long as there are requests.
type inboxes struct {
	nc      *natsgo.Conn
	keepFor time.Duration // an idle inbox
	mu      sync.Mutex
	idle    []*inbox // the longest idle first
	armed   bool     // trim will come
}

const (
	inboxSize  = 8   // one answer, and room for late ones
	inboxesMax = 256 // idle ones kept
	inboxIdle  = 30 * time.Second
)

func newInboxes(nc *natsgo.Conn) *inboxes { return &inboxes{nc: nc, keepFor: inboxIdle} }

func (p *inboxes) take() (*inbox, error) {
	p.mu.Lock()
	if last := len(p.idle) - 1; last >= 0 {
		b := p.idle[last]
		p.idle = p.idle[:last]
		p.mu.Unlock()
		return b, nil
	}
	p.mu.Unlock()
	return openInbox(p.nc, inboxSize)
}

func (p *inboxes) give(b *inbox) {
	p.mu.Lock()
	if len(p.idle) < inboxesMax {
		b.used = time.Now()
		p.idle = append(p.idle, b)
		b = nil
		if !p.armed {
			p.armed = true
			time.AfterFunc(p.keepFor, p.trim)
		}
	}
	p.mu.Unlock()
	if b != nil {
		b.close()
	}
}

// trim closes the inboxes of a busier time, each a subscription of the server's.
func (p *inboxes) trim() {
	p.mu.Lock()
	stale := 0
	for stale < len(p.idle) && time.Since(p.idle[stale].used) >= p.keepFor {
		stale++
	}
	old := slices.Clone(p.idle[:stale])
	p.idle = slices.Delete(p.idle, 0, stale)
	if p.armed = len(p.idle) > 0; p.armed {
		time.AfterFunc(p.keepFor, p.trim)
	}
	p.mu.Unlock()
	for _, b := range old {
		b.close()
	}
}

// request sends m and returns the answer. It ends with ctx or after wait (0: no
// limit of its own) with sessions.ErrTimeout. m.Reply is overwritten.
func (p *inboxes) request(ctx context.Context, m *natsgo.Msg, wait time.Duration) (*natsgo.Msg, error) {
	b, err := p.take()
	if err != nil {
		return nil, err
	}
	defer p.give(b)
	b.n++
	m.Reply = b.subject(b.n)
	if err := p.nc.PublishMsg(m); err != nil {
		return nil, awayErr(err)
	}
	var late <-chan time.Time
	if wait > 0 {
		b.timer.Reset(wait)
		defer b.timer.Stop()
		late = b.timer.C
	}
	for {
		select {
		case r := <-b.ch:
			if n, ok := b.number(r); !ok || n != b.n {
				continue
			}
			if noResponders(r) {
				return nil, sessions.ErrNoResponders
			}
			return r, nil
		case <-late:
			return nil, sessions.ErrTimeout
		case <-ctx.Done():
			return nil, sessions.ErrTimeout
		}
	}
}

func noResponders(m *natsgo.Msg) bool {
	return len(m.Data) == 0 && len(m.Header) > 0 && m.Header.Get("Status") == "503"
}

// awayErr sorts the client library's refusals to send.
func awayErr(err error) error {
	switch {
	case errors.Is(err, natsgo.ErrMaxPayload), errors.Is(err, natsgo.ErrBadSubject):
		return fmt.Errorf("nats: %w", err)
	default:
		return fmt.Errorf("%w: %w", sessions.ErrBusAway, err)
	}
}
