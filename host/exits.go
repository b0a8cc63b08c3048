package host

import (
	"slices"
	"time"
)

// exitLog holds the exits that a Client has heard of, the last thousand, and how
// far each listener has been told.
type exitLog struct {
	list      []Exit
	first     int // number of list[0]
	listeners []*exitListener
}

type exitListener struct {
	fn   func(Exit)
	next int
}

const exitsHeard = 1000

// add takes an exit unless it is known: each connection repeats the recent ones.
func (l *exitLog) add(e Exit) bool {
	same := func(o Exit) bool { return o.PID == e.PID && o.Name == e.Name && o.At.Equal(e.At) }
	if slices.ContainsFunc(l.list, same) {
		return false
	}
	l.list = append(l.list, e)
	if n := len(l.list) - exitsHeard; n > 0 {
		l.list = slices.Delete(l.list, 0, n)
		l.first += n
	}
	return true
}

// due returns what is to be told next, and to whom.
func (l *exitLog) due() (func(Exit), Exit, bool) {
	for _, h := range l.listeners {
		h.next = max(h.next, l.first)
		if i := h.next - l.first; i < len(l.list) {
			h.next++
			return h.fn, l.list[i], true
		}
	}
	return nil, Exit{}, false
}

// OnExit has fn called for each child of this host that has ended or ends, in
// order, one at a time: first for those of the recent past that the host
// remembers, so that who starts after a crash hears of it too. A host that
// starts anew reports what died while there was none. fn must not call Close.
func (c *Client) OnExit(fn func(Exit)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exits.listeners = append(c.exits.listeners, &exitListener{fn: fn})
	c.wake()
}

func (c *Client) learn(e Exit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.exits.add(e) {
		c.wake()
	}
}

func (c *Client) wake() {
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// tell calls the listeners, on a goroutine of its own: pings are answered meanwhile.
func (c *Client) tell() {
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.news:
		}
		for c.ctx.Err() == nil {
			c.mu.Lock()
			fn, e, ok := c.exits.due()
			c.mu.Unlock()
			if !ok {
				break
			}
			fn(e)
		}
	}
}

// Alone returns how long there has been no host; 0: there is one.
func (c *Client) Alone() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil {
		return 0
	}
	return time.Since(c.away)
}

// WhenAlone has fn called once a second while there has been no host for longer
// than after (60 s in this switch): fn knows whether there is still work, or the
// process should end.
func (c *Client) WhenAlone(after time.Duration, fn func()) {
	go func() {
		tick := time.NewTicker(min(time.Second, after/2+1))
		defer tick.Stop()
		for {
			select {
			case <-c.ctx.Done():
				return
			case <-tick.C:
				if c.Alone() > after {
					fn()
				}
			}
		}
	}()
}
