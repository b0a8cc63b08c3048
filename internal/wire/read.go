package wire

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"reflect"
	"time"
)

// reader goes through a message; what it returns of it is not copied.
type reader struct {
	b     []byte
	depth int
}

func (d *reader) kind() (byte, error) {
	if len(d.b) == 0 {
		return 0, errCut
	}
	k := d.b[0]
	d.b = d.b[1:]
	return k, nil
}

func (d *reader) uint() (uint64, error) {
	n, size := binary.Uvarint(d.b)
	if size <= 0 {
		return 0, errCut
	}
	d.b = d.b[size:]
	return n, nil
}

func (d *reader) int() (int64, error) {
	n, size := binary.Varint(d.b)
	if size <= 0 {
		return 0, errCut
	}
	d.b = d.b[size:]
	return n, nil
}

// count reads how many things follow: each takes at least a byte.
func (d *reader) count() (int, error) {
	n, err := d.uint()
	if err != nil || n > uint64(len(d.b)) {
		return 0, errCut
	}
	return int(n), nil
}

func (d *reader) text() ([]byte, error) {
	n, err := d.count()
	if err != nil {
		return nil, err
	}
	s := d.b[:n:n]
	d.b = d.b[n:]
	return s, nil
}

// pairs calls fn for each pair of a map, with its place, name and kind.
func (d *reader) pairs(kind byte, fn func(i int, name []byte, kind byte) error) error {
	if kind == kindNull {
		return nil
	}
	if kind != kindMap {
		return errKind
	}
	if d.depth++; d.depth > maxDepth {
		return errDepth
	}
	defer func() { d.depth-- }()
	n, err := d.count()
	if err != nil {
		return err
	}
	for i := range n {
		name, err := d.text()
		if err != nil {
			return err
		}
		kind, err := d.kind()
		if err != nil {
			return err
		}
		if err := fn(i, name, kind); err != nil {
			return err
		}
	}
	return nil
}

// skip passes over a value of a kind.
func (d *reader) skip(kind byte) (err error) {
	switch kind {
	case kindNull, kindFalse, kindTrue:
	case kindUint, kindInt:
		_, err = d.uint()
	case kindFloat:
		_, err = d.bits()
	case kindString, kindJSON:
		_, err = d.text()
	case kindTime:
		if _, err = d.int(); err == nil {
			_, err = d.uint()
		}
	case kindMap:
		return d.pairs(kind, func(_ int, _ []byte, kind byte) error { return d.skip(kind) })
	case kindList:
		if d.depth++; d.depth > maxDepth {
			return errDepth
		}
		defer func() { d.depth-- }()
		n, err := d.count()
		for i := 0; i < n && err == nil; i++ {
			if kind, err = d.kind(); err == nil {
				err = d.skip(kind)
			}
		}
		return err
	default:
		return errKind
	}
	return err
}

func (d *reader) bits() (uint64, error) {
	if len(d.b) < 8 {
		return 0, errCut
	}
	n := binary.BigEndian.Uint64(d.b)
	d.b = d.b[8:]
	return n, nil
}

func putString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func getString(d *reader, kind byte, v reflect.Value) error {
	if kind != kindString {
		return errKind
	}
	s, err := d.text()
	v.SetString(string(s))
	return err
}

func putBytes(b []byte, v reflect.Value) ([]byte, error) {
	s := v.Bytes()
	return append(binary.AppendUvarint(append(b, kindString), uint64(len(s))), s...), nil
}

func getBytes(d *reader, kind byte, v reflect.Value) error {
	if kind == kindNull {
		return nil
	}
	if kind != kindString {
		return errKind
	}
	s, err := d.text()
	v.SetBytes(append([]byte{}, s...))
	return err
}

func putBool(b []byte, v reflect.Value) ([]byte, error) {
	if v.Bool() {
		return append(b, kindTrue), nil
	}
	return append(b, kindFalse), nil
}

func getBool(_ *reader, kind byte, v reflect.Value) error {
	if kind != kindTrue && kind != kindFalse {
		return errKind
	}
	v.SetBool(kind == kindTrue)
	return nil
}

// getNumber reads a number of any kind into one that can hold it.
func getNumber(d *reader, kind byte, v reflect.Value) error {
	switch kind {
	case kindUint:
		n, err := d.uint()
		switch {
		case err != nil:
			return err
		case v.CanUint() && !v.OverflowUint(n):
			v.SetUint(n)
			return nil
		case v.CanInt() && n <= math.MaxInt64 && !v.OverflowInt(int64(n)):
			v.SetInt(int64(n))
			return nil
		}
	case kindInt:
		n, err := d.int()
		switch {
		case err != nil:
			return err
		case v.CanInt() && !v.OverflowInt(n):
			v.SetInt(n)
			return nil
		case v.CanUint() && n >= 0 && !v.OverflowUint(uint64(n)):
			v.SetUint(uint64(n))
			return nil
		}
	case kindFloat:
		n, err := d.bits()
		if err != nil {
			return err
		}
		if v.CanFloat() {
			v.SetFloat(math.Float64frombits(n))
			return nil
		}
	}
	return errKind
}

func putTime(b []byte, v reflect.Value) ([]byte, error) {
	t := v.Interface().(time.Time)
	b = binary.AppendVarint(append(b, kindTime), t.Unix())
	return binary.AppendUvarint(b, uint64(t.Nanosecond())), nil
}

func getTime(d *reader, kind byte, v reflect.Value) error {
	if kind != kindTime {
		return errKind
	}
	sec, err := d.int()
	if err != nil {
		return err
	}
	nsec, err := d.uint()
	if err != nil || nsec >= 1e9 {
		return errCut
	}
	*v.Addr().Interface().(*time.Time) = time.Unix(sec, int64(nsec)).UTC()
	return nil
}

func putBoxed(b []byte, v reflect.Value) ([]byte, error) {
	box, err := v.Interface().(Boxed).Box()
	if err != nil {
		return nil, err
	}
	x := reflect.ValueOf(box)
	return codecOf(x.Type()).put(b, x)
}

func getBoxed(d *reader, kind byte, v reflect.Value) error {
	u, ok := v.Addr().Interface().(Unboxer)
	if !ok {
		return errKind
	}
	box := u.NewBox()
	x := reflect.ValueOf(box).Elem()
	if err := codecOf(x.Type()).get(d, kind, x); err != nil {
		return err
	}
	return u.Unbox(box)
}

func putJSON(b []byte, v reflect.Value) ([]byte, error) {
	raw, err := json.Marshal(v.Interface())
	return append(binary.AppendUvarint(append(b, kindJSON), uint64(len(raw))), raw...), err
}

func getJSON(d *reader, kind byte, v reflect.Value) error {
	if kind == kindNull {
		return nil
	}
	if kind != kindJSON {
		return errKind
	}
	raw, err := d.text()
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, v.Addr().Interface())
}

func putInterface(b []byte, v reflect.Value) ([]byte, error) {
	if v.IsNil() {
		return append(b, kindNull), nil
	}
	return codecOf(v.Elem().Type()).put(b, v.Elem())
}
