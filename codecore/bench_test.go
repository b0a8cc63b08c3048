package codecore

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"unsafe"
)

func talking(t testing.TB) *world {
	w := newWorld(t)
	w.do("a INVITE sdp", "b 200 sdp", "accept", "a ACK", "applied", "wait 8s")
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
	if raced {
		t.Skip("the race detector's own words would count")
	}
	w := talking(t)
	schema, raw, err := Encode(w.s, SchemaMin)
	if err != nil {
		t.Fatal(err)
	}
	const calls = 10_000
	records := make([][]byte, calls)
	for i := range records { // ids and ports are each call's own
		records[i] = []byte(strings.NewReplacer(
			testToken[:24], fmt.Sprintf("%024x", i),
			w.s.B.CallID, fmt.Sprintf("%032x", i), `"call-a"`, fmt.Sprintf(`"call-%026d"`, i),
			`"ta"`, fmt.Sprintf(`"ta%08d"`, i), `"tb"`, fmt.Sprintf(`"tb%08d"`, i),
			":40000", fmt.Sprintf(":%d", 10_000+i), w.s.A.Told, fmt.Sprintf("a%015x", i), w.s.B.Told, fmt.Sprintf("b%015x", i),
		).Replace(string(raw)))
	}
	held := make([]State, calls)
	before := heap()
	for i := range held {
		if held[i], err = Decode(schema, records[i]); err != nil {
			t.Fatal(err)
		}
	}
	each := int(heap()-before)/calls + int(unsafe.Sizeof(State{}))
	t.Logf("a talking call: %d bytes, %d of them the State itself", each, unsafe.Sizeof(State{}))
	if each > 3000 {
		t.Errorf("%d bytes", each)
	}
	runtime.KeepAlive(held)
	runtime.KeepAlive(records)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
