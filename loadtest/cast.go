package loadtest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// cast is the calls of a demo and how each of them ended.
type cast struct {
	demo   *demo
	ctx    context.Context //nolint:containedctx // the life of every call of one demo
	cancel context.CancelFunc
	wg     sync.WaitGroup
	todo   atomic.Int64 // not yet where they should be before the move
	due    atomic.Int64 // those of them whose moment comes by the clock

	mu    sync.Mutex
	parts []*part
}

// part is one call in its kind.
type part struct {
	*Call
	kind    string
	up      bool // came up
	over    bool
	err     error
	dropped bool
}

func newCast(ctx context.Context, d *demo) *cast {
	ctx, cancel := context.WithCancel(ctx)
	return &cast{demo: d, ctx: ctx, cancel: cancel}
}

// place starts n calls of a kind at the demo's rate.
func (c *cast) place(kind string, n int, m Mark) {
	k := kindOf[kind]
	every := time.Second / time.Duration(c.demo.cfg.Rate)
	todo := &c.todo
	if kind == KindRefresh {
		todo = &c.due
	}
	for i := range n {
		p := &part{Call: c.demo.rig.NewOf(kind, m, i), kind: kind}
		if kind == KindRefresh {
			p.refreshing(c.demo.refresh)
		}
		c.mu.Lock()
		c.parts = append(c.parts, p)
		c.mu.Unlock()
		todo.Add(1)
		c.wg.Add(1)
		go c.play(p, k.play, todo)
		pause(c.ctx, every)
	}
}

func (c *cast) play(p *part, act actor, todo *atomic.Int64) {
	defer c.wg.Done()
	var once sync.Once
	up := func(ok bool) {
		once.Do(func() {
			c.mu.Lock()
			p.up = ok
			c.mu.Unlock()
			todo.Add(-1)
		})
	}
	err := act(c.ctx, p.Call, c.demo.stage, func() { up(true) })
	up(false)
	c.mu.Lock()
	defer c.mu.Unlock()
	p.err, p.over = err, true
	p.dropped = p.up && err != nil
}

// settled waits until every call is where it should be, or has failed.
func (c *cast) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for c.todo.Load() > 0 {
		c.demo.out.show("placing calls: %d to go", c.todo.Load())
		if !pause(ctx, 20*time.Millisecond) {
			return fmt.Errorf("loadtest: %d calls are not up: %w", c.todo.Load(), ctx.Err())
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	up := 0
	var err error
	for _, p := range c.parts {
		if p.up {
			up++
		} else if p.err != nil {
			err = p.err
		}
	}
	c.demo.out.say("%d of %d calls are up", up, len(c.parts)-int(c.due.Load())) // whose moment is yet to come
	if up == 0 {
		return fmt.Errorf("loadtest: no call came up: %w", err)
	}
	return nil
}

// inMoment waits until the calls whose moment comes by the clock are in it, too.
func (c *cast) inMoment(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(c.demo.refresh)*time.Second)
	defer cancel()
	for c.due.Load() > 0 && pause(ctx, 20*time.Millisecond) {
		c.demo.out.show("waiting for %d sessions to be refreshed", c.due.Load())
	}
}

// finished waits until every call has ended.
func (c *cast) finished(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		c.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-time.After(3 * time.Minute):
	case <-ctx.Done():
	}
	c.cancel()
	<-done
	return fmt.Errorf("loadtest: calls did not end")
}

func (c *cast) all() []*part {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*part(nil), c.parts...)
}
