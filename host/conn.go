package host

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// conn is a process that has connected. Its reader takes frames off the wire and
// posts each to Run's goroutine; its writer sends what is queued, so that a hung
// child stops nobody.
type conn struct {
	host *Host
	link link
	pid  int // as the kernel says
	out  chan outgoing
	gone chan struct{} // closed: nothing more is sent
	once sync.Once

	// Of Run's goroutine.
	welcome bool
	cut     bool // what it still says is not listened to
	child   *child
	then    func() // the greeting of the connection that follows this one
}

type outgoing struct {
	frame frame
	files []*keptFile
}

func newConn(h *Host, nc *net.UnixConn, pid int) *conn {
	return &conn{host: h, link: link{conn: nc, half: true}, pid: pid, out: make(chan outgoing, 1024), gone: make(chan struct{})}
}

// hush ends sending, from any goroutine. What the other end has sent is still
// read: it may be descriptors, and it may be dead.
func (c *conn) hush() {
	c.once.Do(func() {
		close(c.gone)
		_ = c.link.conn.CloseWrite()
	})
}

// shut ends the connection, from any goroutine.
func (c *conn) shut() {
	c.hush()
	_ = c.link.conn.Close()
}

// shutSoon ends a connection that should have ended by itself.
func (c *conn) shutSoon() {
	time.AfterFunc(time.Second, func() {
		c.host.post(func() { c.cut = true })
		c.shut()
	})
}

// send queues a frame; a child that lets a thousand wait is cut off, connects
// again when it wakes, and is told anew.
func (c *conn) send(f frame, files []*keptFile) {
	o := outgoing{f, files}
	select {
	case <-c.gone:
		o.release()
	case c.out <- o:
		select {
		case <-c.gone: // perhaps behind the writer's back, who has left
			c.letGo()
		default:
		}
	default:
		c.host.log.Warn("child does not read, connection cut", "pid", c.pid)
		c.hush()
		o.release()
	}
}

// letGo empties the queue of a connection that is gone: what waits holds references.
func (c *conn) letGo() {
	for {
		select {
		case o := <-c.out:
			o.release()
		default:
			return
		}
	}
}

func (c *conn) writeLoop() {
	for {
		select {
		case <-c.gone:
			c.letGo()
			return
		case o := <-c.out:
			fds := make([]int, len(o.files))
			for i, k := range o.files {
				fds[i] = k.fd
			}
			err := c.link.write(o.frame, fds)
			o.release()
			if err != nil {
				c.hush()
			}
		}
	}
}

func (o outgoing) release() {
	for _, k := range o.files {
		k.release()
	}
}

func (c *conn) readLoop() {
	h := c.host
	defer func() {
		c.shut()
		c.link.close()
		h.post(func() { h.hangUp(c) })
	}()
	for {
		f, fds, err := c.link.read()
		if err != nil {
			if strings.HasPrefix(err.Error(), "host:") {
				h.log.Warn("connection of a child cut", "pid", c.pid, "err", err)
			}
			return
		}
		if !h.post(func() { h.take(c, f, fds) }) {
			closeAll(fds)
			return
		}
	}
}

// hangUp forgets a connection whose last frame has been taken.
func (h *Host) hangUp(c *conn) {
	delete(h.conns, c)
	if c.child != nil && c.child.conn == c {
		c.child.conn = nil
		c.child.heard = time.Now()
	}
	if c.then != nil {
		c.then()
	}
}

// take handles one frame. fds are consumed.
func (h *Host) take(c *conn, f frame, fds []int) {
	if c.cut {
		closeAll(fds)
		return
	}
	if f.Op == opHello && !c.welcome && f.Hello != nil {
		h.greet(c, f, fds)
		return
	}
	if !c.welcome {
		closeAll(fds)
		c.shut()
		return
	}
	if c.child != nil {
		c.child.heard = time.Now()
	}
	if f.Op == opKeep && len(fds) == len(f.Names) {
		h.keep(c, f.Names, fds)
		return
	}
	closeAll(fds)
	done := func(err error) {
		a := frame{Op: opDone, Seq: f.Seq}
		if err != nil {
			a.Err = err.Error()
		}
		c.send(a, nil)
	}
	switch f.Op {
	case opPong:
	case opReady:
		h.setReady(c)
	case opDrop:
		for _, name := range f.Names {
			h.kept.drop(name)
		}
	case opInherit:
		for names := range slices.Chunk(h.kept.under(f.Name), blockFDs) {
			c.send(frame{Op: opDone, Seq: f.Seq, More: true, Names: names}, h.kept.take(names))
		}
		done(nil)
	case opList:
		c.send(frame{Op: opDone, Seq: f.Seq, List: h.listing()}, nil)
	case opReplace:
		h.withChild(f.Name, done, func(k *child) {
			var argv []string
			if f.Spec != nil {
				argv = f.Spec.Argv
			}
			h.replace(k, argv, done)
		})
	case opTook:
		if c.child != nil {
			h.took(c.child, c.child.hello.Name)
		}
		done(nil)
	case opStays:
		if c.child != nil && f.Hello != nil {
			h.stays(c.child, f.Hello.Info)
		}
	case opDisown:
		if c.child != nil {
			h.disown(c.child, f.Name)
		}
	case opRenew:
		if h.closing {
			done(ErrClosing)
			return
		}
		done(h.renew(f.Name))
	case opStart:
		if err := h.startNew(f.Spec); err != nil {
			done(err)
			return
		}
		h.save(func(error) { // a host to come has to know of it
			h.wg.Go(func() { h.post(func() { done(nil) }) })
		})
	case opStop:
		h.withChild(f.Name, done, func(k *child) { k.stop(graceOf(f, k), done) })
	case opRestart:
		h.withChild(f.Name, done, func(k *child) { k.cycle(graceOf(f, k), done) })
	default:
		done(fmt.Errorf("host: no operation %q", f.Op))
	}
}

func graceOf(f frame, k *child) time.Duration {
	if f.Grace > 0 {
		return f.Grace
	}
	return k.spec.Grace
}

func (h *Host) withChild(name string, done func(error), fn func(*child)) {
	k := h.children[name]
	switch {
	case k == nil:
		done(fmt.Errorf("%w: %s", ErrUnknown, name))
	case h.closing:
		done(ErrClosing)
	default:
		fn(k)
	}
}

func (h *Host) startNew(s *Spec) error {
	if s == nil {
		return fmt.Errorf("%w: nothing to start", ErrConfig)
	}
	spec := s.withDefaults()
	if err := spec.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if h.closing {
		return ErrClosing
	}
	if h.children[spec.Name] != nil {
		return fmt.Errorf("%w: %s", ErrExists, spec.Name)
	}
	h.add(spec).start()
	return nil
}

func (h *Host) keep(c *conn, names []string, fds []int) {
	role := ""
	if c.child != nil {
		role = c.child.spec.Role
	}
	for i, name := range names {
		if !h.kept.keep(name, role, fds[i]) {
			h.log.Error("socket not kept: too many", "name", name, "limit", h.kept.limit)
		}
	}
}

func (h *Host) listing() *Listing {
	l := &Listing{Kept: h.kept.count()}
	for _, k := range h.children {
		l.Children = append(l.Children, k.list())
	}
	slices.SortFunc(l.Children, func(a, b Child) int { return strings.Compare(a.Spec.Name, b.Spec.Name) })
	return l
}

func (h *Host) setReady(c *conn) {
	if c.child == nil || c.child.ready || c.child.conn != c {
		return
	}
	c.child.ready = true
	h.event(Event{Kind: Ready, Child: c.child.spec.Name, Role: c.child.spec.Role, PID: c.pid})
}
