package wire_test

import (
	"testing"
	"time"

	"callswitch/internal/wire"
)

type header struct {
	Name  string `json:"n"`
	Value string `json:"v"`
}
type message struct {
	Method  string    `json:"method,omitempty"`
	At      time.Time `json:"at"`
	Headers []header  `json:"headers,omitempty"`
	Body    []byte    `json:"body,omitempty"`
}

// A message of the size of an INVITE, there and back.
func BenchmarkSealOpen(b *testing.B) {
	m := message{Method: "INVITE", At: time.Now(), Body: make([]byte, 300)}
	for range 14 {
		m.Headers = append(m.Headers, header{"Via", "SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK776asdhds;rport=5060"})
	}
	b.ReportAllocs()
	for b.Loop() {
		data, err := wire.Seal(m)
		if err != nil {
			b.Fatal(err)
		}
		var back message
		if err := wire.Open(data, &back); err != nil {
			b.Fatal(err)
		}
	}
}
