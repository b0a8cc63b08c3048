//go:build nextrelease

package codecore

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
)

// The next release, as tests and the demo need one: a real second binary whose
// schema is the shipped one plus one. Never stored after a test.

// Release is the name of this release.
const Release = version + "-next"

// RefusedPrefix marks the numbers whose calls the migration to schema 3 refuses.
const RefusedPrefix = "99900"

var migrations = append(slices.Clone(released), Migration{Name: "0003_routing", Up: upRouting, Down: downRouting})

// versioned are the fields of State whose stored form this release changes:
// "plan" is renamed, "no_answer" and "max_call" are merged into "limits", and
// "note" is new.
type versioned struct {
	PlanVersion uint64 `json:"plan_version,omitempty"`
	Limits      struct {
		NoAnswer Seconds `json:"no_answer,omitempty"`
		MaxCall  Seconds `json:"max_call,omitempty"`
	} `json:"limits,omitzero"`
	// CallNote is what the caller's X-Call-Note header said: a feature that schema 2
	// cannot say, so a call that uses it is pinned to this release.
	CallNote string `json:"note,omitempty"`
}

func (v *versioned) setRouting(plan uint64, noAnswer, maxCall Seconds) {
	v.PlanVersion, v.Limits.NoAnswer, v.Limits.MaxCall = plan, noAnswer, maxCall
}

func (v *versioned) limits() (noAnswer, maxCall Seconds) { return v.Limits.NoAnswer, v.Limits.MaxCall }

func (v *versioned) note(m *Message) {
	if n := m.Get("X-Call-Note"); len(n) <= 256 {
		v.CallNote = n
	}
}

func pinnedHere(s State) string {
	if s.CallNote != "" {
		return "note"
	}
	return ""
}

func upRouting(f Fields) error {
	var stub struct {
		CDR struct {
			To string `json:"to"`
		} `json:"cdr"`
	}
	if err := json.Unmarshal(f["stub"], &stub); err != nil {
		return err
	}
	if strings.HasPrefix(stub.CDR.To, RefusedPrefix) {
		return fmt.Errorf("%w: numbers that begin with %s stay where they are", ErrRefused, RefusedPrefix)
	}
	rename(f, "plan", "plan_version")
	limits := Fields{}
	for _, name := range []string{"no_answer", "max_call"} {
		if v, ok := f[name]; ok {
			limits[name] = v
			delete(f, name)
		}
	}
	if len(limits) > 0 {
		raw, err := json.Marshal(limits)
		if err != nil {
			return err
		}
		f["limits"] = raw
	}
	return nil
}

func downRouting(f Fields) error {
	if _, ok := f["note"]; ok {
		return fmt.Errorf("%w: note", ErrPinned)
	}
	rename(f, "plan_version", "plan")
	if raw, ok := f["limits"]; ok {
		var limits Fields
		if err := json.Unmarshal(raw, &limits); err != nil {
			return err
		}
		delete(f, "limits")
		for name, v := range limits {
			f[name] = v
		}
	}
	return nil
}

func rename(f Fields, from, to string) {
	if v, ok := f[from]; ok {
		f[to] = v
		delete(f, from)
	}
}
