package edge

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Nobody is inside a gate that is shut, and all pass one that has been opened again,
// whether it was shut or given up before that.
func TestAGateIsShutAndGivenUp(t *testing.T) {
	var g gate
	var inside, passed atomic.Int64
	var over sync.WaitGroup
	end := make(chan struct{})
	for i := range 50 {
		over.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				func() {
					g.enter()
					defer g.leave()
					inside.Add(1)
					defer inside.Add(-1)
					passed.Add(1)
					for range i % 3 {
						inside.Add(-1)
						g.pause()
						inside.Add(1)
					}
				}()
			}
		})
	}
	for i := range 3000 {
		empty := g.bar()
		if !g.shut() {
			t.Fatal("it is not shut")
		}
		if i%2 == 0 {
			<-empty
			if n := inside.Load(); n != 0 {
				t.Fatalf("%d are inside", n)
			}
		}
		g.open()
		for was := passed.Load(); i%100 == 0 && passed.Load() == was; { // somebody passes
			g.enter()
			g.leave()
		}
	}
	close(end)
	over.Wait()
	if <-g.bar(); g.inside != 0 || g.waiting != 0 {
		t.Errorf("%d inside, %d before it", g.inside, g.waiting)
	}
}

// One who cannot be called back holds up nobody but who shuts the gate; and who
// waits before it ends there when an heir is at work.
func TestAGateWaitsForTheLastAndIsOverForTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		is := func(empty <-chan struct{}, want bool) {
			t.Helper()
			select {
			case <-empty:
				if !want {
					t.Error("somebody is inside")
				}
			default:
				if want {
					t.Error("nobody is inside")
				}
			}
		}
		g.enter()
		is(g.bar(), false)
		in := false
		go func() { g.enter(); in = true; g.pause(); g.leave() }()
		synctest.Wait()
		if in {
			t.Error("it is shut, and somebody comes in")
		}
		g.open() // given up
		synctest.Wait()
		if !in || g.shut() {
			t.Error("it is open, and nobody comes in")
		}
		empty := g.bar()
		is(empty, false)
		g.leave()
		is(empty, true)
		ended := false
		go func() {
			defer func() { ended = true }()
			g.enter()
			t.Error("an heir is at work, and somebody comes in")
		}()
		synctest.Wait()
		g.over.Store(true)
		g.open()
		synctest.Wait()
		if !ended || g.inside != 0 || !g.shut() {
			t.Errorf("ended %v, %d inside", ended, g.inside)
		}
	})
}

// A connection whose last word is not read yet is not closed because the edge is
// being frozen.
func TestWhoLingersIsNotCalledBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		c := &streamLink{e: new(Edge), proto: overTCP, raw: near, conn: near, stage: connOpen}
		began := time.Now()
		time.AfterFunc(lingerFor/2, func() { _ = near.SetReadDeadline(time.Unix(1, 0)) })
		c.linger()
		if took := time.Since(began); took != lingerFor {
			t.Errorf("it is closed after %v", took)
		}
		c.e.wg.Wait()
	})
}
