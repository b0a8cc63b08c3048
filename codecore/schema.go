package codecore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// A Migration turns states of the previous schema into this one, and back. It
// works on the raw fields, so it stays true when State changes later.
type Migration struct {
	Name string
	Up   func(Fields) error // ErrRefused: this call is not for the new release
	Down func(Fields) error // ErrPinned: this call uses what the old schema cannot say
}

// Fields is a state as stored, by field.
type Fields map[string]json.RawMessage

// Schema is the newest schema this release reads and writes; SchemaMin the
// oldest (R6: at least N-1, as soon as there is one).
var Schema = 1 + len(migrations)

// SchemaMin is the oldest schema this release reads.
const SchemaMin = 1

// Errors of Encode, Decode and Check.
var (
	ErrPinned  = errors.New("codecore: the call uses what an older schema cannot say")
	ErrRefused = errors.New("codecore: the migration refuses this call")
	ErrSchema  = errors.New("codecore: schema out of reach")
	ErrBroken  = errors.New("codecore: state breaks an invariant")
)

// IsPinned and IsRefused tell the reasons apart for the one who moves calls.
func IsPinned(err error) bool { return errors.Is(err, ErrPinned) }

// IsRefused reports whether a migration said no.
func IsRefused(err error) bool { return errors.Is(err, ErrRefused) }

// body is a record's body: the stub for every release there will ever be, the
// state in its schema. What the stub says (token, seed, CDR, numbers of peers)
// is not said again in the state.
type body struct {
	Stub  Stub            `json:"stub"`
	State json.RawMessage `json:"state"`
}

// Encode writes a state in the lowest schema that can say it and is not under
// the floor (R6).
func Encode(s State, floor int) (schema int, raw []byte, err error) {
	stub, err := marshal(StubOf(s))
	if err != nil {
		return 0, nil, fmt.Errorf("codecore: encode: %w", err)
	}
	s.Token, s.Seed, s.CDR, s.Peers = "", 0, CDR{}, nil // the stub has them
	state, err := marshal(s)
	if err != nil {
		return 0, nil, fmt.Errorf("codecore: encode: %w", err)
	}
	schema = Schema
	if floor < Schema {
		if schema, state, err = lower(state, max(floor, SchemaMin)); err != nil {
			return 0, nil, err
		}
	}
	// {"stub":…,"state":…} put together by hand: json.Marshal would read the
	// state, written a moment ago, once more.
	raw = make([]byte, 0, len(stub)+len(state)+len(`{"stub":,"state":}`))
	raw = append(append(raw, `{"stub":`...), stub...)
	raw = append(append(append(raw, `,"state":`...), state...), '}')
	return schema, raw, nil
}

// marshal is json.Marshal that leaves <, > and & as they are: SIP is full of them.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// lower takes a state of this release's schema down as far as it goes.
func lower(state []byte, floor int) (int, []byte, error) {
	schema := Schema
	for schema > floor {
		f, err := fields(state)
		if err != nil {
			return 0, nil, err
		}
		m := migrations[schema-2]
		if err := m.Down(f); errors.Is(err, ErrPinned) {
			break
		} else if err != nil {
			return 0, nil, fmt.Errorf("codecore: %s down: %w", m.Name, err)
		}
		if state, err = marshal(f); err != nil {
			return 0, nil, err
		}
		schema--
	}
	return schema, state, nil
}

func fields(state []byte) (Fields, error) {
	var f Fields
	if err := json.Unmarshal(state, &f); err != nil {
		return nil, fmt.Errorf("codecore: decode: %w", err)
	}
	return f, nil
}

// Decode reads a record's body of any schema from SchemaMin to Schema.
func Decode(schema int, raw []byte) (State, error) {
	var s State
	if schema < SchemaMin || schema > Schema {
		return s, fmt.Errorf("%w: record has %d, this release reads %d to %d", ErrSchema, schema, SchemaMin, Schema)
	}
	var b body
	if err := json.Unmarshal(raw, &b); err != nil {
		return s, fmt.Errorf("codecore: decode: %w", err)
	}
	if schema < Schema {
		f, err := fields(b.State)
		if err != nil {
			return s, err
		}
		if f == nil {
			return s, fmt.Errorf("%w: no state", ErrBroken)
		}
		if f["cdr"], err = marshal(b.Stub.CDR); err != nil { // a migration may ask who calls whom
			return s, err
		}
		for _, m := range migrations[schema-1:] {
			if err := m.Up(f); err != nil {
				return s, fmt.Errorf("codecore: %s up: %w", m.Name, err)
			}
		}
		if b.State, err = marshal(f); err != nil {
			return s, err
		}
	}
	if err := json.Unmarshal(b.State, &s); err != nil {
		return s, fmt.Errorf("codecore: decode: %w", err)
	}
	s.Token, s.Seed, s.CDR, s.Peers = b.Stub.Token, b.Stub.Seed, b.Stub.CDR, b.Stub.Peers
	return s, nil
}

// Check reports a state that no Step of ours could have left.
func Check(s State) error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrBroken}, a...)...)
	}
	switch s.Phase {
	case PhaseInviting, PhaseAnswered, PhaseTalking, PhaseEnded:
	default:
		return bad("phase %q", s.Phase)
	}
	if s.Token == "" {
		return bad("no token")
	}
	if s.Phase != PhaseEnded && (s.A.CallID == "" || s.B.CallID == "") {
		return bad("%s without two legs", s.Phase)
	}
	last := map[string]uint64{}
	for _, a := range s.Pending {
		if a.To == "" || a.Seq <= last[a.To] || a.Seq > s.Peers[a.To].Minted {
			return bad("pending action %d for %q is out of order", a.Seq, a.To)
		}
		last[a.To] = a.Seq
		if a.Request == nil && a.Response == nil && a.CDR == nil {
			return bad("pending action %d for %q does nothing", a.Seq, a.To)
		}
	}
	return nil
}

// Pinned says whether a call cannot go under a schema, and why.
func Pinned(s State, floor int) (bool, string) {
	if floor >= Schema {
		return false, ""
	}
	why := pinnedBy(s)
	return why != "", why
}
