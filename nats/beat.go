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
	tick := time.NewTicker(BeatEvery)
	defer tick.Stop()
	for {
		sayBeat(b, self(), false)
		select {
		case <-tick.C:
		case <-ctx.Done():
			Farewell(context.WithoutCancel(ctx), b, self)
			return
		}
	}
}

// Farewell says goodbye for a process that ends otherwise than by Beat's ctx.
func Farewell(ctx context.Context, b sessions.Bus, self func() sessions.Process) {
	sayBeat(b, self(), true)
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = b.Flush(ctx)
}

func sayBeat(b sessions.Bus, p sessions.Process, bye bool) {
	data, err := wire.Seal(beat{p, bye})
	if err == nil {
		_ = b.Publish(sessions.SubjectBeat(p.Role, p.ID), data) // the next one says it again
	}
}
