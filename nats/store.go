package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"callswitch/codecore"
	"callswitch/sessions"
)

var _ sessions.Store = (*Store)(nil)

// StoreConfig is a Store's. Zero values mean the defaults of the comments.
type StoreConfig struct {
	Patience time.Duration // 5 s: how long one call tries before sessions.ErrUnavailable
	TombTTL  time.Duration // 60 s: how long an ended call's record answers (whole seconds, at least 1)
	InfoAge  time.Duration // 1 s: how old the figures may be by which new calls are refused
	OnPut    func(time.Duration, error)
}

// Store keeps the records of calls, their CDRs and stories.
type Store struct {
	cfg  StoreConfig
	c    *Conn
	rec  *table
	cdr  *table
	old  *table // stories
	told stories
	room room
}

// NewStore returns a store on streams that EnsureStreams has made; until they
// are there every call ends in sessions.ErrUnavailable.
func NewStore(c *Conn, cfg StoreConfig) *Store {
	def(&cfg.Patience, 5*time.Second)
	def(&cfg.TombTTL, time.Minute)
	def(&cfg.InfoAge, time.Second)
	s := &Store{
		cfg: cfg, c: c,
		rec: newTable(c, streamRec, "rec.", cfg.Patience),
		cdr: newTable(c, streamCDR, "cdr.", cfg.Patience),
		old: newTable(c, streamStory, "story.", cfg.Patience),
	}
	s.room.table, s.room.age = s.rec, cfg.InfoAge
	s.told.send = func(id codecore.CallID, body []byte) { _ = c.bus.Publish("story."+string(id), body) }
	c.atClose(s.told.flush)
	return s
}

// Put writes one record; see sessions.Store.
func (s *Store) Put(ctx context.Context, r sessions.Record) (uint64, error) {
	begin := time.Now()
	rev, err := s.put(ctx, r)
	if s.cfg.OnPut != nil {
		s.cfg.OnPut(time.Since(begin), err)
	}
	return rev, err
}

func (s *Store) put(ctx context.Context, r sessions.Record) (uint64, error) {
	if r.Rev == 0 {
		if err := s.room.admit(ctx, len(r.Body)); err != nil {
			return 0, err
		}
	}
	return s.rec.put(ctx, s.write(r))
}

// PutAll writes many records, pipelined; see sessions.Store. No two of them may
// be of one call.
func (s *Store) PutAll(ctx context.Context, rs []sessions.Record) []sessions.PutResult {
	res := make([]sessions.PutResult, len(rs))
	ws := make([]write, 0, len(rs))
	at := make([]int, 0, len(rs))
	for i, r := range rs {
		if r.Rev == 0 {
			if res[i].Err = s.room.admit(ctx, len(r.Body)); res[i].Err != nil {
				continue
			}
		}
		ws, at = append(ws, s.write(r)), append(at, i)
	}
	for i, o := range s.rec.putAll(ctx, ws) {
		res[at[i]] = sessions.PutResult{Rev: o.rev, Err: o.err}
	}
	return res
}

// Get reads the newest record from the stream's leader.
func (s *Store) Get(ctx context.Context, id codecore.CallID) (sessions.Record, error) {
	e, err := s.rec.get(ctx, string(id))
	if err != nil {
		return sessions.Record{}, err
	}
	return record(e)
}

// Scan calls fn once for each call; see sessions.Store. A call that changes
// meanwhile is given in a state that was its newest at some moment of the scan.
// A record whose headers cannot be read is skipped: it must not hide the others.
func (s *Store) Scan(ctx context.Context, headersOnly bool, fn func(sessions.Record) error) error {
	_, err := s.scan(ctx, scanOpts{headersOnly: headersOnly}, fn)
	return err
}

// ScanSince is Scan, without bodies, of what was written after rev; see
// sessions.Store. When nothing was it costs one request.
func (s *Store) ScanSince(ctx context.Context, rev uint64, fn func(sessions.Record) error) (upTo uint64, err error) {
	return s.scan(ctx, scanOpts{headersOnly: true, after: rev}, fn)
}

func (s *Store) scan(ctx context.Context, o scanOpts, fn func(sessions.Record) error) (upTo uint64, err error) {
	return s.rec.scanTo(ctx, o, func(e entry) error {
		r, err := record(e)
		if err != nil {
			s.c.cfg.Log.Error("unreadable record skipped", "call", e.Key, "err", err)
			return nil
		}
		if o.headersOnly {
			r.Body = nil
		}
		return fn(r)
	})
}

// AddCDR stores a CDR once by its ID.
func (s *Store) AddCDR(ctx context.Context, c codecore.CDR) error {
	body, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("nats: CDR %s: %w", c.ID, err)
	}
	_, err = s.cdr.put(ctx, write{key: c.ID, hdr: natsgo.Header{}, data: body})
	if errors.Is(err, sessions.ErrConflict) {
		return nil // it is there already
	}
	return err
}

// CDRs calls fn for each CDR stored at or after since (zero: all), oldest first.
func (s *Store) CDRs(ctx context.Context, since time.Time, fn func(codecore.CDR) error) error {
	return s.cdr.scan(ctx, scanOpts{since: since, every: true}, func(e entry) error {
		var c codecore.CDR
		if err := json.Unmarshal(e.Data, &c); err != nil {
			return fmt.Errorf("nats: stored CDR %s: %w", e.Key, err)
		}
		return fn(c)
	})
}

// Tell appends to the story of a call, a little later and without an answer:
// lines may be lost.
func (s *Store) Tell(id codecore.CallID, line sessions.StoryLine) {
	if validKey(string(id)) {
		s.told.tell(id, line)
	}
}

// Story returns what is left of a call's story, oldest line first.
func (s *Store) Story(ctx context.Context, id codecore.CallID) ([]sessions.StoryLine, error) {
	if !validKey(string(id)) {
		return nil, sessions.ErrNotFound
	}
	var lines []sessions.StoryLine
	err := s.old.scan(ctx, scanOpts{key: string(id), every: true}, func(e entry) error {
		var some []sessions.StoryLine
		if json.Unmarshal(e.Data, &some) == nil {
			lines = append(lines, some...)
		}
		return nil
	})
	return lines, err
}

// StoreTime returns how far the store's clock is ahead of ours: deadlines of
// calls are in store time. The error is at most half of the shortest of five
// round trips, some 100 us on a local network.
func (s *Store) StoreTime(ctx context.Context) (offset time.Duration, err error) {
	best := time.Duration(-1)
	for range 5 {
		begin := time.Now()
		i, e := s.rec.info(ctx)
		if e != nil {
			err = e
			continue
		}
		if trip := time.Since(begin); best < 0 || trip < best {
			best = trip
			offset = i.TimeStamp.Sub(begin.Add(trip / 2).Round(0))
		}
	}
	if best < 0 {
		return 0, fmt.Errorf("%w: %w", sessions.ErrUnavailable, err)
	}
	return offset, nil
}

// Healthy reports whether the records' stream has a leader that answers.
func (s *Store) Healthy(ctx context.Context) bool {
	_, err := s.rec.info(ctx)
	return err == nil
}
