// Package wire is the envelope of every message between processes: two bytes of
// protocol version before a JSON body, so that two releases know whether they
// can speak before either decodes. It carries values; it knows no subject and
// no telephone word.
package wire

import (
	"encoding/json"
	"errors"
	"fmt"
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
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	return append([]byte{Proto, MinReader}, body...), nil
}

// Open unwraps a value, and refuses what is too new or too old to be read.
func Open(data []byte, v any) error {
	if len(data) < 2 {
		return ErrShort
	}
	if proto, minReader := int(data[0]), int(data[1]); minReader > Proto || proto < MinProto {
		return fmt.Errorf("%w: message of protocol %d wants a reader of %d, this one reads %d to %d", ErrProto, proto, minReader, MinProto, Proto)
	}
	if err := json.Unmarshal(data[2:], v); err != nil {
		return fmt.Errorf("wire: %w", err)
	}
	return nil
}
