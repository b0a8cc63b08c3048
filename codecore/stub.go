package codecore

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// Stub is the part of a record whose form never changes: what is needed to end
// the call decently, whatever the state says (R7). Stored for ever: add nothing,
// rename nothing.
type Stub struct {
	Token string          `json:"token"`
	Seed  uint64          `json:"seed"`
	Ended bool            `json:"ended,omitempty"`
	Legs  []StubLeg       `json:"legs,omitempty"`
	Node  string          `json:"node,omitempty"` // of the media
	CDR   CDR             `json:"cdr"`
	Until time.Time       `json:"until,omitzero"` // longest it may go on
	Peers map[string]Peer `json:"peers,omitempty"`
}

// StubLeg is a leg's confirmed dialog.
type StubLeg struct {
	Leg        LegID    `json:"leg"`
	Edge       string   `json:"edge"`
	Flow       string   `json:"flow,omitempty"`
	CallID     string   `json:"call_id"`
	Local      string   `json:"local"`
	Remote     string   `json:"remote"`
	Tag        string   `json:"tag"`
	RemoteTag  string   `json:"remote_tag"`
	CSeq       uint32   `json:"cseq"`
	RemoteCSeq uint32   `json:"remote_cseq,omitempty"`
	Target     string   `json:"target"`
	Routes     []string `json:"routes,omitempty"`
}

// dialog is the leg's dialog as the state has it.
func (x *StubLeg) dialog() Dialog {
	return Dialog{Tag: x.RemoteTag, Target: x.Target, Routes: x.Routes, CSeq: x.RemoteCSeq, Confirmed: true}
}

// leg is what the stub says of a leg, or nil.
func (t *Stub) leg(id LegID) *StubLeg {
	for i := range t.Legs {
		if t.Legs[i].Leg == id {
			return &t.Legs[i]
		}
	}
	return nil
}

// StubOf makes the stub of a state.
func StubOf(s State) Stub {
	t := Stub{Token: s.Token, Seed: s.Seed, Ended: s.Phase == PhaseEnded, Node: s.Media.Node, CDR: s.CDR, Peers: s.Peers}
	for _, d := range s.Timers {
		if d.Timer == TimerMaxCall {
			t.Until = d.At
		}
	}
	for _, id := range []LegID{LegA, LegB} {
		l := s.leg(id)
		if d := l.live(); d != nil {
			t.Legs = append(t.Legs, StubLeg{
				Leg: id, Edge: l.Edge, Flow: l.Flow, CallID: l.CallID, Local: l.Local, Remote: l.Remote, Tag: l.Tag,
				RemoteTag: d.Tag, CSeq: l.CSeq, RemoteCSeq: d.CSeq, Target: d.Target, Routes: d.Routes,
			})
		}
	}
	return t
}

// DecodeStub reads the stub of a record's body, of any schema.
func DecodeStub(raw []byte) (Stub, error) {
	var b struct {
		Stub Stub `json:"stub"`
	}
	if err := json.Unmarshal(raw, &b, form); err != nil {
		return b.Stub, fmt.Errorf("codecore: stub: %w", err)
	}
	if b.Stub.Token == "" {
		return b.Stub, fmt.Errorf("%w: stub without a token", ErrBroken)
	}
	return b.Stub, nil
}

// cancelAnything ends whoever is still called: the stub does not say who, but the
// edges know what they have sent.
func (c *call) cancelAnything() {
	for _, name := range slices.Sorted(maps.Keys(c.Peers)) {
		if strings.HasPrefix(name, edgeOf("")) {
			c.do(name, Effect{Request: &SendRequest{Msg: Message{Method: "CANCEL"}}})
		}
	}
}

// Caretaken is the state in which a call that was set aside goes on: two
// dialogs and nothing else of what it was, so that a BYE ends it, its CDR is
// written and its media is freed; an answered call keeps its sound till then.
func Caretaken(t Stub, now time.Time) State {
	s := State{Phase: PhaseTalking, Token: t.Token, Seed: t.Seed, CDR: t.CDR, Peers: t.Peers}
	s.Media.Node = t.Node
	if !IsService(t.CDR.ToPeer) {
		s.Route.Peer = t.CDR.ToPeer // its trunk may ask the BYE for a password (digest.go)
	}
	for _, x := range t.Legs {
		l := Leg{
			Edge: x.Edge, Flow: x.Flow, CallID: x.CallID, Local: x.Local, Remote: x.Remote, Tag: x.Tag, CSeq: x.CSeq,
			Dialogs: []Dialog{x.dialog()},
		}
		if x.Leg == LegA {
			s.A = l
		} else {
			s.B = l
		}
	}
	if len(t.Legs) == 2 && !t.Until.IsZero() && !t.Ended {
		s.Timers = []Deadline{{TimerMaxCall, t.Until}}
		return s
	}
	// Nobody talks: end it at once.
	c := call{State: s, now: now}
	if !t.Ended {
		c.CDR.Cause = "set-aside"
		c.cancelAnything()
	}
	c.endLegs()
	if t.Ended { // its CDR was decided
		c.become(PhaseEnded)
		c.do(receiverCDR, Effect{CDR: &t.CDR})
		return c.State
	}
	c.finish("set-aside", 500, "switch", now)
	return c.State
}
