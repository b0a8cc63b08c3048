package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What a child finds in its environment: its name, and the state directory.
const (
	nameEnv = "HOST_CHILD"
	dirEnv  = "HOST_DIR"
)

// process is a running child, ours by birth or by adoption. Its end is seen
// through a pidfd in the runtime's poller, so no thread waits for it and a host
// that leaves can stop watching.
type process struct {
	pid   int
	born  uint64   // start time in clock ticks since boot: with pid, unique until the next boot
	pidfd *os.File // nonblocking
}

// spawn starts a process in a group of its own. It has no parent-death signal:
// it outlives the host.
func spawn(dir, place string, s Spec, output, pair *os.File) (*process, error) {
	cmd := exec.Command(s.Argv[0], s.Argv[1:]...) //nolint:noctx // it ends by signal, or outlives us
	cmd.Env = append(append(os.Environ(), s.Env...), nameEnv+"="+place, dirEnv+"="+dir)
	if pair != nil {
		cmd.ExtraFiles = []*os.File{pair} // the first of them is heirFD
		cmd.Env = append(cmd.Env, heirEnv+"=1")
	}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	p, err := watch(pid)
	if err != nil { // out of descriptors: an unwatched child would be worse than none
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	_ = cmd.Process.Release() // reaped by wait
	return p, nil
}

// watch opens a living process.
func watch(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("host: pidfd of %d: %w", pid, err)
	}
	return &process{pid: pid, born: born(pid), pidfd: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// wait returns the exit code and signal of the process when it has ended; ok is
// false when the watch was closed. The exit of a process that is not our child
// is known, its code is not: -1.
func (p *process) wait() (code int, sig string, ok bool) {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return 0, "", false
	}
	err = raw.Read(func(fd uintptr) bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0
	})
	if err != nil {
		return 0, "", false
	}
	var ws unix.WaitStatus
	for {
		pid, err := unix.Wait4(p.pid, &ws, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || pid != p.pid: // another's child
			return -1, "", true
		case ws.Signaled():
			return -1, ws.Signal().String(), true
		}
		return ws.ExitStatus(), "", true
	}
}

// signal reaches this process and no later one of the same number.
func (p *process) signal(sig unix.Signal) {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.PidfdSendSignal(int(fd), sig, nil, 0)
	})
}

// kill ends the process and what it started in its group. Call it before wait
// has returned: until then the number is its own.
func (p *process) kill() {
	if pgid, err := unix.Getpgid(p.pid); err == nil && pgid == p.pid {
		_ = unix.Kill(-p.pid, unix.SIGKILL)
	}
	p.signal(unix.SIGKILL)
}

func (p *process) close() { _ = p.pidfd.Close() }

// born reads field 22 of /proc/<pid>/stat; 0: no such process.
func born(pid int) uint64 {
	b, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	i := bytes.LastIndexByte(b, ')') // the command's name may hold anything
	if i < 0 {
		return 0
	}
	fields := strings.Fields(string(b[i+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return 0
	}
	n, _ := strconv.ParseUint(fields[19], 10, 64)
	return n
}

// bootID changes with each boot of the machine.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}
