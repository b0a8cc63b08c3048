package nats

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"strconv"
	"sync"

	natsgo "github.com/nats-io/nats.go"

	"callswitch/sessions"
)

// write is one compare-and-set: the value lands only if the key's revision is
// still rev (0: the key has no value).
type write struct {
	key  string
	hdr  natsgo.Header // table adds its own
	data []byte
	rev  uint64
}

// message prepares w for sending under a nonce.
func (t *table) message(w write, nonce string) *natsgo.Msg {
	w.hdr[hdrExpect] = []string{strconv.FormatUint(w.rev, 10)}
	w.hdr[hdrNonce] = []string{nonce}
	return &natsgo.Msg{Subject: t.prefix + w.key, Header: w.hdr, Data: w.data}
}

// put performs w and returns the new revision.
//
// The error code of a refused write is never believed (a cluster answers 10164
// while another write is in flight, 10071 for a wrong sequence, or nothing for
// a write that landed): after any odd answer the newest value is read, and the
// nonce in it says whose it is.
func (t *table) put(ctx context.Context, w write) (uint64, error) {
	if !validKey(w.key) {
		return 0, ErrKey
	}
	p := newPatience(ctx, t.patience)
	defer p.stop()
	nonce := t.doubts.nonce(w)
	return t.settle(p, w, nonce, false)
}

// settle tries until the write's fate is known or time is over. read begins
// with a look at what is stored: an earlier attempt may have landed.
func (t *table) settle(p *patience, w write, nonce string, read bool) (uint64, error) {
	m := t.message(w, nonce)
	doubt := read // an attempt may land yet
	var why error
	for {
		if read {
			rev, done, err := t.reread(p.ctx, w, nonce)
			if done {
				t.doubts.clear(w.key)
				return rev, err
			}
			if read = err != nil; read {
				why = err
			}
		} else {
			r, err := t.call(p.ctx, m)
			if err == nil && r.Error == nil && r.Seq > 0 {
				t.doubts.clear(w.key)
				return r.Seq, nil
			}
			if err == nil && r.Error != nil {
				err = r.err()
			}
			switch why = err; {
			case r != nil && r.code() == codeTooLarge, errors.Is(err, natsgo.ErrMaxPayload):
				return 0, fmt.Errorf("%w: %d bytes", sessions.ErrTooLarge, len(w.data))
			case r != nil && r.code() == codeStoreFailed && w.rev == 0:
				return 0, fmt.Errorf("%w: %w", sessions.ErrFull, err)
			case errors.Is(err, sessions.ErrNoResponders), errors.Is(err, sessions.ErrBusAway):
				// It did not leave, or no stream took it: nothing to look for.
			default:
				read, doubt = true, true
				continue
			}
		}
		t.c.Stats.Retries.Add(1)
		if !p.pause() {
			if doubt {
				t.doubts.remember(w, nonce)
			}
			return 0, fmt.Errorf("%w: %w", sessions.ErrUnavailable, why)
		}
	}
}

// reread decides a write in doubt. done: rev and err are its outcome. Not done
// and no error: the store is as it was before the write.
func (t *table) reread(ctx context.Context, w write, nonce string) (rev uint64, done bool, err error) {
	t.c.Stats.Doubts.Add(1)
	e, err := t.getOnce(ctx, w.key)
	switch {
	case errors.Is(err, sessions.ErrNotFound) && w.rev == 0:
		return 0, false, nil
	case errors.Is(err, sessions.ErrNotFound):
		err = sessions.ErrConflict
	case err != nil:
		return 0, false, err
	case e.Header.Get(hdrNonce) == nonce:
		return e.Rev, true, nil
	case e.Rev == w.rev:
		return 0, false, nil
	default:
		err = sessions.ErrConflict
	}
	t.c.Stats.Conflicts.Add(1)
	return 0, true, err
}

// window is how many writes putAll has in flight: beyond 64 to 128 the server's
// queue grows and its speed does not.
const window = 128

// outcome is one write's of putAll.
type outcome struct {
	rev uint64
	err error
}

// putAll is put for many, pipelined. Two writes of one key must not be in one
// call: a cluster refuses the second while the first is in flight.
func (t *table) putAll(ctx context.Context, ws []write) []outcome {
	out := make([]outcome, len(ws))
	nonces := make([]string, len(ws))
	open := make(map[int]bool, window) // in flight
	var late []int                     // to be settled one by one
	p := newPatience(ctx, t.patience)
	defer p.stop()
	b, err := openInbox(t.c.store, window+inboxSize)
	if err == nil {
		defer b.close()
	}
	take := func() bool { // one answer
		b.timer.Reset(attempt)
		defer b.timer.Stop()
		select {
		case m := <-b.ch:
			n, ok := b.number(m)
			if !ok || n >= uint64(len(ws)) || !open[int(n)] {
				return true
			}
			i := int(n)
			delete(open, i)
			r, err := decodeReply(m.Data)
			if noResponders(m) || err != nil || r.Error != nil || r.Seq == 0 {
				late = append(late, i)
				return true
			}
			t.doubts.clear(ws[i].key)
			out[i].rev = r.Seq
			return true
		case <-b.timer.C:
		case <-p.ctx.Done():
		}
		return false
	}
	alive := err == nil
	for i, w := range ws {
		if !validKey(w.key) {
			out[i].err = ErrKey
			continue
		}
		nonces[i] = t.doubts.nonce(w)
		for alive && len(open) >= window {
			alive = take()
		}
		if alive {
			m := t.message(w, nonces[i])
			m.Reply = b.subject(uint64(i))
			open[i] = true
			alive = t.c.store.PublishMsg(m) == nil
		}
		if !alive && !open[i] {
			late = append(late, i)
		}
	}
	for alive && len(open) > 0 {
		alive = take()
	}
	for i := range open {
		late = append(late, i)
	}
	t.settleAll(p, ws, nonces, late, out)
	return out
}

// settleAll decides the writes that the pipeline left open, a few at a time.
func (t *table) settleAll(p *patience, ws []write, nonces []string, late []int, out []outcome) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(16, len(late)) {
		wg.Go(func() {
			for i := range next {
				own := &patience{ctx: p.ctx, next: firstPause}
				out[i].rev, out[i].err = t.settle(own, ws[i], nonces[i], true)
			}
		})
	}
	for _, i := range late {
		next <- i
	}
	close(next)
	wg.Wait()
}

// doubts mints nonces, and remembers those of writes whose caller was told
// "unavailable": the same write, asked for again, keeps its nonce, so that it
// recognises an attempt that landed after all.
type doubts struct {
	self string
	seed maphash.Seed
	mu   sync.Mutex
	m    map[string]doubt
}

type doubt struct {
	sum   uint64
	nonce string
}

const doubtsMax = 1 << 16 // forgotten beyond it: the caller gets ErrConflict and reads its own record

func newDoubts() *doubts {
	return &doubts{self: strconv.FormatUint(rand.Uint64(), 36) + ".", seed: maphash.MakeSeed(), m: map[string]doubt{}}
}

func (d *doubts) sum(w write) uint64 {
	var h maphash.Hash
	h.SetSeed(d.seed)
	_, _ = h.WriteString(strconv.FormatUint(w.rev, 10))
	_, _ = h.Write(w.data)
	for _, name := range sumHeaders {
		if v := w.hdr[name]; len(v) > 0 {
			_, _ = h.WriteString(name)
			_, _ = h.WriteString(v[0])
		}
	}
	return h.Sum64()
}

func (d *doubts) nonce(w write) string {
	d.mu.Lock()
	old, ok := d.m[w.key]
	d.mu.Unlock()
	if ok && old.sum == d.sum(w) {
		return old.nonce
	}
	return d.self + strconv.FormatUint(rand.Uint64(), 36)
}

func (d *doubts) remember(w write, nonce string) {
	sum := d.sum(w)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.m) >= doubtsMax {
		clear(d.m)
	}
	d.m[w.key] = doubt{sum, nonce}
}

func (d *doubts) clear(key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.m) > 0 {
		delete(d.m, key)
	}
}
