package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"callswitch/sessions"
)

// scanOpts says what a scan reads.
type scanOpts struct {
	key         string // "" = all
	headersOnly bool
	since       time.Time // stored at or after; zero = all
	after       uint64    // sequence; 0 = all
	every       bool      // every value of a key, not one for each key
}

// scan calls fn for what is stored, oldest first, and ends when nothing is left
// to read. While it runs values may be replaced: such a key is met again further
// on, and fn is called for the first meeting only, so each key that was there
// all the time is met once, with a value that was its newest during the scan.
// On a cluster the reading consumer may trail the leader by its replication;
// the scan waits until it has seen all that the leader held when it began.
func (t *table) scan(ctx context.Context, o scanOpts, fn func(entry) error) error {
	_, err := t.scanTo(ctx, o, fn)
	return err
}

// scanTo is scan; upTo is the sequence after which the next one may go on, o.after
// when it failed.
func (t *table) scanTo(ctx context.Context, o scanOpts, fn func(entry) error) (upTo uint64, err error) {
	s := &scanner{t: t, o: o, fn: fn}
	if !o.every {
		s.seen = map[string]struct{}{}
	}
	p := newPatience(ctx, t.patience)
	defer func() { p.stop() }()
	if s.last, err = t.lastSeq(p); err != nil {
		return o.after, err
	}
	switch {
	case o.after == 0 || s.last < o.after: // the latter: another stream than it was
	case s.last == o.after:
		return s.last, nil
	default:
		s.next = o.after + 1
	}
	for {
		before := s.next
		end, err := s.pass(ctx)
		if end && err == nil {
			return s.last, nil
		}
		if end {
			return o.after, err
		}
		if s.next != before { // getting on: patience begins anew
			p.stop()
			p = newPatience(ctx, t.patience)
		}
		if !p.pause() {
			return o.after, fmt.Errorf("%w: %w", sessions.ErrUnavailable, err)
		}
	}
}

type scanner struct {
	t    *table
	o    scanOpts
	fn   func(entry) error
	seen map[string]struct{}
	next uint64 // sequence after the last one handled
	last uint64 // of the stream when the scan began
}

// pass reads with one consumer until its end. end false: go on with another.
func (s *scanner) pass(ctx context.Context) (end bool, err error) {
	t := s.t
	pull := 1024
	if !s.o.headersOnly {
		pull = 256 // 64 kB of bodies fit the client's buffers many times
	}
	filter := t.prefix + "*"
	if s.o.key != "" {
		filter = t.prefix + s.o.key
	}
	cc := jetstream.ConsumerConfig{
		Name: "scan-" + natsgo.NewInbox()[len("_INBOX."):], AckPolicy: jetstream.AckNonePolicy, FilterSubject: filter,
		HeadersOnly: s.o.headersOnly, MemoryStorage: true, Replicas: 1, InactiveThreshold: 10 * time.Second,
	}
	switch {
	case s.next > 0:
		cc.DeliverPolicy, cc.OptStartSeq = jetstream.DeliverByStartSequencePolicy, s.next
	case !s.o.since.IsZero():
		cc.DeliverPolicy, cc.OptStartTime = jetstream.DeliverByStartTimePolicy, &s.o.since
	}
	b, err := openInbox(t.c.store, pull+inboxSize)
	if err != nil {
		return false, err
	}
	defer b.close()
	mk, cancel := context.WithTimeout(ctx, 2*attempt)
	_, err = t.c.js.CreateConsumer(mk, t.stream, cc)
	cancel()
	if err != nil {
		return false, err
	}
	defer func() {
		// Nobody waits for the answer; a lost one costs the server 10 s of memory.
		_ = t.c.store.Publish("$JS.API.CONSUMER.DELETE."+t.stream+"."+cc.Name, nil)
	}()
	ask, _ := json.Marshal(map[string]any{"batch": pull, "no_wait": true})
	for want := uint64(1); ; {
		b.n++
		err := t.c.store.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+t.stream+"."+cc.Name, b.subject(b.n), ask)
		if err != nil {
			return false, awayErr(err)
		}
		got := 0
		for ; got < pull; got++ {
			m, err := s.receive(ctx, b)
			if err != nil {
				return false, err
			}
			if m == nil {
				break
			}
			meta, err := m.Metadata()
			if err != nil || meta.Sequence.Consumer != want {
				return false, fmt.Errorf("nats: scan of %s lost a message", t.stream)
			}
			want++
			s.next = meta.Sequence.Stream + 1
			if err := s.hand(m, meta); err != nil {
				return true, err
			}
		}
		if got == 0 {
			return s.complete(ctx)
		}
	}
}

// receive returns the next message, nil at the end of what was asked for.
func (s *scanner) receive(ctx context.Context, b *inbox) (*natsgo.Msg, error) {
	b.timer.Reset(2 * attempt)
	defer b.timer.Stop()
	select {
	case m := <-b.ch:
		if len(m.Data) > 0 || len(m.Header) == 0 {
			return m, nil
		}
		switch m.Header.Get("Status") {
		case "":
			return m, nil
		case "404", "408":
			return nil, nil
		default:
			return nil, fmt.Errorf("nats: scan of %s: %s %s", s.t.stream, m.Header.Get("Status"), m.Header.Get("Description"))
		}
	case <-b.timer.C:
		return nil, sessions.ErrTimeout
	case <-ctx.Done():
		return nil, sessions.ErrTimeout
	}
}

func (s *scanner) hand(m *natsgo.Msg, meta *natsgo.MsgMetadata) error {
	e := entry{Key: strings.TrimPrefix(m.Subject, s.t.prefix), Header: m.Header, Data: m.Data, Rev: meta.Sequence.Stream, At: meta.Timestamp}
	if s.seen != nil {
		if _, again := s.seen[e.Key]; again {
			return nil
		}
		s.seen[e.Key] = struct{}{}
	}
	return s.fn(e)
}

// complete asks the leader whether it holds anything more that was there when
// the scan began: a consumer on a trailing replica ends too early.
func (s *scanner) complete(ctx context.Context) (end bool, err error) {
	if s.next > s.last {
		return true, nil
	}
	subject := s.t.prefix + "*"
	if s.o.key != "" {
		subject = s.t.prefix + s.o.key
	}
	ask, _ := json.Marshal(map[string]any{"seq": max(s.next, 1), "next_by_subj": subject})
	e, err := s.t.fetch(ctx, ask)
	switch {
	case errors.Is(err, sessions.ErrNotFound):
		return true, nil
	case err != nil:
		return false, err
	case e.Rev > s.last || !s.o.since.IsZero() && e.At.Before(s.o.since):
		return true, nil
	}
	return false, fmt.Errorf("nats: scan of %s: replica trails its leader", s.t.stream)
}

// lastSeq is the sequence of the newest value, from the stream's leader.
func (t *table) lastSeq(p *patience) (uint64, error) {
	for {
		i, err := t.info(p.ctx)
		if err == nil {
			return i.State.LastSeq, nil
		}
		if !p.pause() {
			return 0, fmt.Errorf("%w: %w", sessions.ErrUnavailable, err)
		}
	}
}

// info asks the stream's leader once.
func (t *table) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	m, err := t.c.keep.request(ctx, &natsgo.Msg{Subject: "$JS.API.STREAM.INFO." + t.stream}, attempt)
	if err != nil {
		return nil, err
	}
	var r struct {
		jetstream.StreamInfo
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return nil, fmt.Errorf("nats: answer of JetStream: %w", err)
	}
	if r.Error != nil {
		return nil, r.Error
	}
	return &r.StreamInfo, nil
}
