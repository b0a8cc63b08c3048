package host

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A host executes itself in its own place while its child is stopped and says
// nothing: same pid, and the sockets are there for the child's successor.
func TestHostRenewsItselfInPlace(t *testing.T) {
	dir := t.TempDir()
	host := exec.Command("sh", "-c", `ulimit -Sn 400 && exec "$0" "$@"`, self(), "host", dir) // fewer open files than are kept
	host.Env, host.Stderr = append(os.Environ(), roleEnv+"=1"), os.Stderr
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	t.Cleanup(func() {
		_ = host.Process.Kill()
		_ = host.Wait()
		if pid != 0 { // it would wait for another host
			kill(pid, unix.SIGKILL)
		}
	})
	c, exits := observe(t, dir)
	ready := func(not int) int {
		t.Helper()
		for end := time.Now().Add(patient); time.Now().Before(end); {
			l, err := c.List(context.Background())
			if err != nil {
				continue // between two hosts
			}
			for _, k := range l.Children {
				if k.Ready && k.PID != not && l.Kept["test"] == keptByEcho {
					return k.PID
				}
			}
		}
		t.Fatal("no child")
		return 0
	}
	pid = ready(0)
	conn := dialEcho(t, dir)
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	mayOpen := func() (limit unix.Rlimit) {
		t.Helper()
		if err := unix.Prlimit(host.Process.Pid, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
			t.Fatal(err)
		}
		return limit
	}
	before := mayOpen()
	if err := c.Renew(ctx, "/nowhere"); err == nil {
		t.Fatal("an executable that is not there")
	}
	if after := mayOpen(); after != before {
		t.Errorf("the host that goes on may open %+v files, and could open %+v", after, before)
	}
	if got := echo(t, conn, "still"); got != fmt.Sprintf("%d still", pid) || ready(0) != pid {
		t.Errorf("%q", got)
	}
	for range 2 {
		if err := c.Renew(ctx, ""); err != nil {
			t.Fatal(err)
		}
		if got := echo(t, conn, "on"); got != fmt.Sprintf("%d on", pid) || ready(0) != pid {
			t.Errorf("%q", got)
		}
	}
	kill(pid, unix.SIGSTOP)
	if err := c.Renew(ctx, ""); err != nil {
		t.Fatal(err)
	}
	if l, err := c.List(ctx); err != nil || l.Kept["test"] != keptByEcho {
		t.Errorf("kept %v, %v", l.Kept, err)
	}
	kill(pid, unix.SIGKILL)
	if e := <-exits; e.PID != pid || e.Signal != "killed" { // its code is known: it is still the host's child
		t.Errorf("%+v", e)
	}
	pid = ready(pid)
	if got := echo(t, conn, "again"); got != fmt.Sprintf("%d again", pid) {
		t.Errorf("%q", got)
	}
	if n := len(openFiles(t, host.Process.Pid)); n > keptByEcho+40 {
		t.Errorf("the host has %d descriptors open", n)
	}
}

func openFiles(t *testing.T, pid int) []os.DirEntry {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return fds
}
