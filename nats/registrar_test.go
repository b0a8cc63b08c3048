package nats

import (
	"context"
	"errors"
	"testing"
	"time"

	"callswitch/sessions"
)

func TestShelf(t *testing.T) {
	ctx := within(t)
	s := NewBindings(single(t), patient)
	rev, err := s.Put(ctx, "626f62", []byte("one"), 0, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, "626f62", []byte("two"), 0, time.Hour); !errors.Is(err, sessions.ErrConflict) {
		t.Errorf("second create: %v, want ErrConflict", err)
	}
	if _, err := s.Put(ctx, "other", nil, 0, 0); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := s.Scan(ctx, func(string, []byte, uint64) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("%d values, %v: an empty one is none", n, err)
	}
	if rev, err = s.Put(ctx, "626f62", []byte("soon gone"), rev, 2*time.Second); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it forgets by itself", func() bool {
		_, _, err := s.Get(ctx, "626f62")
		if err != nil && !errors.Is(err, sessions.ErrNotFound) {
			t.Fatal(err)
		}
		return err != nil
	})
	if _, err := s.Put(ctx, "626f62", []byte("late"), rev, time.Hour); !errors.Is(err, sessions.ErrConflict) {
		t.Errorf("write over what has been forgotten: %v, want ErrConflict", err)
	}
	if _, err := s.Put(ctx, "626f62", []byte("again"), 0, time.Hour); err != nil {
		t.Errorf("create after that: %v", err)
	}
}

// Every edge has all accounts when Watch returns, and hears of each change, also
// of those that were made while it could not.
func TestAccountsAreWatched(t *testing.T) {
	url, _ := serve(t, t.TempDir(), nil)
	f := freeze(t, url)
	c, far := connect(t, url), connect(t, f.url())
	ensure(t, c, Streams{})
	a := NewAccounts(c, patient)
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	put := func(key, value string, rev uint64) uint64 {
		t.Helper()
		rev, err := a.Put(ctx, key, []byte(value), rev, 0)
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	one, two := put("one", "1", 0), put("two", "2", 0)
	type change struct{ key, value string }
	seen := make(chan change, 64)
	if err := NewAccounts(far, patient).Watch(ctx, func(k string, v []byte) { seen <- change{k, string(v)} }); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2 {
		t.Fatalf("%d accounts are known when Watch returns", len(seen))
	}
	<-seen
	<-seen
	expect := func(want ...change) {
		t.Helper()
		for range want {
			select {
			case got := <-seen:
				ok := false
				for _, w := range want {
					ok = ok || got == w
				}
				if !ok {
					t.Errorf("heard of %v, want %v", got, want)
				}
			case <-time.After(patient):
				t.Fatalf("never heard of %v", want)
			}
		}
	}
	one = put("one", "1b", one)
	expect(change{"one", "1b"})
	two = put("two", "", two) // removed
	expect(change{"two", ""})
	put("two", "2c", two)
	expect(change{"two", "2c"})
	f.set(false, false)
	f.cut()
	put("one", "", one)
	put("three", "3", 0)
	f.set(true, true)
	expect(change{"one", ""}, change{"three", "3"})
}
