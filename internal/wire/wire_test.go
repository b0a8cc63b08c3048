package wire_test

import (
	"errors"
	"testing"

	"callswitch/internal/wire"
)

type note struct {
	Text string `json:"text"`
}

func TestSealOpen(t *testing.T) {
	data, err := wire.Seal(note{"hello"})
	if err != nil {
		t.Fatal(err)
	}
	var got note
	if err := wire.Open(data, &got); err != nil || got.Text != "hello" {
		t.Fatalf("got %+v, %v", got, err)
	}
}

// Of two releases the one that cannot read the other must say so before it
// decodes anything.
func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"nothing":                   {nil, wire.ErrShort},
		"half an envelope":          {[]byte{1}, wire.ErrShort},
		"wants a newer reader":      {[]byte{wire.Proto + 3, wire.Proto + 1, 0xa0}, wire.ErrProto},
		"older than what is read":   {[]byte{wire.MinProto - 1, 1, 0xa0}, wire.ErrProto},
		"newer, and readable by us": {[]byte{wire.Proto + 3, wire.Proto, 0xa0}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var v note
			if err := wire.Open(c.data, &v); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	var v note
	if err := wire.Open([]byte{wire.Proto, wire.MinReader, 0xa1}, &v); err == nil {
		t.Error("half a body was read")
	}
}
