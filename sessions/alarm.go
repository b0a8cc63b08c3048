package sessions

import (
	"container/heap"
	"sync"
	"time"
)

// alarm wakes calls at their next deadline: one heap and one timer for all, so
// a deadline costs no goroutine and a talking call no wake-up.
type alarm struct {
	now func() time.Time

	mu      sync.Mutex
	calls   byTime
	timer   *time.Timer
	next    time.Time // what the timer is set to; zero = not set
	stopped bool
}

// set changes when c is woken; the zero time means never.
func (a *alarm) set(c *call, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case at.IsZero():
		if c.heapAt >= 0 {
			heap.Remove(&a.calls, c.heapAt)
		}
	case a.stopped:
	case c.heapAt >= 0:
		c.wakeAt = at
		heap.Fix(&a.calls, c.heapAt)
	default:
		c.wakeAt = at
		heap.Push(&a.calls, c)
	}
	a.wind()
}

// wind sets the timer if the first deadline is sooner than what it is set to.
// One that is set too early costs a wake-up; setting it anew each time would too.
func (a *alarm) wind() {
	if a.stopped || len(a.calls) == 0 {
		return
	}
	first := a.calls[0].wakeAt
	if !a.next.IsZero() && !first.Before(a.next) {
		return
	}
	a.next = first
	wait := max(first.Sub(a.now()), 0)
	if a.timer == nil {
		a.timer = time.AfterFunc(wait, a.ring)
		return
	}
	a.timer.Reset(wait)
}

// ring wakes every call that is due.
func (a *alarm) ring() {
	var due []*call
	a.mu.Lock()
	now := a.now()
	a.next = time.Time{}
	for !a.stopped && len(a.calls) > 0 && !a.calls[0].wakeAt.After(now) {
		due = append(due, heap.Pop(&a.calls).(*call))
	}
	a.wind()
	a.mu.Unlock()
	for _, c := range due {
		c.ring()
	}
}

func (a *alarm) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	if a.timer != nil {
		a.timer.Stop()
	}
}

// byTime is a heap.Interface of calls by wakeAt.
type byTime []*call

func (b byTime) Len() int           { return len(b) }
func (b byTime) Less(i, j int) bool { return b[i].wakeAt.Before(b[j].wakeAt) }
func (b byTime) Swap(i, j int) {
	b[i], b[j] = b[j], b[i]
	b[i].heapAt, b[j].heapAt = i, j
}

func (b *byTime) Push(x any) {
	c := x.(*call)
	c.heapAt = len(*b)
	*b = append(*b, c)
}

func (b *byTime) Pop() any {
	old := *b
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*b = old[:len(old)-1]
	c.heapAt = -1
	return c
}
