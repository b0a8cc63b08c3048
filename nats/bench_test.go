package nats

import (
	"context"
	"testing"

	"callswitch/sessions"
)

func bigRec(n int) sessions.Record {
	r := rec(n, 0)
	r.Body = make([]byte, 2500)
	return r
}

func BenchmarkPut(b *testing.B) {
	s := NewStore(single(b), StoreConfig{})
	r := bigRec(1)
	b.ReportAllocs()
	for b.Loop() {
		rev, err := s.Put(context.Background(), r)
		if err != nil {
			b.Fatal(err)
		}
		r.Rev = rev
	}
}

func BenchmarkPutAll1000(b *testing.B) {
	for name, open := range map[string]func(testing.TB) *Conn{"one": single, "three": three} {
		b.Run(name, func(b *testing.B) {
			s := NewStore(open(b), StoreConfig{})
			var rs []sessions.Record
			for i := range 1000 {
				rs = append(rs, bigRec(i))
			}
			for b.Loop() {
				putAll(b, s, rs)
			}
		})
	}
}

func BenchmarkScanHeaders10k(b *testing.B) {
	s := NewStore(single(b), StoreConfig{})
	var rs []sessions.Record
	for i := range 10_000 {
		rs = append(rs, bigRec(i))
	}
	putAll(b, s, rs)
	for b.Loop() {
		n := 0
		if err := s.Scan(context.Background(), true, func(sessions.Record) error { n++; return nil }); err != nil || n != len(rs) {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	url, _ := serve(b, b.TempDir(), nil)
	c, far := connect(b, url), connect(b, url)
	box := far.Mailbox(func(m sessions.Msg) { _ = far.Publish(m.Reply, m.Data) })
	defer func() { _ = box.Close() }()
	if _, err := box.Add("call.1.in"); err != nil {
		b.Fatal(err)
	}
	if err := far.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 500)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Request(context.Background(), "call.1.in", data); err != nil {
			b.Fatal(err)
		}
	}
}
