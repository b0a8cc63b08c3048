package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// seen is an event and when it was: the test may be told late.
type seen struct {
	Event
	at time.Time
}

// rig is a host in this process and an eye on what it does.
type rig struct {
	*Host
	t      *testing.T
	dir    string
	events chan seen
	passed []seen // over by await
	ended  chan error
	stop   func()
}

func run(t *testing.T, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, dir: cfg.Dir, events: make(chan seen, 1000), ended: make(chan error, 1)}
	cfg.OnEvent = func(e Event) { r.events <- seen{e, time.Now()} }
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.Host = h
	go func() { r.ended <- h.Run(ctx) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(r.stop)
	return r
}

// await returns the next event of a kind of a child, passing over its others;
// those of other children wait for their await.
func (r *rig) await(kind, child string) seen {
	r.t.Helper()
	for len(r.passed) > 0 {
		i := slices.IndexFunc(r.passed, func(e seen) bool { return e.Child == child })
		if i < 0 {
			break
		}
		e := r.passed[i]
		if r.passed = slices.Delete(r.passed, i, i+1); e.Kind == kind {
			return e
		}
	}
	end := time.After(patient)
	for {
		select {
		case e := <-r.events:
			if e.Kind == kind && e.Child == child {
				return e
			}
			if e.Child != child {
				r.passed = append(r.passed, e)
			}
		case <-end:
			r.t.Fatalf("no event %s of %s", kind, child)
		}
	}
}

// observe connects as one that only asks.
func observe(t *testing.T, dir string) (*Client, chan Exit) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	c, err := Dial(ctx, dir, Hello{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	exits := make(chan Exit, 100)
	c.OnExit(func(e Exit) { exits <- e })
	return c, exits
}

func (r *rig) list(c *Client) Listing {
	r.t.Helper()
	for end := time.Now().Add(patient); ; {
		l, err := c.List(context.Background())
		if err == nil {
			return l
		}
		if !errors.Is(err, ErrAway) || time.Now().After(end) { // it may not have noticed yet that a host has gone
			r.t.Fatal(err)
		}
	}
}

// awaitKept waits until the host keeps n descriptors for the children.
func (r *rig) awaitKept(c *Client, n int) {
	r.t.Helper()
	var l Listing
	for end := time.Now().Add(patient); time.Now().Before(end); {
		if l = r.list(c); l.Kept["test"] == n {
			return
		}
	}
	r.t.Errorf("kept %v, want %d", l.Kept, n)
}

func kill(pid int, sig unix.Signal) { _ = unix.Kill(pid, sig) }

func TestCrashRestartBackOff(t *testing.T) {
	dir := t.TempDir()
	s := spec("bad", "crash")
	s.BackOff, s.MaxBackOff = 20*time.Millisecond, 50*time.Millisecond
	r := run(t, Config{Dir: dir, Children: []Spec{s, spec("good", "plain")}, Intensity: 4, Period: time.Minute, GiveUp: 300 * time.Millisecond})
	for i, want := range []time.Duration{20, 40, 50, 50} {
		if e := r.await(Ended, "bad"); e.Exit.Code != 3 || e.Exit.Signal != "" {
			t.Errorf("exit %+v, want code 3", *e.Exit)
		}
		if e := r.await(Restarting, "bad"); e.Wait != want*time.Millisecond {
			t.Errorf("restart %d waits %v, want %v ms", i, e.Wait, want)
		}
	}
	given := r.await(GivenUp, "bad").at
	if waited := r.await(Started, "bad").at.Sub(given); waited < 300*time.Millisecond {
		t.Errorf("started again %v after it was given up", waited)
	}
	// The others have not noticed.
	c, _ := observe(t, dir)
	for _, k := range r.list(c).Children {
		if k.Spec.Name == "good" && (k.Phase != phaseRunning || k.Restarts != 0) {
			t.Errorf("good: %+v", k)
		}
	}
}

// Who was at work is missed: its successor does not wait, the next one does.
func TestWhoIsMissedIsStartedAtOnce(t *testing.T) {
	s := spec("m", "plain")
	s.BackOff, s.MaxBackOff, s.Healthy = 20*time.Millisecond, 50*time.Millisecond, time.Hour
	r := run(t, Config{Dir: t.TempDir(), Children: []Spec{s}, Period: time.Hour})
	for i, want := range []time.Duration{0, 20, 40, 50} {
		kill(r.await(Ready, "m").PID, unix.SIGKILL)
		if e := r.await(Restarting, "m"); e.Wait != want*time.Millisecond {
			t.Errorf("restart %d waits %v, want %v ms", i, e.Wait, want)
		}
	}
}

func TestRestartPolicies(t *testing.T) {
	dir := t.TempDir()
	temporary, done, failed := spec("temporary", "crash"), spec("done", "leave"), spec("failed", "crash")
	temporary.Restart, done.Restart, failed.Restart = Temporary, Transient, Transient
	r := run(t, Config{Dir: dir, Children: []Spec{temporary, done, failed}})
	r.await(Restarting, "failed")
	r.await(Ended, "temporary")
	r.await(Ended, "done")
	c, _ := observe(t, dir)
	if l := r.list(c); len(l.Children) != 1 || l.Children[0].Spec.Name != "failed" {
		t.Errorf("left: %+v", l.Children)
	}
}

func TestExitIsReportedAtOnce(t *testing.T) {
	dir := t.TempDir()
	r := run(t, Config{Dir: dir, Children: []Spec{spec("w", "inhand")}})
	pid := r.await(Ready, "w").PID
	_, exits := observe(t, dir)
	kill(pid, unix.SIGKILL)
	e := <-exits
	if e.Name != "w" || e.Role != "test" || e.PID != pid || e.Signal != "killed" || e.Code != -1 || e.ID != fmt.Sprint("id-", pid) {
		t.Errorf("%+v", e)
	}
	if len(e.InHand) != 1 || e.InHand[0] != "call-1" {
		t.Errorf("in hand %q, want call-1 only: call-2 was over", e.InHand)
	}
	next := r.await(Ready, "w").PID
	_, later := observe(t, dir)
	if again := <-later; again.PID != e.PID || again.Seq != e.Seq {
		t.Errorf("one that connects later hears of %+v", again)
	}
	// Seen by a look once a second, this one, killed soon after such a look, and
	// those after it would be reported late. One that is not shows that none is
	// looked for; a busy machine may be late with one or two.
	var took time.Duration
	for range 4 {
		killed := time.Now()
		kill(next, unix.SIGKILL)
		<-exits
		if took = time.Since(killed); took < 500*time.Millisecond {
			return
		}
		next = r.await(Ready, "w").PID
	}
	t.Errorf("reported after %v", took)
}

// echo sends a datagram and returns what comes back.
func echo(t *testing.T, c net.Conn, say string) string {
	t.Helper()
	if say != "" {
		if _, err := c.Write([]byte(say)); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(patient))
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestKeptSocketReachesTheSuccessor(t *testing.T) {
	dir := t.TempDir()
	s := spec("m", "echo", dir)
	s.BackOff = 200 * time.Millisecond
	r := run(t, Config{Dir: dir, Children: []Spec{s}})
	pid := r.await(Ready, "m").PID
	obs, exits := observe(t, dir)
	conn := dialEcho(t, dir)
	if got := echo(t, conn, "one"); got != fmt.Sprintf("%d one", pid) {
		t.Fatalf("got %q", got)
	}
	if l := r.list(obs); l.Kept["test"] != keptByEcho {
		t.Errorf("kept %v, want %d by role test", l.Kept, keptByEcho)
	}
	kill(pid, unix.SIGKILL)
	<-exits
	for i := range 5 { // nobody reads: the kernel queues
		if _, err := fmt.Fprintf(conn, "queued %d", i); err != nil {
			t.Fatalf("the port is closed: %v", err)
		}
	}
	next := r.await(Ready, "m").PID
	for i := range 5 {
		if got := echo(t, conn, ""); got != fmt.Sprintf("%d queued %d", next, i) {
			t.Errorf("got %q", got)
		}
	}
	if got := echo(t, conn, "drop"); got != "dropped" {
		t.Errorf("got %q", got)
	}
	r.awaitKept(obs, 0)
}

func TestHostKilledAndAdoption(t *testing.T) {
	dir := t.TempDir()
	host := exec.Command(self(), "host", dir)
	host.Env, host.Stderr = append(os.Environ(), roleEnv+"=1"), os.Stderr
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	first, exits := observe(t, dir)
	var pid int
	for pid == 0 {
		l, err := first.List(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range l.Children {
			if k.Ready && l.Kept["test"] == keptByEcho {
				pid = k.PID
			}
		}
	}
	conn := dialEcho(t, dir)
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = host.Wait()
	if got := echo(t, conn, "alone"); got != fmt.Sprintf("%d alone", pid) {
		t.Errorf("without a host: %q", got)
	}

	r := run(t, Config{Dir: dir, Children: []Spec{spec("m", "echo", dir)}})
	if e := r.await(Adopted, "m"); e.PID != pid {
		t.Errorf("adopted %d, not %d", e.PID, pid)
	}
	r.await(Ready, "m")
	if l := r.list(first); len(l.Children) != 1 || l.Children[0].PID != pid || !l.Children[0].Adopted || l.Kept["test"] != keptByEcho {
		t.Errorf("%+v", l)
	}
	kill(pid, unix.SIGKILL)
	if e := <-exits; e.PID != pid || e.ID != fmt.Sprint("id-", pid) || e.Name != "m" {
		t.Errorf("%+v", e)
	}
	next := r.await(Ready, "m").PID
	if got := echo(t, conn, "again"); next == pid || got != fmt.Sprintf("%d again", next) {
		t.Errorf("successor %d of %d answers %q", next, pid, got)
	}
}

func TestLeaveAndDeathsWithoutAHost(t *testing.T) {
	dir := t.TempDir()
	specs := []Spec{spec("a", "plain"), spec("b", "plain")}
	r := run(t, Config{Dir: dir, Children: specs, Leave: true})
	a, b := r.await(Ready, "a").PID, r.await(Ready, "b").PID
	r.stop()
	kill(b, unix.SIGKILL)
	for born(b) != 0 {
		time.Sleep(time.Millisecond) // no parent tells: a zombie counts as gone
	}
	r = run(t, Config{Dir: dir, Children: specs})
	if e := r.await(Ended, "b"); e.Exit.ID != fmt.Sprint("id-", b) {
		t.Errorf("%+v", e.Exit)
	}
	if e := r.await(Started, "b"); e.PID == b {
		t.Errorf("%+v", e)
	}
	obs, _ := observe(t, dir)
	for _, k := range r.list(obs).Children {
		if k.Spec.Name == "a" && k.PID != a {
			t.Errorf("a was started again: %+v", k)
		}
	}
	var ws unix.WaitStatus
	_, _ = unix.Wait4(b, &ws, 0, nil)
}

func TestHungIsKilledAndWaitedFor(t *testing.T) {
	dir := t.TempDir()
	s := spec("m", "plain")
	s.Silent = 3 * time.Second // pings are a second apart
	r := run(t, Config{Dir: dir, Children: []Spec{s}})
	pid := r.await(Ready, "m").PID
	kill(pid, unix.SIGSTOP)
	stopped := time.Now()
	if e := r.await(Hung, "m"); e.PID != pid || time.Since(stopped) < time.Second {
		t.Errorf("%+v after %v", e, time.Since(stopped))
	}
	if e := r.await(Ended, "m"); e.Exit.Signal != "killed" {
		t.Errorf("%+v", e.Exit)
	}
	e := r.await(Started, "m")
	if born(pid) != 0 || e.PID == pid {
		t.Errorf("successor %d started while %d lived", e.PID, pid)
	}
}

func TestShortSilenceIsForgiven(t *testing.T) {
	s := spec("w", "plain")
	s.Silent = patient / 2
	r := run(t, Config{Dir: t.TempDir(), Children: []Spec{s}})
	pid := r.await(Ready, "w").PID
	kill(pid, unix.SIGSTOP)
	time.Sleep(2 * time.Second) // the silence is what is tested
	kill(pid, unix.SIGCONT)
	select {
	case e := <-r.events:
		t.Errorf("%+v", e)
	case <-time.After(300 * time.Millisecond):
	}
}

func TestRequests(t *testing.T) {
	dir := t.TempDir()
	r := run(t, Config{Dir: dir, Children: []Spec{spec("w", "plain")}})
	old := r.await(Ready, "w").PID
	c, _ := observe(t, dir)
	ctx := context.Background()
	if err := c.Start(ctx, spec("w", "plain")); !errors.Is(err, ErrExists) {
		t.Errorf("start of a name in use: %v", err)
	}
	if err := c.Start(ctx, Spec{Name: "x"}); !errors.Is(err, ErrConfig) {
		t.Errorf("start without a command: %v", err)
	}
	if err := c.Stop(ctx, "nobody", 0); !errors.Is(err, ErrUnknown) {
		t.Errorf("stop of nobody: %v", err)
	}
	if err := c.Start(ctx, spec("x", "deaf")); err != nil {
		t.Fatal(err)
	}
	r.await(Ready, "x")
	began := time.Now()
	if err := c.Stop(ctx, "x", 200*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 150*time.Millisecond {
		t.Errorf("a child deaf to SIGTERM was gone after %v", took)
	}
	if e := r.await(Ended, "x"); e.Exit.Signal != "killed" {
		t.Errorf("%+v", e.Exit)
	}
	if err := c.Restart(ctx, "w", patient); err != nil {
		t.Fatal(err)
	}
	if e := r.await(Ended, "w"); e.Exit.Code != 0 || e.PID != old {
		t.Errorf("%+v", e.Exit)
	}
	if e := r.await(Ready, "w"); e.PID == old {
		t.Errorf("%+v", e)
	}
	if l := r.list(c); len(l.Children) != 1 {
		t.Errorf("%+v", l.Children)
	}
}

func TestStopInOrder(t *testing.T) {
	dir := t.TempDir()
	r := run(t, Config{Dir: dir, Children: []Spec{spec("first", "plain"), spec("last", "plain")}})
	r.await(Ready, "first")
	c, _ := observe(t, dir)
	for _, k := range r.list(c).Children {
		if k.Spec.Order != 1 { // one role: together
			t.Errorf("%s has order %d", k.Spec.Name, k.Spec.Order)
		}
	}
	late := spec("late", "plain")
	late.Order = 7
	if err := c.Start(context.Background(), late); err != nil {
		t.Fatal(err)
	}
	r.await(Ready, "late")
	r.stop()
	close(r.events)
	var order []string
	for e := range r.events {
		if e.Kind == Ended {
			order = append(order, e.Child)
		}
	}
	if len(order) != 3 || order[0] != "late" {
		t.Errorf("ended in the order %v", order)
	}
}

// The path of this one is longer than a socket's address may be.
func TestOneHostOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	r := run(t, Config{Dir: dir, Children: []Spec{spec("w", "plain")}})
	r.await(Ready, "w")
	h, err := New(Config{Dir: dir, Begin: func() error { t.Error("the second host touches what is not its own"); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Run(context.Background()); !errors.Is(err, ErrRunning) {
		t.Errorf("a second host: %v", err)
	}
}

// A process of another user gets no word, wherever the socket's mode lets it in.
func TestOtherUserIsRefused(t *testing.T) {
	if trusted(1001, 1000) || !trusted(1000, 1000) || !trusted(0, 1000) {
		t.Error("trusted: only the own user and root")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become another user")
	}
	dir, err := os.MkdirTemp("/tmp", "host") // above it all may be searched
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := run(t, Config{Dir: dir, Children: []Spec{spec("w", "plain")}})
	r.await(Ready, "w")
	path := filepath.Join(dir, "run", "host.sock")
	for p, mode := range map[string]os.FileMode{dir: 0o755, filepath.Dir(path): 0o755, path: 0o666} {
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	result := make(chan string)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, with its user, ends with the goroutine
		result <- func() string {
			const nobody = 65534
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); e != 0 {
				return e.Error()
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err.Error()
			}
			defer func() { _ = unix.Close(fd) }()
			if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
				return err.Error()
			}
			_, _ = unix.Write(fd, []byte(`{"op":"hello","hello":{}}`+"\n"))
			b := make([]byte, 100)
			n, err := unix.Read(fd, b)
			return strings.TrimSpace(fmt.Sprint(n <= 0, " ", err == nil || errors.Is(err, unix.ECONNRESET)))
		}()
	}()
	if got := <-result; got != "true true" {
		t.Errorf("another user: %s", got)
	}
}

func TestGarbageOnTheSocket(t *testing.T) {
	dir := t.TempDir()
	r := run(t, Config{Dir: dir, Children: []Spec{spec("w", "plain")}})
	r.await(Ready, "w")
	for _, say := range []string{
		"\n", "{}\n", `{"op":"keep","fds":3}` + "\n", `{"op":"hello","fds":-1}` + "\n", `{"op":"hello","hello":null}` + "\n", "null\n",
		`{"op":"hello","hello":{}}` + "\n" + `{"op":"start"}` + "\n" + `{"op":"keep","names":["a"]}` + "\n" + `{"op":"x"}` + "\n", strings.Repeat("x", 2<<20),
	} {
		c, err := net.Dial("unix", filepath.Join(dir, "run", "host.sock"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(say))
		_ = c.Close()
	}
	c, _ := observe(t, dir)
	if l := r.list(c); len(l.Children) != 1 || l.Children[0].Phase != phaseRunning || len(l.Kept) != 0 {
		t.Errorf("%+v", l)
	}
}

// loneConn is a connection to a host that does not run.
func loneConn(t *testing.T, h *Host) *conn {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(pair[1]) })
	nc, err := unixConn(pair[0])
	if err != nil {
		t.Fatal(err)
	}
	return newConn(h, nc, 1)
}

// What is sent to a connection that has just ended holds no descriptor open: a
// socket that is dropped would keep its port.
func TestGoneConnectionHoldsNoDescriptor(t *testing.T) {
	c := loneConn(t, &Host{log: slog.New(slog.DiscardHandler)})
	c.shut()
	c.writeLoop()
	k := &keptFile{fd: -1}
	k.refs.Store(1)
	for range 20 { // queued behind the writer's back or not, as the runtime likes
		k.refs.Add(1)
		c.send(frame{Op: opDone}, []*keptFile{k})
	}
	if n := k.refs.Load(); n != 1 {
		t.Errorf("%d references are left behind", n-1)
	}
}
