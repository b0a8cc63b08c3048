package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"sort"
	"strings"
	"sync"
	"time"
)

// A value is one byte that says its kind, then what the kind needs. Fields go by
// their JSON names, so a reader passes over what it does not know, and what is
// not there stays zero: releases understand each other as they would in JSON, at
// a quarter of its CPU. No kind is a byte that JSON begins with.
const (
	kindNull   = iota + 1
	kindFalse  // nothing follows
	kindTrue   // nothing follows
	kindUint   // varint
	kindInt    // varint, zigzag
	kindFloat  // 8 bytes, big endian
	kindString // length, bytes
	kindList   // count, values
	kindMap    // count, pairs of a string without its kind and a value
	kindTime   // seconds since 1970, zigzag; nanoseconds
	kindJSON   // as kindString: of types that marshal themselves
)

// A Boxed value is written as what Box returns.
type Boxed interface{ Box() (any, error) }

// An Unboxer is read into what NewBox returns, a pointer, and then told of it.
type Unboxer interface {
	NewBox() any
	Unbox(box any) error
}

var (
	errKind  = errors.New("wire: a value of another kind")
	errCut   = errors.New("wire: message is cut off")
	errDepth = errors.New("wire: nested too deep")
)

const maxDepth = 64

// codec writes and reads the values of one type.
type codec struct {
	put func(b []byte, v reflect.Value) ([]byte, error)
	get func(d *reader, kind byte, v reflect.Value) error
}

type field struct {
	name  string
	index []int
	omit  bool
	*codec
}

var codecs sync.Map // reflect.Type to *codec

func codecOf(t reflect.Type) *codec {
	if c, ok := codecs.Load(t); ok {
		return c.(*codec)
	}
	made := map[reflect.Type]*codec{}
	c := build(t, made)
	for t, c := range made {
		codecs.Store(t, c)
	}
	return c
}

var (
	timeType    = reflect.TypeFor[time.Time]()
	boxedType   = reflect.TypeFor[Boxed]()
	marshalType = reflect.TypeFor[json.Marshaler]()
)

// build makes the codec of a type; made has those under way, for types that
// contain themselves.
func build(t reflect.Type, made map[reflect.Type]*codec) *codec {
	if c := made[t]; c != nil {
		return c
	}
	c := &codec{}
	made[t] = c
	switch {
	case t == timeType:
		c.put, c.get = putTime, getTime
		return c
	case t.Implements(boxedType) && t.Kind() != reflect.Pointer:
		c.put, c.get = putBoxed, getBoxed
		return c
	case t.Implements(marshalType) && t.Kind() != reflect.Pointer:
		c.put, c.get = putJSON, getJSON
		return c
	}
	switch t.Kind() {
	case reflect.Bool:
		c.put, c.get = putBool, getBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		c.put = func(b []byte, v reflect.Value) ([]byte, error) {
			return binary.AppendVarint(append(b, kindInt), v.Int()), nil
		}
		c.get = getNumber
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		c.put = func(b []byte, v reflect.Value) ([]byte, error) {
			return binary.AppendUvarint(append(b, kindUint), v.Uint()), nil
		}
		c.get = getNumber
	case reflect.Float32, reflect.Float64:
		c.put = func(b []byte, v reflect.Value) ([]byte, error) {
			return binary.BigEndian.AppendUint64(append(b, kindFloat), math.Float64bits(v.Float())), nil
		}
		c.get = getNumber
	case reflect.String:
		c.put = func(b []byte, v reflect.Value) ([]byte, error) {
			return putString(append(b, kindString), v.String()), nil
		}
		c.get = getString
	case reflect.Pointer:
		pointer(c, t, build(t.Elem(), made))
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			c.put, c.get = putBytes, getBytes
			break
		}
		list(c, t, build(t.Elem(), made))
	case reflect.Map:
		if k := t.Key().Kind(); k == reflect.String || k >= reflect.Int && k <= reflect.Uint64 {
			mapping(c, t, build(t.Elem(), made))
			break
		}
		c.put, c.get = putJSON, getJSON
	case reflect.Struct:
		structure(c, fieldsOf(t, nil, made))
	case reflect.Interface: // as what is in it; it cannot be read back into one
		c.put, c.get = putInterface, getJSON
	default:
		c.put, c.get = putJSON, getJSON
	}
	return c
}

// fieldsOf lists the fields of a struct, those of embedded ones among them.
func fieldsOf(t reflect.Type, at []int, made map[reflect.Type]*codec) (all []field) {
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(append([]int{}, at...), i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct && !f.Type.Implements(boxedType):
			all = append(all, fieldsOf(f.Type, index, made)...)
		case !f.IsExported():
		default:
			if name == "" {
				name = f.Name
			}
			all = append(all, field{name, index, opts != "", build(f.Type, made)})
		}
	}
	return all
}

func structure(c *codec, fields []field) {
	byName := make(map[string]int, len(fields))
	for i, f := range fields {
		byName[f.name] = i
	}
	c.put = func(b []byte, v reflect.Value) ([]byte, error) {
		b = append(b, kindMap, 0, 0) // the count, as a varint of two bytes
		at, n := len(b)-2, 0
		for i := range fields {
			f := &fields[i]
			x := v.FieldByIndex(f.index)
			if x.IsZero() || f.omit && x.Kind() == reflect.Slice && x.Len() == 0 {
				continue // the reader's is zero too
			}
			var err error
			if b, err = f.put(putString(b, f.name), x); err != nil {
				return nil, fmt.Errorf("%s: %w", f.name, err)
			}
			n++
		}
		b[at], b[at+1] = byte(n)|0x80, byte(n>>7)
		return b, nil
	}
	c.get = func(d *reader, kind byte, v reflect.Value) error {
		return d.pairs(kind, func(i int, name []byte, kind byte) error {
			if i >= len(fields) || fields[i].name != string(name) {
				var ok bool
				if i, ok = byName[string(name)]; !ok {
					return d.skip(kind)
				}
			}
			if err := fields[i].get(d, kind, v.FieldByIndex(fields[i].index)); err != nil {
				return fmt.Errorf("%s: %w", fields[i].name, err)
			}
			return nil
		})
	}
}

func pointer(c *codec, t reflect.Type, elem *codec) {
	c.put = func(b []byte, v reflect.Value) ([]byte, error) {
		if v.IsNil() {
			return append(b, kindNull), nil
		}
		return elem.put(b, v.Elem())
	}
	c.get = func(d *reader, kind byte, v reflect.Value) error {
		if kind == kindNull {
			return nil
		}
		p := reflect.New(t.Elem())
		v.Set(p)
		return elem.get(d, kind, p.Elem())
	}
}

func list(c *codec, t reflect.Type, elem *codec) {
	c.put = func(b []byte, v reflect.Value) (_ []byte, err error) {
		b = binary.AppendUvarint(append(b, kindList), uint64(v.Len()))
		for i := range v.Len() {
			if b, err = elem.put(b, v.Index(i)); err != nil {
				return nil, err
			}
		}
		return b, nil
	}
	c.get = func(d *reader, kind byte, v reflect.Value) error {
		if kind == kindNull {
			return nil
		}
		if kind != kindList {
			return errKind
		}
		n, err := d.count()
		if err != nil {
			return err
		}
		// What a hostile count can ask for is bounded by the bytes that are there.
		s := reflect.MakeSlice(t, 0, min(n, 64))
		for range n {
			kind, err := d.kind()
			if err != nil {
				return err
			}
			s = reflect.Append(s, reflect.Zero(t.Elem()))
			if err := elem.get(d, kind, s.Index(s.Len()-1)); err != nil {
				return err
			}
		}
		v.Set(s)
		return nil
	}
}

func mapping(c *codec, t reflect.Type, elem *codec) {
	text := t.Key().Kind() == reflect.String
	c.put = func(b []byte, v reflect.Value) (_ []byte, err error) {
		b = binary.AppendUvarint(append(b, kindMap), uint64(v.Len()))
		keys := v.MapKeys()
		sort.Slice(keys, func(i, j int) bool { return fmt.Sprint(keys[i]) < fmt.Sprint(keys[j]) })
		for _, k := range keys {
			if b, err = elem.put(putString(b, fmt.Sprint(k)), v.MapIndex(k)); err != nil {
				return nil, err
			}
		}
		return b, nil
	}
	c.get = func(d *reader, kind byte, v reflect.Value) error {
		if kind == kindNull {
			return nil
		}
		m := reflect.MakeMap(t)
		err := d.pairs(kind, func(_ int, name []byte, kind byte) error {
			k := reflect.New(t.Key()).Elem()
			if text {
				k.SetString(string(name))
			} else if _, err := fmt.Sscan(string(name), k.Addr().Interface()); err != nil {
				return errKind
			}
			x := reflect.New(t.Elem()).Elem()
			if err := elem.get(d, kind, x); err != nil {
				return err
			}
			m.SetMapIndex(k, x)
			return nil
		})
		v.Set(m)
		return err
	}
}
