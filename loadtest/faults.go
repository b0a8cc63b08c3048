package loadtest

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// RoleHost and its children, as /v1/processes names them.
const (
	RoleHost   = "host"
	RoleNATS   = "nats"
	RoleEdge   = "edge"
	RoleMedia  = "media"
	RoleWorker = "worker"
	RoleAPI    = "api"
)

// ErrNoProcess: no process has that role.
var ErrNoProcess = fmt.Errorf("loadtest: no such process")

// Find returns the processes of a role; workers that own most calls first is
// not promised, order is the API's.
func (s *Switch) Find(ctx context.Context, role string) (out []Process, err error) {
	ps, err := s.Processes(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range ps {
		if p.Role == role && Alive(p.PID) {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoProcess, role)
	}
	return out, nil
}

// Kill is kill -9 of one process.
func (s *Switch) Kill(p Process) error { return s.signal(p, syscall.SIGKILL) }

// Freeze is SIGSTOP: the process is there and does nothing.
func (s *Switch) Freeze(p Process) error { return s.signal(p, syscall.SIGSTOP) }

// Wake is SIGCONT.
func (s *Switch) Wake(p Process) error { return s.signal(p, syscall.SIGCONT) }

func (s *Switch) signal(p Process, sig syscall.Signal) error {
	s.mu.Lock()
	start, ok := s.seen[p.PID]
	s.mu.Unlock()
	st, err := readStat(p.PID)
	if err != nil || !ok || st.start != start {
		return fmt.Errorf("%w: %s %d has gone", ErrNoProcess, p.Role, p.PID)
	}
	if err := syscall.Kill(p.PID, sig); err != nil {
		return fmt.Errorf("loadtest: %w", err)
	}
	return nil
}

// Successor waits until a process of the role lives whose pid is not among old.
func (s *Switch) Successor(ctx context.Context, role string, old ...Process) (Process, error) {
	for {
		ps, err := s.Find(ctx, role)
		for _, p := range ps {
			isOld := false
			for _, o := range old {
				isOld = isOld || o.PID == p.PID
			}
			if !isOld {
				return p, nil
			}
		}
		if !pause(ctx, 20*time.Millisecond) {
			return Process{}, fmt.Errorf("loadtest: no successor of %s: %w (%w)", role, ctx.Err(), err)
		}
	}
}
