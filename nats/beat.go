package nats

import (
	"context"
	"time"

	"callswitch/internal/wire"
	"callswitch/sessions"
)

// BeatEvery is how often each process says that it lives; DeadAfter is the
// silence after which others take it for dead.
const (
	BeatEvery = 250 * time.Millisecond
	DeadAfter = 3 * time.Second
)

// beat is what travels under sessions.SubjectBeat: a sessions.Process, and one
// field that readers of that alone pass over.
type beat struct {
	sessions.Process
	Bye bool `json:"bye,omitempty"`
}

// Beat tells all others every 250 ms what self returns, until ctx ends; then it
// says goodbye, so that nobody waits 3 s for a process that left properly.
func Beat(ctx context.Context, b sessions.Bus, self func() sessions.Process) {
	say := func(bye bool) {
		p := self()
		data, err := wire.Seal(beat{p, bye})
		if err == nil {
			_ = b.Publish(sessions.SubjectBeat(p.Role, p.ID), data) // the next one says it again
		}
	}
	tick := time.NewTicker(BeatEvery)
	defer tick.Stop()
	for {
		say(false)
		select {
		case <-tick.C:
		case <-ctx.Done():
			say(true)
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			_ = b.Flush(last)
			cancel()
			return
		}
	}
}
