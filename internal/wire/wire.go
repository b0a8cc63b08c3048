// Package wire is the envelope of every message between processes: two bytes of
// protocol version before a body in a compact binary form (value.go; JSON is read
// too), so that two releases know whether they can speak before either decodes.
// It carries values; it knows no subject and no telephone word.
package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// Proto is the protocol this build writes; MinReader the oldest protocol whose
// readers understand what it writes. MinProto is the oldest it reads.
const (
	Proto     = 1
	MinReader = 1
	MinProto  = 1
)

// Errors of Open.
var (
	ErrShort = errors.New("wire: message too short for an envelope")
	ErrProto = errors.New("wire: no common protocol")
)

// Seal wraps a value.
func Seal(v any) ([]byte, error) {
	x := reflect.ValueOf(v)
	if !x.IsValid() {
		return []byte{Proto, MinReader, kindNull}, nil
	}
	b, err := codecOf(x.Type()).put(append(make([]byte, 0, 512), Proto, MinReader), x)
	if err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	return b, nil
}

// Open unwraps into v, a pointer, and refuses what is too new or too old to be read.
func Open(data []byte, v any) error {
	if len(data) < 2 {
		return ErrShort
	}
	if proto, minReader := int(data[0]), int(data[1]); minReader > Proto || proto < MinProto {
		return fmt.Errorf("%w: message of protocol %d wants a reader of %d, this one reads %d to %d", ErrProto, proto, minReader, MinProto, Proto)
	}
	x := reflect.ValueOf(v)
	if len(data) == 2 || data[2] > kindJSON || x.Kind() != reflect.Pointer || x.IsNil() {
		if err := json.Unmarshal(data[2:], v); err != nil {
			return fmt.Errorf("wire: %w", err)
		}
		return nil
	}
	d := reader{b: data[3:]}
	if err := codecOf(x.Type().Elem()).get(&d, data[2], x.Elem()); err != nil {
		return fmt.Errorf("wire: %w", err)
	}
	if len(d.b) != 0 {
		return fmt.Errorf("wire: %d bytes too many", len(d.b))
	}
	return nil
}
