package sessionstest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// Store runs the conformance suite of sessions.Store; open returns an empty
// store and cleans up by t.Cleanup.
func Store(t *testing.T, open func(t *testing.T) sessions.Store) {
	for name, test := range map[string]func(*testing.T, sessions.Store){
		"create once":              createOnce,
		"compare and set":          compareAndSet,
		"one of many writers wins": oneWins,
		"headers come back":        headersComeBack,
		"get of nothing":           getOfNothing,
		"scan":                     scan,
		"scan stops":               scanStops,
		"scan since":               scanSince,
		"put all":                  putAll,
		"CDR once":                 cdrOnce,
		"tombstone":                tombstone,
		"tell does not block":      tell,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

const patience = time.Minute

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func record(n int) sessions.Record {
	return sessions.Record{
		ID: codecore.CallID(fmt.Sprintf("%024x", n)), Owner: "w-1", Epoch: 1, N: 1,
		Release: "r1", Schema: 1, Body: fmt.Appendf(nil, `{"stub":{},"state":{"n":%d}}`, n),
	}
}

func mustPut(t *testing.T, s sessions.Store, r sessions.Record) sessions.Record {
	t.Helper()
	rev, err := s.Put(within(t), r)
	if err != nil {
		t.Fatalf("Put of %s at revision %d: %v", r.ID, r.Rev, err)
	}
	if rev == 0 || rev <= r.Rev {
		t.Fatalf("Put at revision %d returned %d: revisions must grow", r.Rev, rev)
	}
	r.Rev = rev
	return r
}

func wantConflict(t *testing.T, s sessions.Store, r sessions.Record) {
	t.Helper()
	if rev, err := s.Put(within(t), r); !errors.Is(err, sessions.ErrConflict) {
		t.Fatalf("Put at revision %d = %d, %v; want ErrConflict", r.Rev, rev, err)
	}
}

func createOnce(t *testing.T, s sessions.Store) {
	mustPut(t, s, record(1))
	wantConflict(t, s, record(1))
	mustPut(t, s, record(2))
}

func compareAndSet(t *testing.T, s sessions.Store) {
	first := mustPut(t, s, record(1))
	other := mustPut(t, s, record(2)) // another call's write must not touch the first's revision
	second := first
	second.N, second.Owner, second.Epoch = 2, "w-2", 2
	second = mustPut(t, s, second)
	wantConflict(t, s, first)
	ahead := second
	ahead.Rev += 1000
	wantConflict(t, s, ahead)
	mustPut(t, s, other)
	got, err := s.Get(within(t), first.ID)
	if err != nil || got.Owner != "w-2" || got.N != 2 || got.Rev != second.Rev {
		t.Fatalf("Get after a refused write = %+v, %v; want the winner's", got, err)
	}
}

func oneWins(t *testing.T, s sessions.Store) {
	base := mustPut(t, s, record(1))
	const writers = 8
	results := make(chan error, writers)
	for i := range writers {
		r := base
		r.Owner = fmt.Sprintf("w-%d", i)
		go func() { _, err := s.Put(within(t), r); results <- err }()
	}
	won := 0
	for range writers {
		switch err := <-results; {
		case err == nil:
			won++
		case !errors.Is(err, sessions.ErrConflict):
			t.Errorf("loser got %v, want ErrConflict", err)
		}
	}
	if won != 1 {
		t.Fatalf("%d writers won at one revision, want 1", won)
	}
}

func headersComeBack(t *testing.T, s sessions.Store) {
	r := record(1)
	r.Attempts, r.Claimed, r.Aside = 2, time.Now().UTC().Truncate(time.Millisecond), true
	r = mustPut(t, s, r)
	got, err := s.Get(within(t), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Claimed.Equal(r.Claimed) {
		t.Errorf("Claimed = %v, want %v", got.Claimed, r.Claimed)
	}
	got.Claimed = r.Claimed
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", r) {
		t.Errorf("Get = %+v\nwant  %+v", got, r)
	}
}

func getOfNothing(t *testing.T, s sessions.Store) {
	if _, err := s.Get(within(t), record(1).ID); !errors.Is(err, sessions.ErrNotFound) {
		t.Fatalf("Get of nothing: %v, want ErrNotFound", err)
	}
	gone := record(1)
	gone.Rev = 7
	wantConflict(t, s, gone)
}
