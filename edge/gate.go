package edge

import (
	"sync"
	"sync/atomic"
)

// A gate is held open (RLock) by the goroutines that take something in or send
// without Edge.mu, all of the time that they are at it: who has read a message
// deals with it before the gate can shut. Nobody passes it twice.
type gate struct {
	sync.RWMutex
	shutting atomic.Bool
}

// shut tells that the gate is shut, or is about to be.
func (g *gate) shut() bool { return g.shutting.Load() }

// pause waits while the gate is shut. It reports whether it was. The caller holds
// it open.
func (g *gate) pause() bool {
	if !g.shut() {
		return false
	}
	g.RUnlock()
	g.RLock()
	return true
}
