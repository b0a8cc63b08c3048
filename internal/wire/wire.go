// Package wire is the envelope of every message between processes: two bytes of
// protocol version before a CBOR body (RFC 8949), so that two releases know
// whether they can speak before either decodes. NATS carries it everywhere, a unix
// stream between the processes of one host (internal/near). Fields go by their
// JSON names, so a reader passes over what it does not know and what is not there
// stays zero. It carries values; it knows no subject and no telephone word.
package wire

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
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

var (
	enc = must(cbor.EncOptions{Time: cbor.TimeRFC3339NanoUTC}.EncMode())
	// Limits stand before parsing: a message is at most as large as the bus
	// allows, and nothing of ours is nested deeper.
	dec = must(cbor.DecOptions{MaxNestedLevels: 32, MaxArrayElements: 1 << 20, MaxMapPairs: 1 << 16}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options above are constants
	}
	return v
}

// Seal wraps a value.
func Seal(v any) ([]byte, error) {
	body, err := enc.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	return append([]byte{Proto, MinReader}, body...), nil
}

// Open unwraps into v, a pointer, and refuses what is too new or too old to be read.
func Open(data []byte, v any) error {
	if len(data) < 2 {
		return ErrShort
	}
	if proto, minReader := int(data[0]), int(data[1]); minReader > Proto || proto < MinProto {
		return fmt.Errorf("%w: message of protocol %d wants a reader of %d, this one reads %d to %d", ErrProto, proto, minReader, MinProto, Proto)
	}
	if err := dec.Unmarshal(data[2:], v); err != nil {
		return fmt.Errorf("wire: %w", err)
	}
	return nil
}
