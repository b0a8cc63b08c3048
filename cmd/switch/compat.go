package main

import (
	"context"
	"fmt"
	"time"

	"callswitch/internal/wire"
	"callswitch/sessions"
)

// speaksWith refuses to run beside a living process with which there is no
// common protocol, if this one is the newer of the two (R6): it was started
// last, so it goes. Heartbeats tell the ranges; two of them are waited for.
func speaksWith(ctx context.Context, living func() []sessions.Process) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(600 * time.Millisecond):
	}
	for _, p := range living() {
		if err := noCommonProto(p, wire.MinProto, wire.Proto); err != nil {
			return err
		}
	}
	return nil
}

// noCommonProto reports that a process speaks older protocols only than we do.
func noCommonProto(p sessions.Process, ourMin, ourMax int) error {
	if p.ProtoMax == 0 || p.ProtoMax >= ourMin {
		return nil // it says nothing, or there is one, or it is the newer and goes itself
	}
	return fmt.Errorf("%s %s (release %s) speaks protocols %d to %d, this release %d to %d: push a release in between first",
		p.Role, p.ID, p.Release, p.ProtoMin, p.ProtoMax, ourMin, ourMax)
}
