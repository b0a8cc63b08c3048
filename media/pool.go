package media

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// Errors of the pool.
var (
	errPortsOut = errors.New("media: no free port")
	errTaken    = errors.New("media: port is another call's")
	errRange    = errors.New("media: not an even port of the range")
)

// pair is an RTP port and the RTCP port above it.
type pair struct {
	rtp, rtcp *port
	files     [2]*os.File // they own the descriptors
	watched   bool        // the relay reads them
	where     where
	stamp     uint32 // grows with each move; entries of queues with another are stale
}

type where byte

const (
	isFree where = iota
	isUsed
	isResting
)

// pool has all pairs. It is behind Media.mu.
type pool struct {
	log   *slog.Logger
	loop  *loop
	keep  *keepers
	ip    netip.Addr
	class int // TOS byte of all sockets
	min   int
	pairs []*pair // by (port-min)/2; nil: not bound
	next  int     // where to look for the next pair to bind
	ahead int
	most  int // pairs, by the budget of descriptors
	rest  time.Duration

	free    []place // first in, first out
	resting []place
	nfree   int
	nused   int
	nrest   int
	barren  time.Time // no port could be bound: not tried again before

	least      int // fewest free pairs since leastSince
	leastSince time.Time
}

// place is a pair in a queue.
type place struct {
	p     *pair
	stamp uint32
	until time.Time // of its rest
}

// slack is how long a free pair must not have been needed before it is closed.
const slack = 30 * time.Second

func (o *pool) bound() int { return o.nfree + o.nused + o.nrest }

// bind opens pair i, or takes over what of it another process had.
func (o *pool) bind(i int, had [2]*os.File) (*pair, error) {
	p := &pair{}
	base := o.min + 2*i
	for k := range p.files {
		num := base + k
		var f *os.File
		err := os.ErrNotExist
		if had[k] != nil {
			if f, err = adoptUDP(had[k], o.ip, num); err != nil {
				o.log.Warn("media: inherited socket refused", "port", num, "err", err)
				o.keep.drop(num)
			} else {
				o.keep.keep(num, f) // again: a host that starts later gets it from us
			}
		}
		if err != nil {
			if f, err = openUDP(o.ip, num); err == nil {
				o.keep.keep(num, f)
			}
		}
		if err != nil {
			if k == 1 {
				o.close(p, base)
				if had[1] != nil {
					o.keep.drop(num)
				}
			} else if had[1] != nil {
				_ = had[1].Close()
				o.keep.drop(num + 1)
			}
			return nil, err
		}
		mark(f, o.ip.Is6(), o.class)
		p.files[k] = f
		q := &port{fd: int(f.Fd()), num: num, rtcp: k == 1}
		if k == 0 {
			p.rtp = q
		} else {
			p.rtcp = q
		}
	}
	o.loop.know(p.rtp)
	o.loop.know(p.rtcp)
	o.pairs[i] = p
	return p, nil
}

// watch has the relay read the pair. A pair that another generation had is not
// read before its call is back, or its rest over: what the kernel has kept is the
// call's.
func (o *pool) watch(p *pair) {
	if p.watched {
		return
	}
	p.watched = true
	for _, q := range []*port{p.rtp, p.rtcp} {
		if err := o.loop.watch(q.fd); err != nil {
			o.log.Error("media: port is deaf", "port", q.num, "err", err)
		}
	}
}

// close lets go of the pair's sockets here and at the keeper.
func (o *pool) close(p *pair, base int) {
	for k, f := range p.files {
		if f != nil {
			_ = f.Close()
			o.keep.drop(base + k)
		}
	}
}

// grow binds up to n more pairs, wherever in the range it is possible. When it is
// nowhere, the range is not walked again for a second.
func (o *pool) grow(n int) (bound int) {
	if time.Now().Before(o.barren) {
		return 0
	}
	for tries := len(o.pairs); tries > 0 && bound < n && o.bound() < o.most; tries-- {
		i := o.next
		o.next = (o.next + 1) % len(o.pairs)
		if o.pairs[i] != nil {
			continue
		}
		p, err := o.bind(i, [2]*os.File{})
		if err != nil {
			o.log.Debug("media: port passed over", "err", err)
			continue
		}
		o.watch(p)
		o.put(p, isFree, time.Time{})
		bound++
	}
	if bound == 0 {
		o.barren = time.Now().Add(time.Second)
	}
	return bound
}

// put files a pair that is in no count.
func (o *pool) put(p *pair, to where, until time.Time) {
	p.where = to
	p.stamp++
	switch to {
	case isFree:
		o.nfree++
		o.free = append(o.free, place{p: p, stamp: p.stamp})
	case isUsed:
		o.nused++
	case isResting:
		o.nrest++
		o.resting = append(o.resting, place{p: p, stamp: p.stamp, until: until})
	}
}

// pick takes a pair out of its count.
func (o *pool) pick(p *pair) {
	switch p.where {
	case isFree:
		o.nfree--
		o.least = min(o.least, o.nfree)
	case isUsed:
		o.nused--
	case isResting:
		o.nrest--
	}
}

// head drops stale places and returns the first pair of a queue.
func head(q []place) ([]place, *place) {
	for len(q) > 0 {
		if q[0].stamp == q[0].p.stamp {
			return q, &q[0]
		}
		q = q[1:]
	}
	return q, nil
}

// rested makes pairs free whose rest is over.
func (o *pool) rested(now time.Time) {
	for {
		var first *place
		if o.resting, first = head(o.resting); first == nil || now.Before(first.until) {
			return
		}
		o.resting = o.resting[1:]
		o.pick(first.p)
		if !first.p.watched {
			drain(first.p)
			o.watch(first.p)
		}
		o.put(first.p, isFree, time.Time{})
	}
}

// take gives out the pair that has been free longest.
func (o *pool) take(now time.Time) (*pair, error) {
	o.rested(now)
	if o.nfree == 0 && o.grow(16) == 0 {
		return nil, errPortsOut
	}
	var first *place
	if o.free, first = head(o.free); first == nil {
		return nil, errPortsOut
	}
	p := first.p
	o.free = o.free[1:]
	o.pick(p)
	o.put(p, isUsed, time.Time{})
	return p, nil
}

// drain throws away what the kernel has kept for a pair that nobody claimed.
func drain(p *pair) {
	var from sockaddr
	var b [1]byte
	for _, q := range []*port{p.rtp, p.rtcp} {
		for range 4096 {
			if _, errno := recvFrom(q.fd, b[:], &from); errno != 0 {
				break
			}
		}
	}
}

// claim gives out one pair by its port: to a call that had it before. The caller
// has it watched when the call is in place.
func (o *pool) claim(base int) (*pair, error) {
	i := (base - o.min) / 2
	if base < o.min || (base-o.min)%2 != 0 || i >= len(o.pairs) {
		return nil, fmt.Errorf("%w: %d", errRange, base)
	}
	p := o.pairs[i]
	switch {
	case p == nil:
		var err error
		if p, err = o.bind(i, [2]*os.File{}); err != nil {
			return nil, err
		}
		o.put(p, isUsed, time.Time{})
		return p, nil
	case p.where == isUsed:
		return nil, fmt.Errorf("%w: %d", errTaken, base)
	}
	o.pick(p)
	o.put(p, isUsed, time.Time{})
	return p, nil
}

// giveBack lets a used pair rest.
func (o *pool) giveBack(p *pair, until time.Time) {
	o.pick(p)
	o.put(p, isResting, until)
}

// tend binds ahead and closes what has not been needed for a while.
func (o *pool) tend(now time.Time) {
	o.rested(now)
	if o.nfree < (o.ahead+1)/2 {
		o.grow(max(o.ahead-o.nfree, o.nused/4))
	}
	if now.Sub(o.leastSince) < slack {
		return
	}
	for spare := min(o.least-o.ahead, 256); spare > 0; spare-- {
		var first *place
		if o.free, first = head(o.free); first == nil {
			break
		}
		p := first.p
		o.free = o.free[1:]
		o.pick(p)
		p.stamp++
		o.loop.forget(p.rtp)
		o.loop.forget(p.rtcp)
		o.close(p, p.rtp.num)
		o.pairs[(p.rtp.num-o.min)/2] = nil
	}
	o.least, o.leastSince = o.nfree, now
	if o.least > o.ahead {
		o.leastSince = now.Add(time.Second - slack) // the rest in batches of 256 per second
	}
}

// inherit takes over the sockets of another generation. They rest until claim:
// their calls' records or owners may still ask for them.
func (o *pool) inherit(had map[string]*os.File, until time.Time) {
	byPair := map[int][2]*os.File{}
	for name, f := range had {
		port, ok := strings.CutPrefix(name, keepPrefix)
		num, err := strconv.Atoi(port)
		i := (num - o.min) / 2
		if !ok || err != nil || num < o.min || i >= len(o.pairs) {
			o.log.Warn("media: inherited socket is not of the range", "name", name)
			_ = f.Close()
			o.keep.dropName(name)
			continue
		}
		two := byPair[i]
		two[(num-o.min)%2] = f
		byPair[i] = two
	}
	for i := range o.pairs { // in order, so that the rest is first in, first out
		two, ok := byPair[i]
		if !ok {
			continue
		}
		p, err := o.bind(i, two)
		if err != nil {
			o.log.Warn("media: inherited pair is lost", "port", o.min+2*i, "err", err)
			continue
		}
		o.put(p, isResting, until)
	}
}

// shut closes every socket here. The keeper's duplicates stay: a successor wants
// them.
func (o *pool) shut() {
	for _, p := range o.pairs {
		if p == nil {
			continue
		}
		for _, f := range p.files {
			_ = f.Close()
		}
	}
}
