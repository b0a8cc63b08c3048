package edge

import (
	"context"
	"sync"
	"time"
)

const (
	resolveWithin  = 5 * time.Second
	leastTTL       = 5 * time.Second // of any answer: a TTL of 0 is no wish to be asked for each call
	maxTTL         = time.Hour
	maxNegativeTTL = 5 * time.Minute
	staleFor       = time.Hour       // an answer serves on while no server can be asked (RFC 8767)
	askAgain       = 5 * time.Second // then, and after a question that nobody answered
	maxNames       = 2048
	maxLookUps     = 64 // at a time
)

// names remembers answers, and asks a question once at a time whoever waits.
type names struct {
	locator

	mu      sync.Mutex
	known   map[question]*answer
	waiting map[question][]func(*located)
}

type answer struct {
	located
	until time.Time // ask again then
	stale time.Time // and know nothing then
}

func newNames(l locator) *names {
	return &names{locator: l, known: map[question]*answer{}, waiting: map[question][]func(*located){}}
}

// get answers at once, when the answer is known.
func (n *names) get(q question, now time.Time) (*located, bool) {
	if l, ok := q.numeric(); ok {
		return &l, true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if a := n.known[q]; a != nil && now.Before(a.until) {
		return &a.located, true
	}
	return nil, false
}

// find calls then with the answer, from another goroutine that wg counts. A
// question that is being asked already is not asked again; one too many is not
// asked at all.
func (n *names) find(ctx context.Context, wg *sync.WaitGroup, q question, then func(*located)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	asked := n.waiting[q] != nil
	if !asked && len(n.waiting) >= maxLookUps {
		wg.Add(1)
		go func() { defer wg.Done(); then(&located{unknown: true}) }()
		return
	}
	n.waiting[q] = append(n.waiting[q], then)
	if asked {
		return
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		ctx, cancel := context.WithTimeout(ctx, resolveWithin)
		defer cancel()
		l := n.locate(ctx, q)
		n.mu.Lock()
		a := n.learn(q, l, time.Now())
		waiting := n.waiting[q]
		delete(n.waiting, q)
		n.mu.Unlock()
		for _, then := range waiting {
			then(a)
		}
	}()
}

// learn keeps an answer. When nobody could be asked, the one before serves on.
// n.mu is held.
func (n *names) learn(q question, l located, now time.Time) *located {
	old := n.known[q]
	if l.unknown && old != nil && len(old.servers) > 0 && now.Before(old.stale) {
		old.until = now.Add(askAgain)
		return &old.located
	}
	if old == nil && len(n.known) >= maxNames {
		n.makeRoom(now)
	}
	a := &answer{located: l, until: now.Add(min(max(l.ttl, leastTTL), maxTTL))}
	if l.unknown {
		a.until = now.Add(askAgain)
	} else if len(l.servers) == 0 {
		a.until = now.Add(min(max(l.ttl, leastTTL), maxNegativeTTL))
	}
	a.stale = a.until.Add(staleFor)
	n.known[q] = a
	return &a.located
}

// makeRoom forgets what is to be asked again, and if that is nothing, something.
func (n *names) makeRoom(now time.Time) {
	for q, a := range n.known {
		if !now.Before(a.until) {
			delete(n.known, q)
		}
	}
	for q := range n.known {
		if len(n.known) < maxNames {
			return
		}
		delete(n.known, q)
	}
}
