package wire_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"callswitch/internal/wire"
)

type inner struct {
	Name  string            `json:"n,omitempty"`
	Flags map[string]bool   `json:"flags,omitempty"`
	Types map[byte]byte     `json:"types,omitempty"`
	More  map[string][]int8 `json:"more"`
}

type base struct {
	Low int8 `json:"low"`
}

type all struct {
	base
	Yes   bool
	Big   uint64        `json:"big"`
	Neg   int64         `json:"neg,omitempty"`
	Wait  time.Duration `json:"wait"`
	Share float64       `json:"share"`
	Raw   []byte        `json:"raw,omitempty"`
	At    time.Time     `json:"at"`
	One   *inner        `json:"one,omitempty"`
	Many  []inner       `json:"many,omitempty"`
	Any   shape         `json:"any"`
}

// shape travels in a box, as events do.
type shape struct{ side any }

type shapeBox struct {
	Square *int `json:"square,omitempty"`
}

func (s shape) Box() (any, error) {
	n, ok := s.side.(int)
	if !ok {
		return nil, errors.New("no shape")
	}
	return &shapeBox{&n}, nil
}
func (*shape) NewBox() any { return new(shapeBox) }
func (s *shape) Unbox(box any) error {
	if n := box.(*shapeBox).Square; n != nil {
		s.side = *n
	}
	return nil
}

func full() all {
	return all{
		base: base{-7}, Yes: true, Big: 1<<64 - 1, Neg: -1 << 62, Wait: time.Minute, Share: 0.5, Raw: []byte{0, 255},
		At:   time.Date(2026, 11, 21, 12, 0, 0, 1, time.UTC),
		One:  &inner{Name: "x", Flags: map[string]bool{"a": true, "b": false}, Types: map[byte]byte{96: 8}},
		Many: []inner{{}, {More: map[string][]int8{"k": {1, -1}}}},
		Any:  shape{4},
	}
}

func TestEveryKindGoesThrough(t *testing.T) {
	want := full()
	data, err := wire.Seal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got all
	if err := wire.Open(data, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v", got, err)
	}
	for _, v := range []any{true, "text", 7, []string{"a", ""}, all{Any: shape{1}}} {
		data, err := wire.Seal(v)
		if err != nil {
			t.Fatal(err)
		}
		got := reflect.New(reflect.TypeOf(v))
		if err := wire.Open(data, got.Interface()); err != nil || !reflect.DeepEqual(got.Elem().Interface(), v) {
			t.Errorf("%#v came as %#v, %v", v, got.Elem(), err)
		}
	}
}

// A field that the reader does not know is passed over, one that the writer does
// not know stays zero: so two releases understand each other.
func TestFieldsComeAndGo(t *testing.T) {
	type older struct {
		Big  uint64 `json:"big"`
		Gone string `json:"gone"`
		Low  int    `json:"low"`
	}
	data, err := wire.Seal(full())
	if err != nil {
		t.Fatal(err)
	}
	var got older
	if err := wire.Open(data, &got); err != nil || got != (older{Big: 1<<64 - 1, Low: -7}) {
		t.Fatalf("got %+v, %v", got, err)
	}
	data, _ = json.Marshal(older{Big: 5})
	var from all
	if err := wire.Open(append([]byte{wire.Proto, wire.MinReader}, data...), &from); err != nil || from.Big != 5 {
		t.Fatalf("JSON gave %+v, %v", from, err)
	}
}

func TestCutAndWrongIsAnError(t *testing.T) {
	data, err := wire.Seal(full())
	if err != nil {
		t.Fatal(err)
	}
	for n := 3; n < len(data); n++ {
		var v all
		if err := wire.Open(data[:n], &v); err == nil {
			t.Fatalf("%d of %d bytes were read", n, len(data))
		}
	}
	var s struct {
		Big string `json:"big"`
	}
	if err := wire.Open(data, &s); err == nil || !strings.Contains(err.Error(), "big") {
		t.Errorf("a number as text: %v", err)
	}
	if err := wire.Open(append(data, 0), new(all)); err == nil {
		t.Error("a byte too many was read")
	}
	deep := []byte{wire.Proto, wire.MinReader, 9, 1, 1, 'x'}
	for range 1000 {
		deep = append(deep, 8, 1)
	}
	if err := wire.Open(append(deep, 1), new(all)); err == nil {
		t.Error("endless nesting was read")
	}
}

func FuzzOpen(f *testing.F) {
	data, _ := wire.Seal(full())
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		var v all
		if wire.Open(data, &v) == nil && v.Any.side != nil {
			if _, err := wire.Seal(v); err != nil {
				t.Fatalf("read, but not to be written again: %v", err)
			}
		}
	})
}

func BenchmarkSealOpen(b *testing.B) {
	v := full()
	b.ReportAllocs()
	for b.Loop() {
		data, _ := wire.Seal(v)
		var got all
		if wire.Open(data, &got) != nil {
			b.Fatal("not read")
		}
	}
}

func BenchmarkJSON(b *testing.B) {
	v := full()
	v.Any = shape{}
	b.ReportAllocs()
	for b.Loop() {
		data, _ := json.Marshal(v)
		var got all
		if json.Unmarshal(data, &got) != nil {
			b.Fatal("not read")
		}
	}
}
