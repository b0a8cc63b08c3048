package codecore

import (
	"runtime"
	"testing"
)

func talking(t testing.TB) *world {
	w := newWorld(t)
	w.do("a INVITE sdp", "b 200 sdp", "accept", "a ACK", "applied")
	return w
}

func BenchmarkStep(b *testing.B) {
	w := talking(b)
	e := w.event("a INFO dtmf")
	b.ReportAllocs()
	for b.Loop() {
		Step(w.s, w.now, e)
	}
}

// BenchmarkStepOfNothing is what every Step costs.
func BenchmarkStepOfNothing(b *testing.B) {
	w := talking(b)
	e := w.event("accept")
	b.ReportAllocs()
	for b.Loop() {
		Step(w.s, w.now, e)
	}
}

func BenchmarkEncode(b *testing.B) {
	w := talking(b)
	b.ReportAllocs()
	for b.Loop() {
		_, raw, err := Encode(w.s, SchemaMin)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(raw)), "bytes")
	}
}

func BenchmarkEncodeAnswered(b *testing.B) {
	w := newWorld(b)
	w.do("a INVITE sdp", "b 200 sdp")
	b.ReportAllocs()
	for b.Loop() {
		_, raw, err := Encode(w.s, SchemaMin)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(raw)), "bytes")
	}
}

func BenchmarkDecode(b *testing.B) {
	w := talking(b)
	schema, raw, _ := Encode(w.s, SchemaMin)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(schema, raw); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPrepare is what a move does to one call: read, check, write.
func BenchmarkPrepare(b *testing.B) {
	w := talking(b)
	schema, raw, _ := Encode(w.s, SchemaMin)
	b.ReportAllocs()
	for b.Loop() {
		s, err := Decode(schema, raw)
		if err != nil {
			b.Fatal(err)
		}
		if err := Check(s); err != nil {
			b.Fatal(err)
		}
		if _, _, err := Encode(s, SchemaMin); err != nil {
			b.Fatal(err)
		}
	}
}

// TestHeldCallIsSmallInMemory: a worker holds each call's State as Decode made it.
func TestHeldCallIsSmallInMemory(t *testing.T) {
	w := talking(t)
	schema, raw, err := Encode(w.s, SchemaMin)
	if err != nil {
		t.Fatal(err)
	}
	const calls = 10_000
	held := make([]State, calls)
	before := heap()
	for i := range held {
		if held[i], err = Decode(schema, raw); err != nil {
			t.Fatal(err)
		}
	}
	each := (heap() - before) / calls
	t.Logf("%d bytes behind the State of a talking call", each)
	if each > 5000 {
		t.Errorf("%d bytes", each)
	}
	runtime.KeepAlive(held)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
