//go:build !nextrelease

package codecore

// versioned are the fields of State whose stored form the next release changes.
type versioned struct {
	Plan     uint64  `json:"plan,omitempty"`      // version of the dialplan that routed the call
	NoAnswer Seconds `json:"no_answer,omitempty"` // limits in force when it was routed
	MaxCall  Seconds `json:"max_call,omitempty"`
}

func (v *versioned) setRouting(plan uint64, noAnswer, maxCall Seconds) {
	v.Plan, v.NoAnswer, v.MaxCall = plan, noAnswer, maxCall
}

func (v *versioned) limits() (noAnswer, maxCall Seconds) { return v.NoAnswer, v.MaxCall }

// note is a feature of the next release.
func (v *versioned) note(*Message) {}

func pinnedHere(State) string { return "" }
