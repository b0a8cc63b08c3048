package nats

import (
	"context"
	"errors"
	"testing"
	"time"

	"callswitch/sessions"
)

func TestLegStore(t *testing.T) {
	l := NewLegStore(single(t), patient)
	ctx := within(t)
	rev, err := l.Put(ctx, "call-a", []byte("one"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Put(ctx, "call-a", []byte("two"), 0); !errors.Is(err, sessions.ErrConflict) {
		t.Errorf("second create: %v, want ErrConflict", err)
	}
	rev2, err := l.Put(ctx, "call-a", []byte("two"), rev)
	if err != nil {
		t.Fatal(err)
	}
	if v, r, err := l.Get(ctx, "call-a"); err != nil || string(v) != "two" || r != rev2 {
		t.Errorf("Get = %q, %d, %v", v, r, err)
	}
	if err := l.Delete(ctx, "call-a", rev); !errors.Is(err, sessions.ErrConflict) {
		t.Errorf("Delete of an old revision: %v, want ErrConflict", err)
	}
	if _, err := l.Put(ctx, "call-b", []byte("b"), 0); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	if err := l.Scan(ctx, func(k string, v []byte, _ uint64) error { got[k] = string(v); return nil }); err != nil || len(got) != 2 || got["call-a"] != "two" {
		t.Errorf("Scan = %v, %v", got, err)
	}
	for range 2 { // what is gone already is no error
		if err := l.Delete(ctx, "call-a", rev2); err != nil {
			t.Errorf("Delete: %v", err)
		}
	}
	if _, _, err := l.Get(ctx, "call-a"); !errors.Is(err, sessions.ErrNotFound) {
		t.Errorf("Get after Delete: %v, want ErrNotFound", err)
	}
	if _, err := l.Put(ctx, "call-a", []byte("again"), 0); err != nil {
		t.Errorf("create after Delete: %v", err)
	}
}

func TestDocsAreWatchedAcrossReconnect(t *testing.T) {
	url, _ := serve(t, t.TempDir(), nil)
	f := freeze(t, url)
	c, far := connect(t, url), connect(t, f.url())
	ensure(t, c, Streams{})
	d := NewDocs(c)
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	type version struct {
		v   string
		rev uint64
	}
	seen := make(chan version, 16)
	expect := func(v string, rev uint64) {
		t.Helper()
		select {
		case got := <-seen:
			if got != (version{v, rev}) {
				t.Fatalf("watched %+v, want %q %d", got, v, rev)
			}
		case <-time.After(patient):
			t.Fatalf("never heard of %q", v)
		}
	}
	rev, err := d.Put(ctx, DocPlan, []byte("v1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := NewDocs(far).Watch(ctx, DocPlan, func(v []byte, rev uint64) { seen <- version{string(v), rev} }); err != nil {
		t.Fatal(err)
	}
	expect("v1", rev)
	if rev, err = d.Put(ctx, DocPlan, []byte("v2"), rev); err != nil {
		t.Fatal(err)
	}
	expect("v2", rev)
	if _, err := d.Put(ctx, DocPlan, []byte("other"), 0); !errors.Is(err, sessions.ErrConflict) {
		t.Errorf("second create: %v, want ErrConflict", err)
	}
	f.set(false, false) // the watcher cannot come back before the change
	f.cut()
	if rev, err = d.Put(ctx, DocPlan, []byte("v3"), rev); err != nil {
		t.Fatal(err)
	}
	f.set(true, true)
	expect("v3", rev)
	if v, r, err := d.Get(ctx, DocPlan); err != nil || string(v) != "v3" || r != rev {
		t.Errorf("Get = %q, %d, %v", v, r, err)
	}
	if _, _, err := d.Get(ctx, DocRollout); !errors.Is(err, sessions.ErrNotFound) {
		t.Errorf("Get of nothing: %v, want ErrNotFound", err)
	}
}
