package host

import (
	"fmt"
	"time"
)

// greet learns who has connected: a child we know by its pid, or one that an
// earlier host started and that no ledger told of. Who gives neither role nor
// name is no child: it may ask and listen, and is not supervised.
func (h *Host) greet(c *conn, f frame, fds []int) {
	if f.Hello.Role == "" && f.Hello.Name == "" {
		closeAll(fds)
		c.meet("")
		return
	}
	k := h.byPID(c.pid)
	if k != nil && k.conn != nil { // it has lost that one; first what it said there
		k.conn.hush()
		k.conn.shutSoon()
		k.conn.then = func() { h.greet(c, f, fds) }
		return
	}
	if k == nil {
		var err error
		if k, err = h.adoptStray(c.pid, *f.Hello); err != nil {
			h.log.Warn("process refused", "pid", c.pid, "name", f.Hello.Name, "err", err)
			c.send(frame{Op: opRefuse, Err: err.Error()}, nil)
			closeAll(fds)
			return
		}
	}
	k.conn, c.child = c, k
	closeAll(k.page)
	k.page = fds
	k.hello, k.heard = *f.Hello, time.Now()
	k.hello.PID = c.pid
	c.meet(k.spec.Name)
	if f.Hello.Took {
		h.took(k, f.Hello.Name)
	}
	h.event(Event{Kind: Connected, Child: k.spec.Name, Role: k.spec.Role, PID: c.pid})
	h.save()
}

// meet lets a connection in and tells it of the recent exits.
func (c *conn) meet(name string) {
	c.welcome = true
	c.send(frame{Op: opWelcome, Name: name}, nil)
	for _, e := range c.host.exits {
		c.send(frame{Op: opExit, Exit: &e}, nil)
	}
}

func (h *Host) byPID(pid int) *child {
	for _, k := range h.children {
		if k.proc != nil && k.proc.pid == pid {
			return k
		}
	}
	return nil
}

// adoptStray supervises a process that says it is a child of ours. It takes the
// place of the child of its name when that is not running; else it may stay
// under a name of its own until it ends.
func (h *Host) adoptStray(pid int, hello Hello) (*child, error) {
	if h.closing {
		return nil, ErrClosing
	}
	p, err := watch(pid)
	if err != nil {
		return nil, err
	}
	k := h.children[hello.Name]
	if k == nil || k.proc != nil || hello.Stays {
		name := hello.Name
		if k != nil || name == "" || hello.Stays {
			name = fmt.Sprintf("%s#%d", hello.Name, pid)
		}
		k = h.add(Spec{Name: name, Role: hello.Role, Argv: []string{"?"}, Restart: Temporary})
	}
	k.void()
	k.since, k.adopted = time.Now(), true
	k.live(p)
	h.event(Event{Kind: Adopted, Child: k.spec.Name, Role: k.spec.Role, PID: pid})
	return k, nil
}
