package host

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Phases of a child.
const (
	phaseWaiting  = "waiting"  // for its back-off, or to be started at all
	phaseRunning  = "running"  // has a process
	phaseStopping = "stopping" // has a process that has been told to end, or was killed
	phaseGivenUp  = "given-up" // too many restarts: waits for Config.GiveUp
)

// child is one Spec and its process, if any. It belongs to Run's goroutine.
type child struct {
	host  *Host
	spec  Spec
	phase string

	proc    *process // running, stopping
	conn    *conn    // its connection; outlives proc until all of it has been read
	page    []int    // its in-hand page: one descriptor, or none yet
	hello   Hello
	ready   bool
	adopted bool
	since   time.Time
	heard   time.Time // last sign of life, or the start

	restarts int
	recent   []time.Time // restarts within Config.Period
	backOff  time.Duration
	missed   bool // the process that ended last was ready
	timer    *time.Timer
	timers   int // of the last timer: older ones are void

	heir   *child      // the next generation, until it has taken over
	heirOf *child      // whose heir this is, until it has taken over
	told   func(error) // who asked for this heir

	final   bool          // no successor: stopped on request
	again   bool          // a successor at once: restarted on request
	waiters []func(error) // told when it has ended
}

// after runs fn on Run's goroutine unless the child moves on before.
func (c *child) after(d time.Duration, fn func()) {
	c.void()
	n := c.timers
	c.timer = time.AfterFunc(d, func() {
		c.host.post(func() {
			if n == c.timers {
				fn()
			}
		})
	})
}

// void cancels what after has planned.
func (c *child) void() {
	c.timers++
	if c.timer != nil {
		c.timer.Stop()
	}
}

// start runs a new process. The connection of the one before must have been
// read to its end: it may have brought descriptors.
func (c *child) start() {
	if c.conn != nil {
		c.after(10*time.Millisecond, c.start) // the reader is about to see the end
		return
	}
	c.spawn(nil)
}

// spawn runs the process; pair, if given, is an heir's.
func (c *child) spawn(pair *os.File) {
	c.void()
	output, err := c.output()
	if err == nil {
		var p *process
		if p, err = spawn(c.host.cfg.Dir, c.place(), c.spec, output, pair); err == nil {
			c.hello, c.adopted, c.since = Hello{}, false, time.Now()
			c.live(p)
			c.host.event(Event{Kind: Started, Child: c.spec.Name, Role: c.spec.Role, PID: p.pid})
			c.host.save()
		}
		if output != os.Stderr {
			_ = output.Close()
		}
	}
	if err != nil {
		c.host.event(Event{Kind: Failed, Child: c.spec.Name, Role: c.spec.Role, Err: err})
		if c.heirOf != nil {
			c.heirExited(fmt.Errorf("%w: %w", ErrNotTaken, err))
			return
		}
		c.again = false
		c.restart()
	}
}

// place is the name that the process has, or is to have.
func (c *child) place() string {
	if c.heirOf != nil {
		return c.heirOf.spec.Name
	}
	return c.spec.Name
}

func (c *child) output() (*os.File, error) {
	if c.host.cfg.Logs == "" {
		return os.Stderr, nil
	}
	return os.OpenFile(filepath.Join(c.host.cfg.Logs, c.place()+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// live begins to watch a process, born or adopted.
func (c *child) live(p *process) {
	c.proc, c.phase, c.ready, c.heard = p, phaseRunning, false, time.Now()
	h := c.host
	h.wg.Go(func() {
		defer p.close()
		if code, sig, ok := p.wait(); ok {
			h.post(func() { c.exited(code, sig) })
		}
	})
}

// exited is the one end of a process. Reports go out before anything else.
func (c *child) exited(code int, sig string) {
	h := c.host
	e := Exit{Name: c.spec.Name, Role: c.spec.Role, ID: c.hello.ID, PID: c.proc.pid, Code: code, Signal: sig, At: time.Now()}
	if len(c.page) > 0 {
		e.InHand = readPage(c.page[0])
	}
	closeAll(c.page)
	c.page = nil
	h.report(e)
	if c.conn != nil { // its reader ends by itself, unless a process it left behind holds the other end
		c.conn.shutSoon()
	}
	lived := time.Since(c.since)
	c.proc, c.missed, c.ready = nil, c.ready, false
	c.void()
	for _, tell := range c.waiters {
		tell(nil)
	}
	c.waiters = nil
	if lived >= c.spec.Healthy {
		c.backOff = 0
	}
	switch {
	case c.heirOf != nil:
		c.heirExited(fmt.Errorf("%w: it ended with code %d %s", ErrNotTaken, code, sig))
	case c.heir != nil && !h.closing && !c.final:
		c.leftHeir()
	case h.closing, c.final, !c.wanted(code, sig):
		delete(h.children, c.spec.Name)
		h.save()
		return
	case c.again:
		c.again = false
		c.phase = phaseWaiting
		c.start()
	default:
		c.restart()
	}
	h.save()
}

func (c *child) wanted(code int, sig string) bool {
	if c.again {
		return true
	}
	switch c.spec.Restart {
	case Temporary:
		return false
	case Transient:
		return code != 0 || sig != ""
	}
	return true
}

// restart starts a successor after the back-off, or gives the child up for a
// while when it has had too many.
func (c *child) restart() {
	h, now := c.host, time.Now()
	for len(c.recent) > 0 && now.Sub(c.recent[0]) > h.cfg.Period {
		c.recent = c.recent[1:]
	}
	kind, wait := Restarting, max(c.backOff, c.spec.BackOff)
	switch {
	case len(c.recent) >= h.cfg.Intensity:
		kind, wait = GivenUp, h.cfg.GiveUp
		c.phase, c.recent, c.backOff = phaseGivenUp, nil, 0
	case c.missed && len(c.recent) == 0:
		wait = 0
		c.phase, c.recent = phaseWaiting, append(c.recent, now)
	default:
		c.phase, c.recent = phaseWaiting, append(c.recent, now)
		c.backOff = min(2*wait, c.spec.MaxBackOff)
	}
	c.missed = false
	h.event(Event{Kind: kind, Child: c.spec.Name, Role: c.spec.Role, Wait: wait})
	c.after(wait, func() {
		c.restarts++
		c.start()
	})
}

// stop ends the child for good: SIGTERM, after grace SIGKILL. told, if given,
// is called when it is gone.
func (c *child) stop(grace time.Duration, told func(error)) {
	c.final = true
	c.end(grace, told)
}

// cycle ends the process as stop does and starts a successor at once.
func (c *child) cycle(grace time.Duration, told func(error)) {
	if c.proc == nil {
		c.start()
		told(nil)
		return
	}
	c.again = true
	c.end(grace, told)
}

func (c *child) end(grace time.Duration, told func(error)) {
	if c.proc == nil {
		c.void()
		delete(c.host.children, c.spec.Name)
		if told != nil {
			told(nil)
		}
		return
	}
	if told != nil {
		c.waiters = append(c.waiters, told)
	}
	if c.phase == phaseStopping {
		return
	}
	c.phase = phaseStopping
	c.proc.signal(unix.SIGTERM)
	c.after(grace, c.proc.kill)
}

// checkHung kills a process that does not answer; its successor starts when it
// is seen to be gone.
func (c *child) checkHung(now time.Time, paused bool) {
	if paused {
		c.heard = now
	}
	limit := c.spec.Silent
	if c.conn == nil {
		limit = max(limit, connectWithin) // not there yet
	}
	if c.phase != phaseRunning || c.spec.Silent < 0 || now.Sub(c.heard) < limit {
		return
	}
	c.host.event(Event{Kind: Hung, Child: c.spec.Name, Role: c.spec.Role, PID: c.proc.pid, Wait: now.Sub(c.heard)})
	c.phase = phaseStopping
	c.proc.kill()
}

// connectWithin is the least time that a process has for its hello.
const connectWithin = 30 * time.Second

// forget lets the process be, without a host.
func (c *child) forget() {
	c.void()
	closeAll(c.page)
	if c.proc != nil {
		c.proc.close()
	}
}

func (c *child) list() Child {
	l := Child{Spec: c.spec, Phase: c.phase, Hello: c.hello, Ready: c.ready, Adopted: c.adopted, Since: c.since, Restarts: c.restarts}
	if c.proc != nil {
		l.PID = c.proc.pid
	}
	return l
}
