package handoff

import (
	"fmt"
	"slices"
	"sort"
)

// A MoveReport says what became of a MoveOrder, a dry run or a drain. Each call
// asked for is counted once: Asked = Moved + refused + Gone + Left.
type MoveReport struct {
	Worker  string       `json:"worker"` // the source
	Asked   int          `json:"asked"`
	Moved   int          `json:"moved"`          // of a dry run: could be moved
	Gone    int          `json:"gone"`           // ended or lost before their turn
	Left    int          `json:"left,omitempty"` // not offered, or not settled, when the order ended early
	Refused []Refusal    `json:"refused,omitempty"`
	Why     map[Code]int `json:"why,omitempty"`       // refusals by code; of a rollout's dry run, which keeps no list of them
	Freeze  []float64    `json:"freeze_ms,omitempty"` // of each moved call, at the target
	Seconds float64      `json:"seconds"`
	Error   string       `json:"error,omitempty"` // why the order ended early
}

// Quantile returns the freeze in ms that a share q (0..1) of the calls did not exceed.
func (r MoveReport) Quantile(q float64) float64 {
	if len(r.Freeze) == 0 {
		return 0
	}
	f := slices.Clone(r.Freeze)
	sort.Float64s(f)
	return f[min(len(f)-1, int(q*float64(len(f))))]
}

// String is the sentence operators read.
func (r MoveReport) String() string {
	s := fmt.Sprintf("moved %d of %d", r.Moved, r.Asked)
	by := map[Code]int{}
	for _, f := range r.Refused {
		by[f.Code]++
	}
	codes := make([]string, 0, len(by))
	for c := range by {
		codes = append(codes, string(c))
	}
	sort.Strings(codes)
	for _, c := range codes {
		s += fmt.Sprintf(", %d %s", by[Code(c)], c)
	}
	return s
}

func (r *MoveReport) add(o MoveReport) {
	r.Asked += o.Asked
	r.Moved += o.Moved
	r.Gone += o.Gone
	r.Left += o.Left
	r.Refused = append(r.Refused, o.Refused...)
	r.Freeze = append(r.Freeze, o.Freeze...)
	if r.Error == "" {
		r.Error = o.Error
	}
}
