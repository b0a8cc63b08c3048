package codecore

import (
	"maps"
	"slices"
)

// Generation orders desired states of the media plane: epoch, then n.
type Generation struct {
	Epoch uint64 `json:"epoch"`
	N     uint64 `json:"n"`
}

// Newer reports whether g comes after h.
func (g Generation) Newer(h Generation) bool {
	return g.Epoch > h.Epoch || g.Epoch == h.Epoch && g.N > h.N
}

// LegID names a party's side of a call: "a" called us, "b" was called.
type LegID string

// The two legs of a plain call. Stored: never rename.
const (
	LegA LegID = "a"
	LegB LegID = "b"
)

// MediaEndpoint is where the switch receives a leg's sound.
type MediaEndpoint struct {
	Leg  LegID  `json:"leg"`
	Addr string `json:"addr"` // IP for c=, already the advertised one
	Port int    `json:"port"` // RTP; RTCP is Port+1 unless muxed
}

// MediaLeg is what one leg should be doing: a level, not an edge.
type MediaLeg struct {
	Leg      LegID  `json:"leg"`
	Port     int    `json:"port"`               // local RTP port, as allocated
	Remote   string `json:"remote,omitempty"`   // "ip:port" of the last SDP; "" = not known yet
	RTCP     string `json:"rtcp,omitempty"`     // "ip:port"; "" = Remote's port + 1
	Mux      bool   `json:"mux,omitempty"`      // RTP and RTCP on one port (RFC 5761)
	Learn    int    `json:"learn,omitempty"`    // grows with each answer: the address may be learned anew
	Payloads []byte `json:"payloads,omitempty"` // accepted payload types
	DTMF     byte   `json:"dtmf,omitempty"`     // payload type of telephone-event, 0 = none
	Send     bool   `json:"send"`               // the switch sends to this leg
	Recv     bool   `json:"recv"`               // the switch takes sound from this leg
	// Opaque: no RTP; datagrams are passed on as they are (T.38 over UDPTL).
	Opaque bool `json:"opaque,omitempty"`
	// Echo and Tone: the media plane itself is the far end, with what the leg says
	// or with a tone. Such a leg is alone in its call. A tone is coded as Payloads[0],
	// which is 0 (G.711 mu-law) or 8 (A-law).
	Echo bool `json:"echo,omitempty"`
	Tone bool `json:"tone,omitempty"`
	// Map rewrites payload types of packets sent to this leg (other leg's -> this leg's).
	Map map[byte]byte `json:"map,omitempty"`
	// Secure is how its packets are protected; nil: plain RTP.
	Secure *Secure `json:"secure,omitempty"`
}

func (m MediaLeg) same(o MediaLeg) bool {
	return m.Leg == o.Leg && m.Port == o.Port && m.Remote == o.Remote && m.RTCP == o.RTCP && m.Mux == o.Mux &&
		m.Learn == o.Learn && m.DTMF == o.DTMF && m.Send == o.Send && m.Opaque == o.Opaque && m.Recv == o.Recv &&
		slices.Equal(m.Payloads, o.Payloads) && maps.Equal(m.Map, o.Map) && m.Secure.same(o.Secure) &&
		m.Echo == o.Echo && m.Tone == o.Tone
}

// Same reports whether m desires what o does.
func (m Media) Same(o Media) bool {
	return m.Node == o.Node && slices.EqualFunc(m.Legs, o.Legs, MediaLeg.same)
}

// Media is the desired state of all media of a call. No legs: free everything.
type Media struct {
	Node string     `json:"node"`
	Legs []MediaLeg `json:"legs,omitempty"` // two legs are bridged to each other
}
