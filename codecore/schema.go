package codecore

import (
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// A Migration turns states of the previous schema into this one, and back. It
// works on the raw fields, so it stays true when State changes later. Up also
// finds the record's stub in them, under "stub", to read only.
//
// A schema that only adds fields has Adds instead: nothing is rewritten, and a
// call of which Adds names nothing is a call of the schema before as it stands.
type Migration struct {
	Name string
	Up   func(Fields) error // ErrRefused: this call is not for the new release
	Down func(Fields) error // ErrPinned: this call uses what the old schema cannot say
	Adds func(*stored) string
}

// Fields is a state as stored, by field.
type Fields map[string]jsontext.Value

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

// form is how bodies are written and read: no field that is zero, maps in order,
// and a text that is no UTF-8 costs its odd bytes, not the call.
var form = json.JoinOptions(json.OmitZeroStructFields(true), json.Deterministic(true), jsontext.AllowInvalidUTF8(true))

// body is a record's body, of this release's schema.
type body struct {
	Stub  Stub   `json:"stub"`
	State stored `json:"state"`
}

// Encode writes a state in the lowest schema that can say it and is not under
// the floor (R6).
func Encode(s State, floor int) (schema int, raw []byte, err error) {
	b := body{Stub: StubOf(s)}
	b.State = pack(&s, &b.Stub)
	if raw, err = json.Marshal(&b, form); err != nil {
		return 0, nil, fmt.Errorf("codecore: encode: %w", err)
	}
	floor = max(floor, SchemaMin)
	if schema = alike(&b.State, Schema, floor); schema > floor && migrations[schema-2].Down != nil {
		return lower(raw, &b.State, schema, floor)
	}
	return schema, raw, nil
}

// alike is the lowest schema down to floor whose form of p is the one of schema.
func alike(p *stored, schema, floor int) int {
	for schema > floor && migrations[schema-2].Adds != nil && migrations[schema-2].Adds(p) == "" {
		schema--
	}
	return schema
}

// old is a body whose state is to be migrated.
type old struct {
	Stub  jsontext.Value `json:"stub"`
	State Fields         `json:"state"`
}

// lower takes the body of p, of a schema, down as far as it goes.
func lower(raw []byte, p *stored, schema, floor int) (int, []byte, error) {
	var b old
	if err := json.Unmarshal(raw, &b, form); err != nil {
		return 0, nil, fmt.Errorf("codecore: encode: %w", err)
	}
	began := schema
	for schema > floor && migrations[schema-2].Down != nil {
		m := migrations[schema-2]
		if err := m.Down(b.State); errors.Is(err, ErrPinned) {
			break
		} else if err != nil {
			return 0, nil, fmt.Errorf("codecore: %s down: %w", m.Name, err)
		}
		schema = alike(p, schema-1, floor)
	}
	if schema == began {
		return schema, raw, nil
	}
	raw, err := json.Marshal(&b, form)
	if err != nil {
		return 0, nil, fmt.Errorf("codecore: encode: %w", err)
	}
	return schema, raw, nil
}

// raise takes a body of an older schema up to this release's.
func raise(schema int, raw []byte) ([]byte, error) {
	var b old
	if err := json.Unmarshal(raw, &b, form); err != nil {
		return nil, fmt.Errorf("codecore: decode: %w", err)
	}
	if b.State == nil {
		return nil, fmt.Errorf("%w: no state", ErrBroken)
	}
	for _, m := range migrations[schema-1:] {
		if m.Up == nil {
			continue
		}
		b.State["stub"] = b.Stub // a migration may ask who calls whom
		if err := m.Up(b.State); err != nil {
			return nil, fmt.Errorf("codecore: %s up: %w", m.Name, err)
		}
	}
	delete(b.State, "stub")
	raw, err := json.Marshal(&b, form)
	if err != nil {
		return nil, fmt.Errorf("codecore: decode: %w", err)
	}
	return raw, nil
}

// Decode reads a record's body of any schema from SchemaMin to Schema.
func Decode(schema int, raw []byte) (s State, err error) {
	if schema < SchemaMin || schema > Schema {
		return s, fmt.Errorf("%w: record has %d, this release reads %d to %d", ErrSchema, schema, SchemaMin, Schema)
	}
	if slices.ContainsFunc(migrations[schema-1:], func(m Migration) bool { return m.Up != nil }) {
		if raw, err = raise(schema, raw); err != nil {
			return s, err
		}
	}
	var b body
	if err = json.Unmarshal(raw, &b, form); err != nil {
		return s, fmt.Errorf("codecore: decode: %w", err)
	}
	return unpack(&b.State, &b.Stub)
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
	for i, l := range s.More {
		if slot := l.Media.Leg; slot != LegA && slot != LegB || s.leg(l.Name) != &s.More[i] || i >= maxMore {
			return bad("further leg %q for slot %q", l.Name, slot)
		}
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

// pinnedBy names what keeps a call from the schema before this release's, or
// from the one before that.
func pinnedBy(s State) string {
	stub := StubOf(s)
	p := pack(&s, &stub)
	if why := pinnedHere(s); why != "" {
		return why
	}
	return added(&p)
}
