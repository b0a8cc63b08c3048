package edge

import (
	"cmp"
	"slices"
	"time"
)

// timed is what waits in the heap: a transaction or a call. It has one next
// deadline; fire sets the one after it.
type timed interface {
	when() *deadline
	fire(e *Edge, now time.Time)
}

// deadline is a timed thing's place in the heap. Moving it later or taking it
// back costs nothing: the old entry is passed over when it comes up.
type deadline struct {
	at     int64 // wanted, unix ns; 0 = none
	queued int64 // of the entry in the heap that counts; 0 = none
}

func (d *deadline) when() *deadline { return d }

type entry struct {
	at int64
	t  timed
}

// timers is a binary heap. Deadlines are rounded up to slots, so that many
// calls share one wake-up.
type timers struct {
	heap  []entry
	stale int // about so many entries are passed over
	slot  int64
	sleep int64 // the goroutine sleeps until then
	kick  chan struct{}
}

func (h *timers) push(en entry) {
	h.heap = append(h.heap, en)
	for i := len(h.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if h.heap[up].at <= h.heap[i].at {
			return
		}
		h.heap[up], h.heap[i] = h.heap[i], h.heap[up]
		i = up
	}
}

func (h *timers) pop() entry {
	top, last := h.heap[0], len(h.heap)-1
	h.heap[0], h.heap[last] = h.heap[last], entry{}
	h.heap = h.heap[:last]
	for i := 0; ; {
		small := 2*i + 1
		if small >= last {
			return top
		}
		if small+1 < last && h.heap[small+1].at < h.heap[small].at {
			small++
		}
		if h.heap[i].at <= h.heap[small].at {
			return top
		}
		h.heap[i], h.heap[small] = h.heap[small], h.heap[i]
		i = small
	}
}

// tidy drops the entries that are passed over, once most are: they hold what is
// over, a transaction until its time to wait for an answer (MaxPending) has gone.
func (h *timers) tidy() {
	if h.stale < 256 || h.stale < len(h.heap)/2 {
		return
	}
	h.stale = 0
	kept := make([]entry, 0, len(h.heap)-len(h.heap)/4)
	for _, en := range h.heap {
		switch d := en.t.when(); {
		case d.queued != en.at:
		case d.at == 0:
			d.queued = 0
		default:
			kept = append(kept, en)
		}
	}
	slices.SortFunc(kept, func(a, b entry) int { return cmp.Compare(a.at, b.at) }) // a heap, too
	h.heap = kept
}

// arm sets the next deadline of t; the zero time takes it back. e.mu is held.
func (e *Edge) arm(t timed, at time.Time) {
	d, h := t.when(), &e.timers
	if d.queued != 0 {
		h.stale++ // its entry, unless it is the one that counts: see below
	}
	if at.IsZero() {
		d.at = 0
		h.tidy()
		return
	}
	d.at = (at.UnixNano()/h.slot + 1) * h.slot
	if d.queued != 0 && d.queued <= d.at {
		h.stale--
		return
	}
	d.queued = d.at
	h.push(entry{d.at, t})
	h.tidy()
	if d.at < h.sleep {
		h.sleep = d.at
		select {
		case h.kick <- struct{}{}:
		default:
		}
	}
}

// runTimers is the one goroutine that fires deadlines.
func (e *Edge) runTimers() {
	defer e.wg.Done()
	wake := time.NewTimer(0)
	defer wake.Stop()
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-e.timers.kick:
		case <-wake.C:
		}
		wake.Reset(e.fireDue(time.Now()))
	}
}

// fireDue fires what is due and tells how long there is nothing to do.
func (e *Edge) fireDue(now time.Time) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := &e.timers
	for len(h.heap) > 0 && h.heap[0].at <= now.UnixNano() {
		en := h.pop()
		d := en.t.when()
		if d.queued != en.at {
			h.stale--
			continue // another entry counts
		}
		d.queued = 0
		switch {
		case d.at == 0:
			h.stale--
		case d.at > now.UnixNano():
			d.queued = d.at
			h.push(entry{d.at, en.t})
		default:
			d.at = 0
			en.t.fire(e, now)
		}
	}
	next := now.Add(time.Minute).UnixNano()
	if len(h.heap) > 0 {
		next = h.heap[0].at
	}
	h.sleep = next
	return time.Duration(next - now.UnixNano())
}
