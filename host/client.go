package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Client is a child's end of the socket. It answers pings, connects again for
// ever when the host is away, and then gives the new host what the old one kept.
// All methods may be called from any goroutine.
type Client struct {
	dir   string
	hello Hello
	log   *slog.Logger
	page  *page
	stop  context.CancelFunc
	done  chan struct{} // the run goroutine has ended
	ctx   context.Context

	// order keeps Keep, Drop and the repetition after a reconnect in one order
	// on the wire.
	order sync.Mutex
	kept  map[string]*os.File // the caller's own files; under order

	mu      sync.Mutex
	link    *link // nil: away
	yield   func(*net.UnixConn) error
	yields  sync.Mutex    // one heir after the other
	there   chan struct{} // closed while connected
	away    time.Time     // since when
	ready   bool
	seq     uint64
	waiting map[uint64]chan answer
	exits   exitLog
	news    chan struct{} // capacity 1: there is something to tell
}

type answer struct {
	frame frame
	fds   []int
	err   error
}

// Dial connects to the host of a state directory, waiting for it until ctx ends.
// The Client lives until Close, however long ctx is.
//
// Writing to a standard error that the host took with it would end the process,
// so Dial has it ignore SIGPIPE.
func Dial(ctx context.Context, dir string, hello Hello) (*Client, error) {
	signal.Ignore(syscall.SIGPIPE)
	hello.PID = os.Getpid()
	or(&hello.Name, os.Getenv(nameEnv))
	p, err := newPage()
	if err != nil {
		return nil, err
	}
	c := &Client{
		dir: dir, hello: hello, page: p, done: make(chan struct{}), log: slog.New(slog.DiscardHandler),
		kept: map[string]*os.File{}, there: make(chan struct{}), away: time.Now(),
		waiting: map[uint64]chan answer{}, news: make(chan struct{}, 1),
	}
	c.ctx, c.stop = context.WithCancel(context.Background()) //nolint:containedctx // ends the goroutines; never passed on
	go c.run()
	select {
	case <-c.connected():
		return c, nil
	case <-ctx.Done():
		c.Close()
		return nil, fmt.Errorf("%w: no host on %s: %w", ErrAway, runDir(dir), context.Cause(ctx))
	}
}

// Name is what the host calls this process: its successors have the same.
func (c *Client) Name() string { return c.hello.Name }

// SetLog has the Client tell of lost and found hosts. Call it before anything else.
func (c *Client) SetLog(log *slog.Logger) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = log
}

// Close hangs up. What the host keeps stays with it.
func (c *Client) Close() {
	c.stop()
	c.mu.Lock()
	if c.link != nil {
		_ = c.link.conn.Close()
	}
	c.mu.Unlock()
	<-c.done
	c.page.close()
}

func (c *Client) connected() chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.there
}

// run connects for ever, and delivers exits.
func (c *Client) run() {
	defer close(c.done)
	var told sync.WaitGroup
	told.Go(c.tell)
	defer told.Wait()
	const first, last = 20 * time.Millisecond, time.Second
	wait := first
	for c.ctx.Err() == nil {
		l, err := c.connect()
		if err == nil {
			wait = first
			err = c.serve(l)
			c.lost(err)
		}
		select {
		case <-c.ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, last)
	}
}

// connect says hello and waits for the welcome.
func (c *Client) connect() (l *link, err error) {
	err = withSocketPath(c.dir, func(path string) error {
		var d net.Dialer
		nc, err := d.DialContext(c.ctx, "unix", path)
		if err == nil {
			l = &link{conn: nc.(*net.UnixConn)}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if cred, err := peer(l.conn); err == nil {
		l.pid = int(cred.Pid)
	}
	cut := context.AfterFunc(c.ctx, func() { _ = l.conn.Close() })
	defer cut()
	c.mu.Lock()
	hello := c.hello
	c.mu.Unlock()
	f := frame{Op: opHello, Hello: &hello}
	err = sendFile(c.page.file, func(fd int) error { return l.write(f, []int{fd}) })
	for err == nil {
		_ = l.conn.SetReadDeadline(time.Now().Add(writeWait))
		var fds []int
		f, fds, err = l.read()
		closeAll(fds)
		if err == nil && f.Op == opWelcome {
			_ = l.conn.SetReadDeadline(time.Time{})
			return l, nil
		}
		if err == nil && f.Op == opRefuse {
			err = fmt.Errorf("%w: %s", ErrRefused, f.Err)
		}
	}
	l.close()
	c.logger().Warn("host does not take us", "err", err)
	return nil, err
}

func (c *Client) logger() *slog.Logger {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log
}

// serve repeats what must be kept, then reads until the link breaks.
func (c *Client) serve(l *link) error {
	defer l.close()
	broken := make(chan error, 1)
	go func() { broken <- c.readAll(l) }() // while we write, or both ends might wait
	c.order.Lock()
	c.mu.Lock()
	if c.ctx.Err() != nil {
		_ = l.conn.Close()
	}
	ready := c.ready
	c.link = l
	c.mu.Unlock()
	names := make([]string, 0, len(c.kept))
	for name := range c.kept {
		names = append(names, name)
	}
	slices.Sort(names)
	for block := range slices.Chunk(names, blockFDs) {
		if c.sendKept(l, block) != nil {
			break
		}
	}
	if ready {
		_ = l.write(frame{Op: opReady}, nil)
	}
	c.mu.Lock()
	close(c.there)
	c.mu.Unlock()
	c.order.Unlock()
	return <-broken
}

func (c *Client) readAll(l *link) error {
	for {
		f, fds, err := l.read()
		if err != nil {
			return err
		}
		switch f.Op {
		case opPing:
			_ = l.write(frame{Op: opPong}, nil)
		case opYield:
			c.yieldTo(f.Name, fds)
			fds = nil
		case opExit:
			if f.Exit != nil {
				c.learn(*f.Exit)
			}
		case opDone:
			c.mu.Lock() // so that no answer comes after its waiter has left
			select {
			case c.waiting[f.Seq] <- answer{frame: f, fds: fds}:
				fds = nil
			default:
			}
			c.mu.Unlock()
		}
		closeAll(fds)
	}
}

func (c *Client) lost(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link, c.there, c.away = nil, make(chan struct{}), time.Now()
	for _, ch := range c.waiting {
		select {
		case ch <- answer{err: ErrAway}:
		default:
		}
	}
	if c.ctx.Err() == nil {
		c.log.Warn("host is away, going on without", "err", err)
	}
}

// current returns the link, nil when away.
func (c *Client) current() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

// HostPID is the process at the other end, as the kernel says; 0: there is none.
func (c *Client) HostPID() int {
	if l := c.current(); l != nil {
		return l.pid
	}
	return 0
}

// sendFile lends a file's descriptor to fn without changing its mode: File.Fd
// would make it blocking, for every process that shares it.
func sendFile(f *os.File, fn func(fd int) error) (err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	ctrl := raw.Control(func(fd uintptr) { err = fn(int(fd)) })
	return errors.Join(ctrl, err)
}

// sendKept sends files of c.kept in one message; those closed meanwhile are
// left out. Call it with order held.
func (c *Client) sendKept(l *link, names []string) error {
	var sent []string
	var fds []int
	defer func() { closeAll(fds) }()
	for _, name := range names {
		err := sendFile(c.kept[name], func(fd int) error {
			dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
			if err == nil {
				sent, fds = append(sent, name), append(fds, dup)
			}
			return err
		})
		if err != nil {
			if len(names) == 1 {
				return fmt.Errorf("host: keep %s: %w", name, err)
			}
			continue
		}
	}
	if len(fds) == 0 {
		return nil
	}
	return l.write(frame{Op: opKeep, Names: sent}, fds)
}
