package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tally is a child that numbers the datagrams it answers: "<number> <pid>". Its
// count is in memory alone, so only what is handed over lets the next generation
// go on with it. fault is what goes wrong in an heir.
func tally(c *Client, dir, fault string) {
	pair, err := Heir()
	if err != nil {
		panic(err)
	}
	kept, err := c.Inherit(context.Background(), "tally/")
	if err != nil {
		panic(err)
	}
	if len(kept) == 0 {
		kept = []Kept{{"tally/0", listen(dir)}}
	}
	if err := c.KeepAll(kept[:1]); err != nil {
		panic(err)
	}
	pc, err := net.FilePacketConn(kept[0].File)
	if err != nil {
		panic(err)
	}
	var mu sync.Mutex // free while nothing has been read that is not answered; held while frozen
	count := uint64(0)
	if pair != nil {
		switch fault {
		case "early":
			os.Exit(4)
		case "deaf":
			select {}
		}
		err := TakeOver(context.Background(), pair, func(state []byte, files []Kept) error {
			switch fault {
			case "refuse":
				return errors.New("no thanks")
			case "late":
				os.Exit(5)
			case "hang":
				_ = os.WriteFile(filepath.Join(dir, "hangs"), nil, 0o600) // and its predecessor is frozen
				select {}
			}
			if len(files) != 2*blockFDs+1 {
				return fmt.Errorf("%d files", len(files))
			}
			count = binary.BigEndian.Uint64(state)
			return nil
		})
		if err != nil {
			os.Exit(6)
		}
		go func() { _ = c.Took(context.Background()) }()
	}
	yields := 0
	c.OnYield(func(pair *net.UnixConn) error {
		patience := time.Minute
		switch yields++; {
		case fault == "hasty" && yields == 1:
			patience = 200 * time.Millisecond
		case fault == "tardy" && yields == 2: // so late does the host hear of the first
			_ = c.current().write(frame{Op: opDisown, Name: "m~1"}, nil)
		}
		err := HandOver(context.Background(), pair, patience, func() ([]byte, []Kept, error) {
			_ = pc.SetReadDeadline(time.Unix(1, 0))
			mu.Lock()
			files := make([]Kept, 2*blockFDs+1)
			for i := range files {
				files[i] = Kept{fmt.Sprint("file", i), kept[0].File}
			}
			return binary.BigEndian.AppendUint64(nil, count), files, nil
		}, func() {
			_ = pc.SetReadDeadline(time.Time{})
			mu.Unlock()
		})
		if err == nil && fault == "stays" {
			c.Stays([]byte(`{"left":2}`))
			c.Stays([]byte(`{"left":1}`))
			select {}
		}
		if err == nil {
			os.Exit(0)
		}
		return err
	})
	go func() {
		b := make([]byte, 100)
		for {
			mu.Lock() // a datagram that has been read is answered, or stays in the socket
			_, from, err := pc.ReadFrom(b)
			if err == nil {
				count++
				_, _ = pc.WriteTo(fmt.Appendf(nil, "%d %d", count, os.Getpid()), from)
			}
			mu.Unlock()
		}
	}()
}

// counting asks a tally without end: the numbers must have no gap.
type counting struct {
	t    *testing.T
	conn net.Conn
	last uint64
}

func (c *counting) next() (pid int) {
	c.t.Helper()
	var n uint64
	if _, err := fmt.Sscan(echo(c.t, c.conn, "x"), &n, &pid); err != nil {
		c.t.Fatal(err)
	}
	if n != c.last+1 {
		c.t.Errorf("number %d after %d", n, c.last)
	}
	c.last = n
	return pid
}

func tallyRig(t *testing.T, fault string) (*rig, *Client, *counting, int) {
	t.Helper()
	dir := t.TempDir()
	s := spec("m", "tally", dir, fault)
	s.BackOff = 10 * time.Millisecond
	r := run(t, Config{Dir: dir, Children: []Spec{s}})
	r.await(Ready, "m")
	c, _ := observe(t, dir)
	n := &counting{t: t, conn: dialEcho(t, dir)}
	return r, c, n, n.next()
}

// awaitWork waits until m may be replaced: an heir that has taken over says a
// moment later that it is ready.
func (r *rig) awaitWork(c *Client) {
	r.t.Helper()
	for end := time.Now().Add(patient); time.Now().Before(end); {
		for _, k := range r.list(c).Children {
			if k.Spec.Name == "m" && k.Ready {
				return
			}
		}
	}
	r.t.Fatal("m is not at work")
}

func TestHeirTakesOver(t *testing.T) {
	r, _, n, old := tallyRig(t, "")
	c, exits := observe(t, r.dir)
	for range 3 {
		r.awaitWork(c)
		done := make(chan error, 1)
		go func() { done <- c.Replace(context.Background(), "m", nil) }()
		for waiting := true; waiting; {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				waiting = false
			default:
				n.next() // none is lost, none is answered twice
			}
		}
		pid := n.next()
		if pid == old {
			t.Fatal("the old one still answers")
		}
		r.await(Taken, "m")
		if e := <-exits; e.Code != 0 || e.PID != old {
			t.Errorf("%+v", e)
		}
		old = pid
		if l := r.list(c); len(l.Children) != 1 || l.Children[0].Spec.Name != "m" || l.Children[0].PID != pid || l.Children[0].Spec.Restart != Permanent || l.Children[0].Restarts != 0 {
			t.Errorf("%+v", l.Children)
		}
	}
	// It is a child like its predecessor was.
	kill(old, unix.SIGKILL)
	r.await(Restarting, "m")
	r.await(Ready, "m")
	if n.last = 0; n.next() == old {
		t.Error("answered by the dead")
	}
}

func TestHeirThatFailsLeavesTheOldOne(t *testing.T) {
	for _, fault := range []string{"early", "refuse", "late", "hang"} {
		t.Run(fault, func(t *testing.T) {
			r, c, n, old := tallyRig(t, "hasty")
			if err := c.Replace(context.Background(), "m", spec("", "tally", r.dir, fault).Argv); !errors.Is(err, ErrNotTaken) {
				t.Fatalf("%v", err)
			}
			if pid := n.next(); pid != old {
				t.Errorf("%d answers, not %d", pid, old)
			}
			if err := c.Replace(context.Background(), "m", []string{"/nowhere"}); !errors.Is(err, ErrNotTaken) {
				t.Errorf("no such executable: %v", err)
			}
			if err := c.Replace(context.Background(), "m", spec("", "tally", r.dir, "").Argv); err != nil {
				t.Errorf("the next try: %v", err)
			}
			if n.next() == old {
				t.Error("the old one still answers")
			}
		})
	}
}

// A predecessor that is slow to say that an heir gets nothing means that heir, and
// not the next one.
func TestHeirIsNotEndedForAnother(t *testing.T) {
	r, c, n, old := tallyRig(t, "tardy")
	if err := c.Replace(context.Background(), "m", spec("", "tally", r.dir, "late").Argv); !errors.Is(err, ErrNotTaken) {
		t.Fatalf("%v", err)
	}
	if err := c.Replace(context.Background(), "m", spec("", "tally", r.dir, "").Argv); err != nil {
		t.Fatalf("the next try: %v", err)
	}
	if n.next() == old {
		t.Error("the old one still answers")
	}
}

// The host may see that an heir has ended, and start another, while the predecessor
// is still about to thaw.
func TestOneHeirAfterTheOther(t *testing.T) {
	c := &Client{}
	var at atomic.Int32
	done := make(chan struct{}, 2)
	c.OnYield(func(pair *net.UnixConn) error {
		if at.Add(1) != 1 {
			t.Error("two heirs at once")
		}
		time.Sleep(20 * time.Millisecond) // for the other to begin, if it can
		at.Add(-1)
		done <- struct{}{}
		return pair.Close()
	})
	for _, heir := range []string{"m~1", "m~2"} {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Close(pair[1]) }()
		c.yieldTo(heir, pair[:1])
	}
	<-done
	<-done
}

// Whoever is killed while the state is on its way, the other one's life is as if
// there had been no heir.
func TestPredecessorKilledWhileFrozen(t *testing.T) {
	r, c, n, old := tallyRig(t, "")
	done := make(chan error, 1)
	go func() { done <- c.Replace(context.Background(), "m", spec("", "tally", r.dir, "hang").Argv) }()
	started := r.await(Started, "m~1")
	for end := time.Now().Add(patient); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(filepath.Join(r.dir, "hangs")); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal("the heir never got the state")
		}
	}
	if _, err := n.conn.Write([]byte("x")); err != nil { // it waits for who can answer
		t.Fatal(err)
	}
	kill(old, unix.SIGKILL)
	r.await(Ended, "m")
	kill(started.PID, unix.SIGKILL) // it hangs; the host would do it after heirWithin
	if err := <-done; !errors.Is(err, ErrNotTaken) {
		t.Error(err)
	}
	r.await(Ready, "m")
	_ = echo(t, n.conn, "")
}

// The host is killed while the heir takes over: who has taken over says so to the
// next host, and is what it supervises.
func TestHostKilledWhileTakingOver(t *testing.T) {
	r, c, n, old := tallyRig(t, "")
	r.cfg.Leave = true
	if err := c.Replace(context.Background(), "m", nil); err != nil {
		t.Fatal(err)
	}
	r.stop()
	pid := n.next()
	if pid == old {
		t.Fatal("the old one answers")
	}
	for born(old) != 0 { // it is on its way out
		time.Sleep(time.Millisecond)
	}
	s := spec("m", "tally", r.dir, "")
	r2 := run(t, Config{Dir: r.dir, Children: []Spec{s}})
	r2.await(Adopted, "m")
	r2.await(Ready, "m")
	if n.next() != pid {
		t.Error("another one answers")
	}
	c2, _ := observe(t, r.dir)
	if l := r2.list(c2); len(l.Children) != 1 || l.Children[0].PID != pid || l.Children[0].Spec.Name != "m" {
		t.Errorf("%+v", l.Children)
	}
}

// A process that has been replaced and says that it stays lives until its work is
// done, under any host, or until the others of its order are stopped.
func TestReplacedProcessStays(t *testing.T) {
	r, c, n, old := tallyRig(t, "stays")
	r.cfg.Leave = true
	if err := c.Replace(context.Background(), "m", nil); err != nil {
		t.Fatal(err)
	}
	second := n.next()
	name := fmt.Sprint("m#", old)
	stays := func(r *rig, c *Client) {
		t.Helper()
		for end := time.Now().Add(patient); ; {
			for _, k := range r.list(c).Children {
				if k.Spec.Name == name && k.PID == old && k.Phase == phaseRunning && k.Hello.Stays && string(k.Hello.Info) == `{"left":1}` {
					return
				}
			}
			if time.Now().After(end) {
				t.Fatalf("%+v", r.list(c).Children)
			}
		}
	}
	stays(r, c)
	ends := make(chan bool, 1) // another's end would be planned
	if !r.post(func() { k := r.children[name]; ends <- k == nil || k.timer != nil && k.timer.Stop() }) || <-ends {
		t.Error("it is to be killed")
	}
	if err := c.Replace(context.Background(), name, nil); !errors.Is(err, ErrUnknown) {
		t.Errorf("replaced once more: %v", err)
	}
	r.awaitWork(c)
	if err := c.Replace(context.Background(), "m", spec("", "tally", r.dir, "").Argv); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r2 := run(t, Config{Dir: r.dir, Children: []Spec{spec("m", "tally", r.dir, "")}})
	r2.await(Connected, name)
	c2, exits := observe(t, r.dir)
	stays(r2, c2)
	kill(second, unix.SIGKILL) // it stayed too, and is not started again
	if e := <-exits; e.PID != second {
		t.Errorf("%+v", e)
	}
	if l := r2.list(c2); len(l.Children) != 2 {
		t.Errorf("%+v", l.Children)
	}
	r2.stop()
	if born(old) != 0 {
		t.Error("it has outlived the host's end")
	}
}

// An heir may die with its last words unread: the host sees its end first, and
// then hears that it has taken over.
func TestHeirThatIsDeadTakesNothing(t *testing.T) {
	h, err := New(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := spec("m", "plain")
	s.BackOff = patient // nothing is started here
	old, k := h.add(s), h.add(spec("m~1", "plain"))
	k.phase, k.heirOf, old.heir = phaseRunning, old, k
	k.hello.Name, k.hello.Took = "m", true
	k.heirExited(ErrNotTaken) // as exited does, which has no process any more
	old.void()
	c := loneConn(t, h)
	defer c.shut()
	c.welcome, c.child = true, k
	h.take(c, frame{Op: opTook, Seq: 1}, nil)
	if len(h.children) != 1 || h.children["m"] != old || old.spec.Name != "m" {
		t.Errorf("%v", h.children)
	}
	if o := <-c.out; o.frame.Op != opDone || o.frame.Seq != 1 {
		t.Errorf("%+v", o.frame)
	}
}
