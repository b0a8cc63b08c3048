package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// A Kept is a descriptor and its name at the host.
type Kept struct {
	Name string
	File *os.File
}

// Keep gives the host a duplicate of f's descriptor. When Keep has returned the
// duplicate outlives this process. The Client refers to f itself to repeat it to
// a later host, so f should stay open until Drop; a file that has been closed is
// left out. Names begin with a prefix that says whose they are ("media/udp-20000");
// the same name again replaces.
//
// While the host is away the files are remembered, and Keep succeeds.
func (c *Client) Keep(name string, f *os.File) error { return c.KeepAll([]Kept{{name, f}}) }

// KeepAll keeps many in few messages.
func (c *Client) KeepAll(files []Kept) error {
	c.order.Lock()
	defer c.order.Unlock()
	names := make([]string, len(files))
	for i, k := range files {
		names[i], c.kept[k.Name] = k.Name, k.File
	}
	l := c.current()
	if l == nil {
		return nil
	}
	for block := range slices.Chunk(names, blockFDs) {
		if err := c.sendKept(l, block); err != nil {
			return c.unlessAway(err)
		}
	}
	return nil
}

// unlessAway hides the error of a broken link: what was to be sent is repeated.
func (c *Client) unlessAway(err error) error {
	if errors.Is(err, os.ErrClosed) || strings.HasPrefix(err.Error(), "host: keep") {
		return err
	}
	return nil
}

// Drop has the host close what it keeps under these names. A name that is not
// kept is no error.
func (c *Client) Drop(names ...string) error {
	c.order.Lock()
	defer c.order.Unlock()
	for _, name := range names {
		delete(c.kept, name)
	}
	l := c.current()
	if l == nil {
		return nil // nobody keeps them
	}
	for block := range slices.Chunk(names, 4*blockFDs) {
		if l.write(frame{Op: opDrop, Names: block}, nil) != nil {
			return nil // the same
		}
	}
	return nil
}

// Inherit returns duplicates of everything kept under a prefix, in order of
// name. They belong to the caller; the host keeps its own until Drop. Flags
// (O_NONBLOCK) are as the predecessor left them.
//
// Keep again what is used, or a host that starts later does not get it.
func (c *Client) Inherit(ctx context.Context, prefix string) ([]Kept, error) {
	var got []Kept
	_, err := c.call(ctx, frame{Op: opInherit, Name: prefix}, func(a answer) {
		for i, fd := range a.fds {
			if i < len(a.frame.Names) {
				got = append(got, Kept{a.frame.Names[i], os.NewFile(uintptr(fd), a.frame.Names[i])})
			}
		}
	})
	if err != nil {
		for _, k := range got {
			_ = k.File.Close()
		}
		return nil, err
	}
	return got, nil
}

// Ready tells the host, and each later one, that this child does its work.
func (c *Client) Ready() {
	c.mu.Lock()
	c.ready = true
	l := c.link
	c.mu.Unlock()
	if l != nil {
		_ = l.write(frame{Op: opReady}, nil)
	}
}

// InHand notes what is being worked on (up to 120 bytes; a call's id) in memory
// that the host reads when this process dies: see Exit.InHand. 128 at a time
// are noted. Call end when it is done.
func (c *Client) InHand(what string) (end func()) { return c.page.note(what) }

// Start runs a new child. It outlives the caller.
func (c *Client) Start(ctx context.Context, s Spec) error {
	_, err := c.call(ctx, frame{Op: opStart, Spec: &s}, nil)
	return err
}

// Stop ends a child for good: SIGTERM, SIGKILL after grace (0: its own). It
// returns when the child is gone.
func (c *Client) Stop(ctx context.Context, name string, grace time.Duration) error {
	_, err := c.call(ctx, frame{Op: opStop, Name: name, Grace: grace}, nil)
	return err
}

// Restart ends a child as Stop does, and starts it again. It returns when the
// old one is gone.
func (c *Client) Restart(ctx context.Context, name string, grace time.Duration) error {
	_, err := c.call(ctx, frame{Op: opRestart, Name: name, Grace: grace}, nil)
	return err
}

// Replace has a child's place taken by its next generation, of another
// executable if argv is given, while both run, and returns when that has
// happened. An error, ErrNotTaken above all, means that the old one goes on.
func (c *Client) Replace(ctx context.Context, name string, argv []string) error {
	_, err := c.call(ctx, frame{Op: opReplace, Name: name, Spec: &Spec{Argv: argv}}, nil)
	return err
}

// OnYield has fn called, on a goroutine of its own, when an heir of this process
// runs: fn hands over by the pair, and closes it. The host may see the end of an
// heir, and start another, before fn does: it is called for that one when it has
// returned. After an error the host ends
// that heir: one that hangs would keep another from being tried. Without fn, the
// pair is closed at once and the heir ends.
func (c *Client) OnYield(fn func(pair *net.UnixConn) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.yield = fn
}

func (c *Client) yieldTo(heir string, fds []int) {
	c.mu.Lock()
	fn := c.yield
	c.mu.Unlock()
	if len(fds) != 1 || fn == nil {
		closeAll(fds)
		return
	}
	pair, err := unixConn(fds[0])
	if err != nil {
		c.logger().Error("no pair to the heir", "err", err)
		return
	}
	go func() {
		c.yields.Lock()
		err := fn(pair)
		c.yields.Unlock()
		if err == nil {
			return
		}
		if l := c.current(); l != nil {
			_ = l.write(frame{Op: opDisown, Name: heir}, nil) // it, and none that was started since
		}
	}()
}

// Took tells the host that this process, an heir, has taken over. While the host
// is away it is told with the next hello.
func (c *Client) Took(ctx context.Context) error {
	c.mu.Lock()
	c.hello.Took = true
	c.mu.Unlock()
	_, err := c.call(ctx, frame{Op: opTook}, nil)
	return err
}

// Stays tells the host that this process, whose heir has taken over, has work left
// that nobody else can do: it may live until that is done. info, as in Hello, is for
// whoever asks; say it again when it changes.
func (c *Client) Stays(info json.RawMessage) {
	c.mu.Lock()
	c.hello.Stays, c.hello.Took, c.hello.Info = true, false, info // the place is another's
	l := c.link
	c.mu.Unlock()
	if l != nil {
		_ = l.write(frame{Op: opStays, Hello: &Hello{Info: info}}, nil) // a later host hears it with the hello
	}
}

// List returns what the host runs and keeps.
func (c *Client) List(ctx context.Context) (Listing, error) {
	a, err := c.call(ctx, frame{Op: opList}, nil)
	if err != nil || a.List == nil {
		return Listing{}, err
	}
	return *a.List, nil
}

// call sends a request, waiting for a host until ctx ends, and returns the last
// answer. A request whose host goes away meanwhile fails with ErrAway: it may
// have been carried out. part gets the answers before the last.
func (c *Client) call(ctx context.Context, f frame, part func(answer)) (frame, error) {
	select {
	case <-c.connected():
	case <-c.ctx.Done():
		return frame{}, ErrAway
	case <-ctx.Done():
		return frame{}, fmt.Errorf("%w: %w", ErrAway, context.Cause(ctx))
	}
	ch := make(chan answer, 256) // parts of Inherit: 51,200 descriptors
	c.mu.Lock()
	l := c.link
	c.seq++
	f.Seq = c.seq
	c.waiting[f.Seq] = ch
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, f.Seq)
		c.mu.Unlock()
		for len(ch) > 0 {
			closeAll((<-ch).fds)
		}
	}()
	if l == nil || l.write(f, nil) != nil {
		return frame{}, ErrAway
	}
	for {
		select {
		case <-ctx.Done():
			return frame{}, fmt.Errorf("host: %s: %w", f.Op, context.Cause(ctx))
		case <-c.ctx.Done():
			return frame{}, ErrAway
		case a := <-ch:
			switch {
			case a.err != nil:
				return frame{}, a.err
			case a.frame.Err != "":
				return frame{}, remote(a.frame.Err)
			case !a.frame.More:
				return a.frame, nil
			case part != nil:
				part(a)
			default:
				closeAll(a.fds)
			}
		}
	}
}

// remote makes an error of the host's one of ours again.
func remote(text string) error {
	for _, known := range []error{ErrExists, ErrUnknown, ErrClosing, ErrConfig, ErrNotTaken} {
		if rest, ok := strings.CutPrefix(text, known.Error()); ok {
			return fmt.Errorf("%w%s", known, rest)
		}
	}
	return errors.New(text)
}
