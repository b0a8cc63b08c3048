package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The host is replaced in place: execve keeps its pid, its children and what it
// keeps for them. The children's connections break, as when a host dies, and
// they come back to the new one; until then the kept descriptors are in its
// hands already, so a child that dies in between has a successor with sockets.

// keptEnv names the descriptor of a memory file with what is kept.
const keptEnv = "HOST_KEPT"

// handedOn is one descriptor in it.
type handedOn struct {
	Name string `json:"name"`
	Role string `json:"role"`
	FD   int    `json:"fd"`
}

// renew executes another host in this one's place, or returns why it cannot;
// then nothing has changed.
func (h *Host) renew(path string) error {
	if path == "" {
		var err error
		if path, err = os.Executable(); err != nil {
			return fmt.Errorf("host: %w", err)
		}
	}
	written := make(chan error, 1)
	h.save(func(err error) { written <- err })
	if err := <-written; err != nil { // or the next one starts others beside them
		return fmt.Errorf("host: children not written down: %w", err)
	}
	var all []handedOn
	for name, k := range h.kept.files {
		all = append(all, handedOn{name, k.role, k.fd})
	}
	list, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("host: %w", err)
	}
	fd, err := unix.MemfdCreate("host-kept", 0)
	if err != nil {
		return fmt.Errorf("host: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // of a memory file
	if _, err := unix.Pwrite(fd, list, 0); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	defer func() { _ = closeOnExec(all, true) }()
	if err := closeOnExec(all, false); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	var limit unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	err = unix.Exec(path, os.Args, append(os.Environ(), keptEnv+"="+strconv.Itoa(fd)))
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) // Exec has put back what we were started with: less than we keep
	return fmt.Errorf("host: %s: %w", path, err)
}

func closeOnExec(all []handedOn, on bool) (err error) {
	flags := 0
	if on {
		flags = unix.FD_CLOEXEC
	}
	for _, k := range all {
		_, e := unix.FcntlInt(uintptr(k.FD), unix.F_SETFD, flags)
		err = errors.Join(err, e)
	}
	return err
}

// takeKept takes over what the host before this one, in the same process, kept.
func (h *Host) takeKept() {
	value := os.Getenv(keptEnv)
	if value == "" {
		return
	}
	_ = os.Unsetenv(keptEnv)
	fd, err := strconv.Atoi(value)
	if err != nil || fd < 3 {
		return
	}
	f := os.NewFile(uintptr(fd), "host-kept")
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return
	}
	list := make([]byte, info.Size())
	var all []handedOn
	if _, err = f.ReadAt(list, 0); err == nil {
		err = json.Unmarshal(list, &all)
	}
	if err == nil {
		err = closeOnExec(all, true)
	}
	if err != nil {
		h.log.Error("what the host before kept cannot be read; the children will say it again", "err", err)
	}
	for _, k := range all {
		h.kept.keep(k.Name, k.Role, k.FD)
	}
}

// Renew has the host execute path (the same executable if "") in its own place,
// and returns when the new one is there.
func (c *Client) Renew(ctx context.Context, path string) error {
	old := c.current()
	_, err := c.call(ctx, frame{Op: opRenew, Name: path}, nil)
	if !errors.Is(err, ErrAway) || ctx.Err() != nil {
		return err // it said why not
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if l := c.current(); l != nil && l != old {
			_, err := c.List(ctx)
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrAway, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
