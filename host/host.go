package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pingEvery is how often children are asked whether they live.
const pingEvery = time.Second

// rememberExits is how many exits a child that connects is told of.
const rememberExits = 128

// A Host supervises the children of one state directory. All its state belongs
// to the goroutine of Run; everybody else posts functions to it.
type Host struct {
	cfg   Config
	log   *slog.Logger
	inbox chan func()
	done  chan struct{} // closed when nothing is taken from inbox any more
	wg    sync.WaitGroup

	// Of Run's goroutine.
	children map[string]*child
	conns    map[*conn]struct{}
	kept     keptFiles
	exits    []Exit
	exitSeq  uint64
	orders   map[string]int // default shutdown order by role
	heirs    uint64         // that were ever started, for their names
	closing  bool
	lastTick time.Time
	scribe   *scribe
}

// New checks the configuration; nothing runs yet.
func New(cfg Config) (*Host, error) {
	if cfg.Dir == "" {
		return nil, fmt.Errorf("%w: no state directory", ErrConfig)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	cfg.Dir = dir
	or(&cfg.Intensity, 10)
	or(&cfg.Period, time.Minute)
	or(&cfg.GiveUp, 30*time.Second)
	if cfg.MaxKept == 0 {
		var lim unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &lim)
		n := int(min(lim.Cur, 1<<30))
		cfg.MaxKept = max(64, n/2, n-512)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	h := &Host{
		cfg: cfg, log: cfg.Log, inbox: make(chan func()), done: make(chan struct{}),
		children: map[string]*child{}, conns: map[*conn]struct{}{}, orders: map[string]int{},
		kept: keptFiles{files: map[string]*keptFile{}, limit: cfg.MaxKept}, scribe: newScribe(cfg.Dir, cfg.Log),
	}
	seen := map[string]bool{}
	for i, s := range cfg.Children {
		s = s.withDefaults()
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrConfig, err)
		}
		if seen[s.Name] {
			return nil, fmt.Errorf("%w: two children are called %s", ErrConfig, s.Name)
		}
		seen[s.Name] = true
		if _, known := h.orders[s.Role]; !known {
			h.orders[s.Role] = i + 1
		}
	}
	return h, nil
}

// Run supervises until ctx ends, then stops the children in their order (or
// leaves them, Config.Leave) and returns nil. Call it once.
//
// Whoever reads our log may end before us, and a line that nobody reads is no
// reason to end: Run has the process ignore SIGPIPE, as Dial does.
func (h *Host) Run(ctx context.Context) error {
	signal.Ignore(syscall.SIGPIPE)
	if err := os.MkdirAll(runDir(h.cfg.Dir), 0o700); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	lock, err := lockRun(h.cfg.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if h.cfg.Begin != nil {
		if err := h.cfg.Begin(); err != nil {
			return err
		}
	}
	listener, err := h.listen()
	if err != nil {
		return err
	}
	h.wg.Go(h.scribe.run)
	h.begin()
	h.wg.Go(func() { h.accept(listener) })
	h.loop(ctx)

	close(h.done)
	close(h.scribe.next)
	_ = listener.Close()
	for c := range h.conns {
		c.shut()
	}
	for _, c := range h.children {
		c.forget()
	}
	h.kept.closeAll()
	h.wg.Wait()
	return nil
}

// lockRun lets one host run on a state directory. The kernel frees the lock of
// one that was killed.
func lockRun(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(runDir(dir), "host.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%w (%s)", ErrRunning, dir)
	}
	return f, nil
}

func (h *Host) listen() (l *net.UnixListener, err error) {
	err = withSocketPath(h.cfg.Dir, func(path string) error {
		_ = os.Remove(path) // of a host that was killed: we hold the lock
		if l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
			return err
		}
		l.SetUnlinkOnClose(false) // the next host's Remove does it; by then the path may be its own
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	return l, nil
}

// begin takes back what an earlier host left running and starts the rest.
func (h *Host) begin() {
	h.takeKept()
	alive, dead := readLedger(h.cfg.Dir)
	specs := map[string]Spec{}
	for _, s := range h.cfg.Children {
		specs[s.Name] = s
	}
	for _, r := range alive {
		spec := r.Spec
		if s, ok := specs[spec.Name]; ok {
			spec = s // its successor is started from today's
		}
		c := h.add(spec)
		p, err := watch(r.PID)
		if err != nil {
			dead = append(dead, r)
			continue
		}
		c.since, c.hello.ID, c.adopted = r.Since, r.ID, true
		c.live(p)
		h.event(Event{Kind: Adopted, Child: c.spec.Name, Role: c.spec.Role, PID: r.PID})
	}
	for _, r := range dead {
		_, _ = unix.Wait4(r.PID, nil, unix.WNOHANG, nil) // our own, if this host took another one's place
		h.report(Exit{Name: r.Spec.Name, Role: r.Spec.Role, ID: r.ID, PID: r.PID, Code: -1, At: time.Now()})
		if _, ok := specs[r.Spec.Name]; !ok && r.Spec.Restart != Temporary && r.Spec.check() == nil && (h.cfg.Restore == nil || h.cfg.Restore(r.Spec)) {
			h.add(r.Spec).start() // a child that somebody started by Client.Start
		}
	}
	for _, s := range h.cfg.Children {
		c := h.children[s.Name]
		if c == nil {
			c = h.add(s)
		}
		if c.proc == nil {
			c.start()
		}
	}
	h.save()
}

// add makes a child, not yet running.
func (h *Host) add(s Spec) *child {
	s = s.withDefaults()
	or(&s.Order, h.orders[s.Role])
	c := &child{host: h, spec: s, phase: phaseWaiting}
	h.children[s.Name] = c
	return c
}

func (h *Host) loop(ctx context.Context) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	stop := ctx.Done()
	for {
		select {
		case fn := <-h.inbox:
			fn()
		case <-tick.C:
			h.tick(time.Now())
		case <-stop:
			if stop = nil; h.cfg.Leave {
				return
			}
			h.closing = true
		}
		if h.closing && h.stopNext() {
			return
		}
	}
}

// stopNext stops the children of the highest order that is left; true: none is.
func (h *Host) stopNext() bool {
	highest := 0
	for _, c := range h.children {
		highest = max(highest, c.spec.Order)
	}
	for _, c := range h.children {
		if c.spec.Order == highest {
			c.stop(c.spec.Grace, nil)
		}
	}
	return len(h.children) == 0
}

// tick pings, and ends those that have not answered for too long. After a pause
// of the host itself (stopped, a sleeping machine) nobody is blamed for it.
func (h *Host) tick(now time.Time) {
	paused := !h.lastTick.IsZero() && now.Sub(h.lastTick) > 3*pingEvery
	h.lastTick = now
	for _, c := range h.children {
		c.checkHung(now, paused)
	}
	for c := range h.conns {
		c.send(frame{Op: opPing}, nil)
	}
}

// report tells everybody of an exit.
func (h *Host) report(e Exit) {
	h.exitSeq++
	e.Seq = h.exitSeq
	h.exits = append(h.exits, e)
	if len(h.exits) > rememberExits {
		h.exits = h.exits[1:]
	}
	for c := range h.conns {
		if c.welcome {
			c.send(frame{Op: opExit, Exit: &e}, nil)
		}
	}
	h.event(Event{Kind: Ended, Child: e.Name, Role: e.Role, PID: e.PID, Exit: &e})
}

func (h *Host) event(e Event) {
	level := slog.LevelInfo
	attrs := []any{"child", e.Child}
	if e.PID != 0 {
		attrs = append(attrs, "pid", e.PID)
	}
	if e.Exit != nil {
		attrs = append(attrs, "code", e.Exit.Code, "signal", e.Exit.Signal, "in_hand", e.Exit.InHand)
	}
	if e.Wait != 0 {
		attrs = append(attrs, "wait", e.Wait)
	}
	if e.Err != nil {
		attrs = append(attrs, "err", e.Err)
	}
	switch e.Kind {
	case GivenUp, Failed:
		level = slog.LevelError
	case Hung, Restarting:
		level = slog.LevelWarn
	}
	h.log.Log(context.Background(), level, "child "+e.Kind, attrs...)
	if h.cfg.OnEvent != nil {
		h.cfg.OnEvent(e)
	}
}

// save has the ledger written; then are told when it is, on another goroutine.
func (h *Host) save(then ...func(error)) {
	var rows []ledgerRow
	for _, c := range h.children {
		if c.proc != nil {
			rows = append(rows, ledgerRow{Spec: c.spec, PID: c.proc.pid, Born: c.proc.born, ID: c.hello.ID, Since: c.since})
		}
	}
	h.scribe.put(entry{rows, then})
}

// post runs fn on Run's goroutine; false: Run is over.
func (h *Host) post(fn func()) bool {
	select {
	case h.inbox <- fn:
		return true
	case <-h.done:
		return false
	}
}

func (h *Host) accept(l *net.UnixListener) {
	for {
		nc, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			h.log.Error("connection of a child not accepted", "err", err)
			select {
			case <-h.done:
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		cred, err := peer(nc)
		if err != nil || !trusted(cred.Uid, os.Geteuid()) {
			h.log.Warn("connection refused: a process of another user", "cred", cred, "err", err)
			_ = nc.Close()
			continue
		}
		c := newConn(h, nc, int(cred.Pid))
		if !h.post(func() { h.conns[c] = struct{}{} }) {
			_ = nc.Close()
			return
		}
		h.wg.Go(c.writeLoop)
		h.wg.Go(c.readLoop)
	}
}

// trusted: a child runs as the host does; root may do anything anyway.
func trusted(uid uint32, own int) bool { return uid == 0 || int(uid) == own }
