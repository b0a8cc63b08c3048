package sessionstest

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

func scan(t *testing.T, s sessions.Store) {
	if err := s.Scan(within(t), true, func(r sessions.Record) error {
		t.Errorf("an empty store scanned %s", r.ID)
		return nil
	}); err != nil {
		t.Fatalf("Scan of an empty store: %v", err)
	}
	const calls = 20
	for i := range calls {
		r := mustPut(t, s, record(i))
		if i%2 == 0 {
			r.N = 2
			mustPut(t, s, r)
		}
	}
	for _, headersOnly := range []bool{true, false} {
		seen := map[codecore.CallID]sessions.Record{}
		err := s.Scan(within(t), headersOnly, func(r sessions.Record) error {
			if _, twice := seen[r.ID]; twice {
				t.Errorf("%s came twice", r.ID)
			}
			seen[r.ID] = r
			return nil
		})
		if err != nil || len(seen) != calls {
			t.Fatalf("Scan: %d records, %v; want %d", len(seen), err, calls)
		}
		for i := range calls {
			want := record(i)
			got := seen[want.ID]
			if n := uint64(2 - i%2); got.N != n || got.Owner != want.Owner || got.Schema != 1 {
				t.Errorf("headers of %s = %+v, want N %d", want.ID, got, n)
			}
			if headersOnly != (len(got.Body) == 0) || !headersOnly && !bytes.Equal(got.Body, want.Body) {
				t.Errorf("headersOnly %t: body %q", headersOnly, got.Body)
			}
			if got.Rev == 0 {
				t.Errorf("%s came without its revision", got.ID)
			}
		}
	}
}

func scanStops(t *testing.T, s sessions.Store) {
	for i := range 5 {
		mustPut(t, s, record(i))
	}
	enough, seen := errors.New("enough"), 0
	err := s.Scan(within(t), true, func(sessions.Record) error {
		seen++
		return enough
	})
	if !errors.Is(err, enough) || seen != 1 {
		t.Fatalf("Scan after fn's error: %v after %d records, want that error after 1", err, seen)
	}
}

func scanSince(t *testing.T, s sessions.Store) {
	since := func(rev uint64) (ids []codecore.CallID, upTo uint64) {
		upTo, err := s.ScanSince(within(t), rev, func(r sessions.Record) error {
			if len(r.Body) > 0 {
				t.Errorf("%s came with its body", r.ID)
			}
			ids = append(ids, r.ID)
			return nil
		})
		if err != nil {
			t.Fatalf("ScanSince %d: %v", rev, err)
		}
		return ids, upTo
	}
	first, _ := mustPut(t, s, record(1)), mustPut(t, s, record(2))
	ids, upTo := since(0)
	if len(ids) != 2 {
		t.Fatalf("ScanSince 0 gave %v, want both records", ids)
	}
	if ids, again := since(upTo); len(ids) != 0 || again != upTo {
		t.Errorf("nothing was written, ScanSince %d gave %v and %d", upTo, ids, again)
	}
	first.N = 2
	mustPut(t, s, first)
	mustPut(t, s, record(3))
	ids, next := since(upTo)
	if slices.Sort(ids); !slices.Equal(ids, []codecore.CallID{record(1).ID, record(3).ID}) || next <= upTo {
		t.Errorf("ScanSince %d gave %v and %d, want the two records written since", upTo, ids, next)
	}
	if ids, _ := since(next + 1000); len(ids) != 3 {
		t.Errorf("ScanSince a revision that this store has not reached gave %v, want everything", ids)
	}
	enough := errors.New("enough")
	if at, err := s.ScanSince(within(t), upTo, func(sessions.Record) error { return enough }); !errors.Is(err, enough) || at != upTo {
		t.Errorf("ScanSince after fn's error: %d, %v; want to begin at %d again", at, err, upTo)
	}
}

func putAll(t *testing.T, s sessions.Store) {
	taken := mustPut(t, s, record(3))
	var rs []sessions.Record
	for i := range 16 {
		rs = append(rs, record(i))
	}
	results := s.PutAll(within(t), rs)
	if len(results) != len(rs) {
		t.Fatalf("%d results for %d records", len(results), len(rs))
	}
	for i, res := range results {
		if i == 3 {
			if !errors.Is(res.Err, sessions.ErrConflict) {
				t.Errorf("the taken one: %v, want ErrConflict", res.Err)
			}
			continue
		}
		got, err := s.Get(within(t), rs[i].ID)
		if res.Err != nil || err != nil || got.Rev != res.Rev {
			t.Errorf("record %d: put %+v, get revision %d, %v", i, res, got.Rev, err)
		}
	}
	if got, _ := s.Get(within(t), taken.ID); got.Rev != taken.Rev {
		t.Errorf("the refused one changed the record: revision %d, want %d", got.Rev, taken.Rev)
	}
	if got := s.PutAll(within(t), nil); len(got) != 0 {
		t.Errorf("PutAll of nothing = %v", got)
	}
}

func cdrOnce(t *testing.T, s sessions.Store) {
	c := codecore.CDR{ID: string(record(1).ID), From: "100", To: "200", Result: "answered"}
	for range 3 {
		if err := s.AddCDR(within(t), c); err != nil {
			t.Fatalf("AddCDR, a repeat is no error: %v", err)
		}
	}
	if counter, ok := s.(interface{ CDRs() []codecore.CDR }); ok {
		if got := counter.CDRs(); len(got) != 1 || got[0].ID != c.ID {
			t.Errorf("stored %+v, want one", got)
		}
	}
}

func tombstone(t *testing.T, s sessions.Store) {
	r := mustPut(t, s, record(1))
	old := r
	r.Tomb, r.N = true, 2
	r = mustPut(t, s, r)
	got, err := s.Get(within(t), r.ID)
	if err != nil || !got.Tomb || !bytes.Equal(got.Body, r.Body) {
		t.Fatalf("Get of a tombstone = %+v, %v; want it with its body", got, err)
	}
	wantConflict(t, s, old)
	wantConflict(t, s, record(1)) // the id is not free before it expires
}

func tell(t *testing.T, s sessions.Store) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range uint64(100) {
			s.Tell(record(1).ID, sessions.StoryLine{At: time.Now(), Owner: "w-1", N: n, What: "request INVITE"})
		}
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("Tell blocked: it is lossy so that it never holds up a call")
	}
}
