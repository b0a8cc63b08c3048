package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A process is replaced under live work by its heir: the next generation, which
// runs beside it until it has taken over. Host and requester see this much:
//
//	requester      host            old               heir
//	   | replace --> |              |
//	   |             | spawn, with one end of a pair ->|
//	   |             | yield, the other end -> |       |
//	   |             |              | <-- their own -->|   what is handed over
//	   |             |              | ----- last word ->|   the commit: from here on
//	   |             |              | exit, or stays   |   the heir alone acts
//	   |             | <------------------------- took |
//	   | <----- done |
//
// The last word is the one commit point: it is in the pair, or it never will be.
// An heir that does not read it has taken nothing and ends; a predecessor that
// did not write it goes on, whatever became of its heir. Pair (pair.go) is that
// part of it.

// heirFD is the descriptor number of its end of the pair in an heir.
const (
	heirFD  = 3
	heirEnv = "HOST_HEIR"
)

// How long an heir may take in all, and once its predecessor has ended.
const (
	heirLimit  = 60 * time.Second
	heirWithin = 10 * time.Second
)

// ErrNotTaken: the next generation ended, or was ended, before it took over; the
// old one goes on.
var ErrNotTaken = errors.New("host: the next generation did not take over")

// replace starts an heir of k. told is called when it has taken over, or has not.
func (h *Host) replace(k *child, argv []string, told func(error)) {
	switch {
	case k.heirOf != nil || k.heir != nil:
		told(fmt.Errorf("%w: %s is being replaced already", ErrExists, k.spec.Name))
		return
	case k.phase != phaseRunning || k.conn == nil || !k.ready || k.hello.Stays:
		told(fmt.Errorf("%w: %s is not at work", ErrUnknown, k.spec.Name))
		return
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		told(fmt.Errorf("host: socket pair: %w", err))
		return
	}
	theirs := os.NewFile(uintptr(pair[1]), "heir")
	defer theirs.Close()
	s := k.spec
	if len(argv) > 0 {
		s.Argv = argv
	}
	h.heirs++
	s.Name, s.Restart = fmt.Sprintf("%s~%d", k.spec.Name, h.heirs), Temporary
	c := h.add(s)
	c.heirOf, c.told = k, told
	k.heir = c
	c.spawn(theirs)
	if c.proc == nil {
		_ = unix.Close(pair[0])
		return // it has been told
	}
	c.after(heirLimit, c.proc.kill)
	end := &keptFile{fd: pair[0]}
	end.refs.Store(1)
	k.conn.send(frame{Op: opYield, Name: s.Name}, []*keptFile{end})
}

// took gives a process, an heir, the place of its predecessor. What is left of
// that one, if anything, is a process named after its pid on its way out, or one that
// stays. A host that has
// begun since knows neither as what they are; the place is what the heir says.
// Of an heir whose end was seen before this was read, nothing is entered any more.
func (h *Host) took(k *child, place string) {
	if k.proc == nil {
		return
	}
	if k.heirOf != nil {
		place, k.heirOf.heir, k.heirOf = k.heirOf.spec.Name, nil, nil
	}
	if place == "" || k.spec.Name == place {
		return // said again
	}
	k.void() // its limit
	delete(h.children, k.spec.Name)
	old := h.children[place]
	k.spec.Name, k.spec.Restart = place, Permanent
	if old != nil {
		k.spec.Restart, k.spec.Order, k.restarts = old.spec.Restart, old.spec.Order, old.restarts
		old.void()
		if old.proc != nil {
			old.spec.Name, old.spec.Restart = fmt.Sprintf("%s#%d", place, old.proc.pid), Temporary
			old.final = true
			h.children[old.spec.Name] = old
			if !old.hello.Stays {
				old.after(old.spec.Grace, old.proc.kill)
			}
		}
	}
	h.children[place] = k
	h.event(Event{Kind: Taken, Child: place, Role: k.spec.Role, PID: k.proc.pid})
	k.tell(nil)
	h.save()
}

// stays lets a process that has been replaced live until its work is done. It is
// stopped with the others of its order.
func (h *Host) stays(k *child, info json.RawMessage) {
	first := !k.hello.Stays
	k.hello.Stays, k.hello.Info = true, info
	if !first || k.proc == nil {
		return
	}
	if k.final && k.phase == phaseRunning {
		k.void() // the end that took has planned
	}
	h.event(Event{Kind: Stays, Child: k.spec.Name, Role: k.spec.Role, PID: k.proc.pid})
}

// disown ends the heir that k did not hand over to. It may have ended by itself,
// and another have been started.
func (h *Host) disown(k *child, name string) {
	if k.heir != nil && k.heir.spec.Name == name && k.heir.proc != nil {
		k.heir.proc.kill()
	}
}

// tell answers who asked for the heir.
func (c *child) tell(err error) {
	if told := c.told; told != nil {
		c.told = nil
		told(err)
	}
}

// heirExited is the end of an heir that has taken nothing.
func (c *child) heirExited(why error) {
	h, old := c.host, c.heirOf
	delete(h.children, c.spec.Name)
	c.heirOf, old.heir = nil, nil
	c.tell(why)
	if old.proc == nil && h.children[old.spec.Name] == old { // it ended meanwhile, and nobody took over
		if h.closing {
			delete(h.children, old.spec.Name)
			return
		}
		old.restart()
	}
}

// leftHeir is the end of a process whose heir has not said yet that it took over.
func (c *child) leftHeir() {
	c.phase = phaseWaiting
	heir := c.heir
	c.after(heirWithin, func() {
		if heir.proc != nil && heir.heirOf == c {
			heir.proc.kill()
		}
	})
}

// Heir is this process's end of the pair to its predecessor; nil: it has none.
// Only the first call returns it.
func Heir() (*net.UnixConn, error) {
	if os.Getenv(heirEnv) == "" {
		return nil, nil //nolint:nilnil // most processes are nobody's heir
	}
	_ = os.Unsetenv(heirEnv)
	return unixConn(heirFD)
}

func unixConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "pair")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("host: pair: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, errors.New("host: pair: not a unix socket")
	}
	return u, nil
}
