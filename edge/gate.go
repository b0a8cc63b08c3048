package edge

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// A gate is held open (enter, leave) by the goroutines that take something in or
// send without Edge.mu, all of the time that they are at it: who has read a message
// deals with it before the gate is shut. Nobody passes it twice. Who shuts it may
// think better of it while somebody is still inside.
type gate struct {
	shutting atomic.Bool
	over     atomic.Bool // an heir is at work: nobody passes it any more

	mu      sync.Mutex
	inside  int
	waiting int           // before it
	opens   chan struct{} // nil: it is open; closed when it opens
	empty   chan struct{} // while it shuts: closed when the last has left
}

// shut tells that the gate is shut, or is about to be.
func (g *gate) shut() bool { return g.shutting.Load() }

// bar lets nobody in any more; empty is closed when all have left.
func (g *gate) bar() (empty <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shutting.Store(true)
	g.opens, g.empty = make(chan struct{}), make(chan struct{})
	if g.inside == 0 {
		close(g.empty)
	}
	return g.empty
}

// open follows bar, whether all have left or not, and lets in who waits.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shutting.Store(g.over.Load())
	close(g.opens)
	g.inside, g.waiting, g.opens, g.empty = g.inside+g.waiting, 0, nil, nil
}

// pass waits until the gate is open, and goes in.
func (g *gate) pass() {
	g.mu.Lock()
	opens := g.opens
	if opens == nil {
		g.inside++
	} else {
		g.waiting++ // open counts it in
	}
	g.mu.Unlock()
	if opens != nil {
		<-opens
	}
}

// enter waits until the gate is open. Once an heir is at work the goroutine ends here.
func (g *gate) enter() {
	g.pass()
	if g.over.Load() {
		g.leave()
		runtime.Goexit()
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside--; g.inside == 0 && g.empty != nil {
		close(g.empty)
	}
}

// pause waits while the gate is shut. It reports whether it was. The caller holds
// it open, and lets go of it in a deferred call.
func (g *gate) pause() bool {
	if !g.shut() {
		return false
	}
	g.leave()
	g.pass()
	if g.over.Load() {
		runtime.Goexit()
	}
	return true
}
