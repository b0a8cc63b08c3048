package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"callswitch/codecore"
	"callswitch/sessions"
)

func rec(n int, rev uint64) sessions.Record {
	return sessions.Record{
		ID: codecore.CallID(fmt.Sprintf("%024x", n)), Owner: "w-1", Epoch: 1, N: rev + 1, Release: "v0.1.0", Schema: 1,
		Body: fmt.Appendf(nil, `{"stub":{},"state":{"n":%d,"rev":%d}}`, n, rev), Rev: rev,
	}
}

func recs(from, to int) []sessions.Record {
	var rs []sessions.Record
	for i := from; i < to; i++ {
		rs = append(rs, rec(i, 0))
	}
	return rs
}

func putAll(t testing.TB, s *Store, rs []sessions.Record) []sessions.Record {
	t.Helper()
	for i, r := range s.PutAll(within(t), rs) {
		if r.Err != nil {
			t.Fatalf("PutAll, record %d: %v", i, r.Err)
		}
		rs[i].Rev = r.Rev
	}
	return rs
}

// A stopped server: the caller hears ErrUnavailable; the write lands when the
// server wakes; the same write, asked for again, recognises itself.
func TestWriteThatLandedDuringOutageIsOwn(t *testing.T) {
	url, _ := serve(t, t.TempDir(), nil)
	ensure(t, connect(t, url), Streams{})
	f := freeze(t, url)
	s := NewStore(connect(t, f.url()), StoreConfig{Patience: patient})
	r := rec(1, 0)
	if _, err := s.Put(within(t), rec(2, 0)); err != nil {
		t.Fatal(err)
	}
	f.set(true, false) // it hears us; we do not hear it
	s.rec.patience = 1200 * time.Millisecond
	if _, err := s.Put(within(t), r); !errors.Is(err, sessions.ErrUnavailable) {
		t.Fatalf("Put during an outage: %v, want ErrUnavailable", err)
	}
	s.rec.patience = patient
	f.set(true, true)
	eventually(t, "the same Put succeeds", func() bool {
		rev, err := s.Put(within(t), r)
		if err != nil && !errors.Is(err, sessions.ErrUnavailable) {
			t.Fatalf("Put again: %v; it took its own write for another's", err)
		}
		r.Rev = rev
		return err == nil
	})
	other := rec(1, 0)
	other.N = 99
	if _, err := s.Put(within(t), other); !errors.Is(err, sessions.ErrConflict) {
		t.Fatalf("another create: %v, want ErrConflict", err)
	}
	r.N++
	if _, err := s.Put(within(t), r); err != nil {
		t.Fatalf("next save: %v", err)
	}
}

// An answer that comes late is replaced by a look at the store.
func TestSilentSuccessIsFound(t *testing.T) {
	url, _ := serve(t, t.TempDir(), nil)
	ensure(t, connect(t, url), Streams{})
	f := freeze(t, url)
	c := connect(t, f.url())
	s := NewStore(c, StoreConfig{Patience: patient})
	if _, err := s.Put(within(t), rec(2, 0)); err != nil {
		t.Fatal(err)
	}
	f.set(true, false)
	go func() {
		for c.Stats.Doubts.Load() == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		f.set(true, true)
	}()
	if _, err := s.Put(within(t), rec(1, 0)); err != nil {
		t.Fatal(err)
	}
	if c.Stats.Doubts.Load() == 0 {
		t.Error("the write was never in doubt: this test tests nothing")
	}
}

// 10164 says that another write of the key is in flight: not that it won.
func TestInFlightRefusalIsTriedAgain(t *testing.T) {
	c := single(t)
	refused := false
	s, err := c.bus.Subscribe("alias.*", func(m *natsgo.Msg) {
		if !refused {
			refused = true
			_ = m.Respond([]byte(`{"error":{"code":400,"err_code":10164,"description":"wrong last sequence"}}`))
			return
		}
		m.Subject = "rec." + m.Subject[len("alias."):]
		_ = c.bus.PublishMsg(m)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Unsubscribe() }()
	if err := c.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	tab := newTable(c, streamRec, "alias.", patient)
	rev, err := tab.put(within(t), write{key: "k", hdr: natsgo.Header{}, data: []byte("x")})
	if err != nil || rev == 0 || !refused {
		t.Fatalf("put = %d, %v (refused once: %v)", rev, err, refused)
	}
}

func TestOneWriterWinsOnThreeServers(t *testing.T) {
	c := three(t)
	s := NewStore(c, StoreConfig{Patience: patient})
	rev := uint64(0)
	for round := range 5 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		wins, next := 0, rev
		for w := range 8 {
			wg.Go(func() {
				r := rec(1, rev) // all of a round from the same revision
				r.Owner = fmt.Sprint("w-", w)
				got, err := s.Put(context.Background(), r)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					wins++
					next = got
				case !errors.Is(err, sessions.ErrConflict):
					t.Errorf("round %d: %v, want ErrConflict", round, err)
				}
			})
		}
		wg.Wait()
		if wins != 1 {
			t.Fatalf("round %d: %d writers won", round, wins)
		}
		rev = next
	}
}

func TestTombstoneExpires(t *testing.T) {
	c := single(t)
	var s *Store
	var r sessions.Record
	for ttl, read := 2*time.Second, false; !read; ttl *= 4 { // a busy machine may read the first too late
		s = NewStore(c, StoreConfig{TombTTL: ttl, Patience: patient})
		r = rec(int(ttl/time.Second), 0)
		var err error
		if r.Rev, err = s.Put(within(t), r); err != nil {
			t.Fatal(err)
		}
		r.Tomb = true
		ended := time.Now()
		if r.Rev, err = s.Put(within(t), r); err != nil {
			t.Fatal(err)
		}
		got, err := s.Get(within(t), r.ID)
		if read = err == nil && got.Tomb; !read && (time.Since(ended) < ttl || !errors.Is(err, sessions.ErrNotFound)) {
			t.Fatalf("Get = %+v, %v: want the tombstone", got, err)
		}
	}
	eventually(t, "the tombstone is gone", func() bool {
		_, err := s.Get(within(t), r.ID)
		return errors.Is(err, sessions.ErrNotFound)
	})
	if _, err := s.Put(within(t), r); !errors.Is(err, sessions.ErrConflict) {
		t.Errorf("update of what has expired: %v, want ErrConflict", err)
	}
	r.N, r.Tomb, r.Rev = 1, false, 0
	if _, err := s.Put(within(t), r); err != nil {
		t.Errorf("a new record in its place: %v", err)
	}
}

func TestFullStoreRefusesNewCallsOnly(t *testing.T) {
	url, _ := serve(t, t.TempDir(), nil)
	c := connect(t, url)
	ensure(t, c, Streams{Records: 10})
	s := NewStore(c, StoreConfig{Patience: patient, InfoAge: time.Hour}) // no look at the stream between an admission and its write
	rs := putAll(t, s, recs(0, 8))
	if _, err := s.Put(within(t), rec(8, 0)); !errors.Is(err, sessions.ErrFull) {
		t.Fatalf("ninth of ten: %v, want ErrFull", err)
	}
	if res := s.PutAll(within(t), recs(8, 9)); !errors.Is(res[0].Err, sessions.ErrFull) {
		t.Fatalf("ninth of ten, PutAll: %v, want ErrFull", res[0].Err)
	}
	if _, err := s.Put(within(t), rs[0]); err != nil {
		t.Fatalf("update when full: %v", err)
	}
	// What the figures miss, the stream's own limit does not.
	blind := NewStore(c, StoreConfig{Patience: patient})
	blind.room.at, blind.room.age = time.Now(), time.Hour
	putAll(t, blind, recs(100, 102))
	if _, err := blind.Put(within(t), rec(102, 0)); !errors.Is(err, sessions.ErrFull) {
		t.Fatalf("eleventh of ten: %v, want ErrFull", err)
	}
}

func TestScanWhileWritesGoOn(t *testing.T) {
	for name, open := range map[string]func(testing.TB) *Conn{"one": single, "three": three} {
		t.Run(name, func(t *testing.T) {
			s := NewStore(open(t), StoreConfig{Patience: patient})
			const calls = 3000
			rs := putAll(t, s, recs(0, calls))
			stop, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				for i := 0; ; i = (i + 7) % calls {
					select {
					case <-stop:
						return
					default:
					}
					rev, err := s.Put(context.Background(), rs[i])
					if err != nil {
						t.Errorf("Put: %v", err)
						return
					}
					rs[i].Rev = rev
				}
			}()
			for i := range 4 {
				seen := map[codecore.CallID]int{}
				err := s.Scan(within(t), i%2 == 0, func(r sessions.Record) error {
					seen[r.ID]++
					if (len(r.Body) == 0) != (i%2 == 0) {
						t.Fatalf("scan %d: body of %d bytes", i, len(r.Body))
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				for n := range calls {
					if id := rec(n, 0).ID; seen[id] != 1 {
						t.Fatalf("scan %d: call %s met %d times", i, id, seen[id])
					}
				}
			}
			close(stop)
			<-done
		})
	}
}

func TestScanSurvivesLossOfItsConsumer(t *testing.T) {
	c := single(t)
	s := NewStore(c, StoreConfig{Patience: patient})
	const calls = 2000
	putAll(t, s, recs(0, calls))
	n := 0
	err := s.Scan(within(t), false, func(r sessions.Record) error {
		if want := rec(n, 0).ID; r.ID != want {
			t.Fatalf("record %d is %s, want %s", n, r.ID, want)
		}
		if n++; n == 700 {
			str, err := c.js.Stream(within(t), streamRec)
			if err != nil {
				t.Fatal(err)
			}
			for name := range str.ConsumerNames(within(t)).Name() {
				if err := c.js.DeleteConsumer(within(t), streamRec, name); err != nil {
					t.Fatal(err)
				}
			}
		}
		return nil
	})
	if err != nil || n != calls {
		t.Fatalf("Scan met %d of %d, %v", n, calls, err)
	}
}

func TestUnreadableRecordHidesNoOther(t *testing.T) {
	c := single(t)
	s := NewStore(c, StoreConfig{Patience: patient})
	putAll(t, s, recs(0, 3))
	if _, err := c.js.Publish(within(t), "rec.garbage", []byte("not ours")); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := s.Scan(within(t), false, func(sessions.Record) error { n++; return nil }); err != nil || n != 3 {
		t.Fatalf("Scan met %d records, %v; want 3", n, err)
	}
	if _, err := s.Get(within(t), "garbage"); err == nil {
		t.Error("Get of an unreadable record gave no error")
	}
	for _, id := range []codecore.CallID{"", "*", ">", "a.b", "a b", "a\r\nb"} {
		r := rec(1, 0)
		if r.ID = id; true {
			if _, err := s.Put(within(t), r); !errors.Is(err, ErrKey) {
				t.Errorf("Put of id %q: %v, want ErrKey", id, err)
			}
		}
		if _, err := s.Get(within(t), id); !errors.Is(err, sessions.ErrNotFound) {
			t.Errorf("Get of id %q: %v, want ErrNotFound", id, err)
		}
	}
}

func TestTooLargeIsFinal(t *testing.T) {
	s := NewStore(single(t), StoreConfig{Patience: patient})
	for _, size := range []int{600 << 10, 2 << 20} {
		r := rec(1, 0)
		r.Body = make([]byte, size)
		if _, err := s.Put(within(t), r); !errors.Is(err, sessions.ErrTooLarge) {
			t.Errorf("%d bytes: %v, want ErrTooLarge", size, err)
		}
	}
}

func TestCDRsAndStory(t *testing.T) {
	s := NewStore(single(t), StoreConfig{Patience: patient})
	for i := range 5 {
		for range 2 { // a repeat is no error and no second CDR
			if err := s.AddCDR(within(t), codecore.CDR{ID: fmt.Sprint("c", i), From: "1"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var got []string
	collect := func(c codecore.CDR) error { got = append(got, c.ID); return nil }
	if err := s.CDRs(within(t), time.Time{}, collect); err != nil || fmt.Sprint(got) != "[c0 c1 c2 c3 c4]" {
		t.Fatalf("CDRs = %v, %v", got, err)
	}
	got = nil
	if err := s.CDRs(within(t), time.Now().Add(time.Hour), collect); err != nil || len(got) != 0 {
		t.Fatalf("CDRs of the future = %v, %v", got, err)
	}
	for i := range 3 {
		s.Tell("call1", sessions.StoryLine{What: fmt.Sprint("event ", i)})
		s.Tell("call2", sessions.StoryLine{What: "other"})
	}
	var lines []sessions.StoryLine
	eventually(t, "the story has three lines", func() bool {
		var err error
		if lines, err = s.Story(within(t), "call1"); err != nil {
			t.Fatal(err)
		}
		return len(lines) == 3
	})
	if lines[0].What != "event 0" || lines[2].What != "event 2" {
		t.Errorf("story = %+v", lines)
	}
	began := time.Now()
	offset, err := s.StoreTime(within(t))
	// Half of the shortest of five round trips, and no more than is fine for any.
	if bound := max(50*time.Millisecond, time.Since(began)/10); err != nil || offset.Abs() > bound {
		t.Errorf("StoreTime = %v, %v; both clocks are the same", offset, err)
	}
	eventually(t, "healthy", func() bool { return s.Healthy(within(t)) })
}

// A planned change of the stream's leader: writes go on, none is lost or doubled.
func TestWritesAcrossLeaderStepDown(t *testing.T) {
	c := three(t)
	s := NewStore(c, StoreConfig{Patience: patient})
	rs := putAll(t, s, recs(0, 400))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			putAll(t, s, rs)
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for range 2 {
		var now string
		eventually(t, "there is a leader", func() bool {
			i, err := s.rec.info(within(t))
			if err != nil || i.Cluster == nil {
				return false
			}
			now = i.Cluster.Leader
			return now != ""
		})
		eventually(t, "another leads", func() bool {
			i, err := s.rec.info(within(t))
			if err == nil && i.Cluster != nil && i.Cluster.Leader == now { // not asked yet, not heard, or elected again
				_, _ = c.keep.request(within(t), &natsgo.Msg{Subject: "$JS.API.STREAM.LEADER.STEPDOWN.REC"}, 2*time.Second)
			}
			return err == nil && i.Cluster != nil && i.Cluster.Leader != "" && i.Cluster.Leader != now
		})
	}
	close(stop)
	<-done
	for i, r := range rs {
		if got, err := s.Get(within(t), r.ID); err != nil || got.Rev != r.Rev {
			t.Fatalf("record %d: revision %d, %v; want %d", i, got.Rev, err, r.Rev)
		}
	}
	t.Logf("doubts %d, sent again %d", c.Stats.Doubts.Load(), c.Stats.Retries.Load())
}
