package sessions

import (
	"time"

	"callswitch/codecore"
)

// SetStep replaces the code of the calls.
func (r *Runner) SetStep(step func(codecore.State, time.Time, codecore.Event) (codecore.State, codecore.Result)) {
	r.step = step
}

// IdleTasks is how many goroutines a Runner keeps at rest.
const IdleTasks = idleTasks
