package nats

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"callswitch/sessions"
)

// Headers of JetStream and of every value we write.
const (
	hdrExpect = "Nats-Expected-Last-Subject-Sequence"
	hdrTTL    = "Nats-TTL"
	hdrNonce  = "Nonce"
)

// Error codes of JetStream that we tell apart (server/jetstream_errors_generated.go).
const (
	codeStreamMissing = 10059
	codeNoMessage     = 10037
	codeNoSequence    = 10043
	codeTooLarge      = 10054
	codeStoreFailed   = 10077 // "maximum messages exceeded", "maximum bytes exceeded"
)

// ErrKey is returned for a key that cannot be one token of a subject.
var ErrKey = errors.New("nats: key must be 1 to 200 letters, digits, '-', '_', '=' or '/'")

// entry is one stored value.
type entry struct {
	Key    string
	Header natsgo.Header
	Data   []byte
	Rev    uint64 // stream sequence
	At     time.Time
}

// table reads and writes the newest value of each key of one stream.
type table struct {
	c        *Conn
	stream   string
	prefix   string        // of its subjects, with the dot
	patience time.Duration // how long one call tries before sessions.ErrUnavailable
	doubts   *doubts
}

// One attempt's time: a leader that has not answered by then is away or gone,
// and the outcome must be re-read.
const attempt = time.Second

func newTable(c *Conn, stream, prefix string, patience time.Duration) *table {
	return &table{c: c, stream: stream, prefix: prefix, patience: patience, doubts: newDoubts()}
}

func validKey(key string) bool {
	if len(key) == 0 || len(key) > 200 {
		return false
	}
	for i := range len(key) {
		switch ch := key[i]; {
		case ch >= 'a' && ch <= 'z', ch >= 'A' && ch <= 'Z', ch >= '0' && ch <= '9':
		case strings.IndexByte("-_=/", ch) >= 0:
		default:
			return false
		}
	}
	return true
}

// reply is what JetStream answers: to a publish, a get, a delete.
type reply struct {
	Seq   uint64 `json:"seq"`
	Error *struct {
		Code    int    `json:"code"`
		ErrCode int    `json:"err_code"`
		Text    string `json:"description"`
	} `json:"error"`
	Success bool `json:"success"`
	Message *struct {
		Subject string    `json:"subject"`
		Seq     uint64    `json:"seq"`
		Hdrs    []byte    `json:"hdrs"`
		Data    []byte    `json:"data"`
		Time    time.Time `json:"time"`
	} `json:"message"`
}

func (r *reply) code() int {
	if r.Error == nil {
		return 0
	}
	return r.Error.ErrCode
}

func (r *reply) err() error {
	return fmt.Errorf("jetstream %d: %s", r.Error.ErrCode, r.Error.Text)
}

// call sends one request to JetStream and decodes its answer.
func (t *table) call(ctx context.Context, m *natsgo.Msg) (*reply, error) {
	a, err := t.c.keep.request(ctx, m, attempt)
	if err != nil {
		return nil, err
	}
	return decodeReply(a.Data)
}

func decodeReply(data []byte) (*reply, error) {
	r := new(reply)
	if seq, ok := plainAck(data); ok {
		r.Seq = seq
		return r, nil
	}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("nats: answer of JetStream: %w", err)
	}
	return r, nil
}

// plainAck reads what a write is nearly always answered with,
// {"stream":"REC","seq":439}, at a fortieth of the price of any JSON.
func plainAck(data []byte) (seq uint64, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`))
	if !ok {
		return 0, false
	}
	name, rest, _ := bytes.Cut(rest, []byte(`","seq":`))
	if bytes.IndexByte(name, '"') >= 0 || len(rest) < 2 || rest[len(rest)-1] != '}' {
		return 0, false
	}
	seq, err := strconv.ParseUint(string(rest[:len(rest)-1]), 10, 64)
	return seq, err == nil
}

// getOnce reads the newest value of a key from the stream's leader.
// sessions.ErrNotFound is an answer; every other error means: nothing is known.
func (t *table) getOnce(ctx context.Context, key string) (entry, error) {
	ask, _ := json.Marshal(map[string]any{"last_by_subj": t.prefix + key})
	return t.fetch(ctx, ask)
}

func (t *table) fetch(ctx context.Context, ask []byte) (entry, error) {
	r, err := t.call(ctx, &natsgo.Msg{Subject: "$JS.API.STREAM.MSG.GET." + t.stream, Data: ask})
	switch {
	case err != nil:
		return entry{}, err
	case r.code() == codeNoMessage:
		return entry{}, sessions.ErrNotFound
	case r.Error != nil:
		return entry{}, r.err()
	case r.Message == nil:
		return entry{}, errors.New("nats: answer of JetStream without a message")
	}
	e := entry{Key: strings.TrimPrefix(r.Message.Subject, t.prefix), Data: r.Message.Data, Rev: r.Message.Seq, At: r.Message.Time}
	if len(r.Message.Hdrs) > 0 {
		if e.Header, err = natsgo.DecodeHeadersMsg(r.Message.Hdrs); err != nil {
			return entry{}, fmt.Errorf("nats: stored headers of %s: %w", r.Message.Subject, err)
		}
	}
	return e, nil
}

// get is getOnce, asked again until there is an answer.
func (t *table) get(ctx context.Context, key string) (entry, error) {
	if !validKey(key) {
		return entry{}, sessions.ErrNotFound
	}
	p := newPatience(ctx, t.patience)
	defer p.stop()
	for {
		e, err := t.getOnce(p.ctx, key)
		if err == nil || errors.Is(err, sessions.ErrNotFound) {
			return e, err
		}
		if !p.pause() {
			return entry{}, fmt.Errorf("%w: %w", sessions.ErrUnavailable, err)
		}
	}
}

// remove deletes the value of a key if its revision is still rev. What is gone
// already is no error; a newer value is sessions.ErrConflict.
func (t *table) remove(ctx context.Context, key string, rev uint64) error {
	if !validKey(key) {
		return ErrKey
	}
	p := newPatience(ctx, t.patience)
	defer p.stop()
	ask, _ := json.Marshal(map[string]any{"seq": rev, "no_erase": true})
	for {
		e, err := t.getOnce(p.ctx, key)
		switch {
		case errors.Is(err, sessions.ErrNotFound):
			return nil
		case err == nil && e.Rev != rev:
			return sessions.ErrConflict
		case err == nil:
			// A put between the read and this leaves no message at rev: nothing is
			// deleted then, and the next read tells.
			var r *reply
			r, err = t.call(p.ctx, &natsgo.Msg{Subject: "$JS.API.STREAM.MSG.DELETE." + t.stream, Data: ask})
			if err == nil && r.Success {
				return nil
			}
			if err == nil && r.Error != nil {
				err = r.err()
			}
		}
		if !p.pause() {
			return fmt.Errorf("%w: %w", sessions.ErrUnavailable, err)
		}
	}
}

const firstPause = 5 * time.Millisecond

// patience spaces attempts: 5 ms doubling to 200 ms, until its time is over.
type patience struct {
	ctx  context.Context
	stop context.CancelFunc
	next time.Duration
}

func newPatience(ctx context.Context, d time.Duration) *patience {
	p := &patience{next: firstPause}
	p.ctx, p.stop = context.WithTimeout(ctx, d)
	return p
}

// pause waits, and reports whether there is time for another attempt.
func (p *patience) pause() bool {
	timer := time.NewTimer(p.next)
	defer timer.Stop()
	p.next = min(2*p.next, 200*time.Millisecond)
	select {
	case <-timer.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}
