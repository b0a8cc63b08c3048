package edge

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// A gate is held open (enter, RUnlock) by the goroutines that take something in or
// send without Edge.mu, all of the time that they are at it: who has read a message
// deals with it before the gate can shut. Nobody passes it twice.
type gate struct {
	sync.RWMutex
	shutting atomic.Bool
	over     atomic.Bool // an heir is at work: nobody passes it any more
}

// shut tells that the gate is shut, or is about to be.
func (g *gate) shut() bool { return g.shutting.Load() }

// enter waits until the gate is open. Once an heir is at work the goroutine ends here.
func (g *gate) enter() {
	g.RLock()
	if g.over.Load() {
		g.RUnlock()
		runtime.Goexit()
	}
}

// pause waits while the gate is shut. It reports whether it was. The caller holds
// it open, and lets go of it in a deferred call.
func (g *gate) pause() bool {
	if !g.shut() {
		return false
	}
	g.RUnlock()
	g.RLock()
	if g.over.Load() {
		runtime.Goexit()
	}
	return true
}
