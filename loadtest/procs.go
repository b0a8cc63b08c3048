package loadtest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Digest is the SHA-256 of a process's executable, in lower-case hex.
func Digest(pid int) (string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return "", fmt.Errorf("loadtest: %w", err)
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("loadtest: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// UDPPorts returns the local UDP ports of a process: every socket that it has
// a descriptor of, by inode (proc(5), /proc/net/udp).
func UDPPorts(pid int) (map[int]bool, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/udp", pid))
	if err != nil {
		return nil, fmt.Errorf("loadtest: %w", err)
	}
	port := map[string]int{}
	for i, l := range strings.Split(string(b), "\n") {
		f := strings.Fields(l)
		if i == 0 || len(f) < 10 {
			continue
		}
		_, hex, _ := strings.Cut(f[1], ":")
		p, err := strconv.ParseUint(hex, 16, 16)
		if err == nil {
			port["socket:["+f[9]+"]"] = int(p)
		}
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("loadtest: %w", err)
	}
	out := map[int]bool{}
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil {
			if p, ok := port[to]; ok {
				out[p] = true
			}
		}
	}
	return out, nil
}

// Usage is what a set of processes has used.
type Usage struct {
	CPU float64 // seconds, user and system
	PSS int     // kB
	FDs int
}

// clockTicks is USER_HZ, 100 on every Linux that Go runs on.
const clockTicks = 100

// UsageOf adds up the CPU time, proportional memory and descriptors of pids.
// A process that has gone counts as nothing.
func UsageOf(pids []int) (u Usage) {
	for _, pid := range pids {
		if s, err := readStat(pid); err == nil {
			u.CPU += s.cpu
		}
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		for _, l := range strings.Split(string(b), "\n") {
			if f := strings.Fields(l); len(f) > 1 && f[0] == "Pss:" {
				n, _ := strconv.Atoi(f[1])
				u.PSS += n
			}
		}
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		u.FDs += len(fds)
	}
	return u
}

type procStat struct {
	ppid  int
	state byte    // R, S, D, T, Z, …
	cpu   float64 // seconds
	kids  float64 // seconds of those that it has waited for, and of theirs
	start uint64  // ticks since boot: tells a re-used pid
}

var errStat = errors.New("loadtest: odd /proc/pid/stat")

func readStat(pid int) (s procStat, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, err
	}
	i := strings.LastIndexByte(string(b), ')') // the name may hold anything
	if i < 0 {
		return s, errStat
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 20 {
		return s, errStat
	}
	s.state = f[0][0]
	s.ppid, _ = strconv.Atoi(f[1])
	u, _ := strconv.ParseUint(f[11], 10, 64)
	k, _ := strconv.ParseUint(f[12], 10, 64)
	s.cpu = float64(u+k) / clockTicks
	u, _ = strconv.ParseUint(f[13], 10, 64)
	k, _ = strconv.ParseUint(f[14], 10, 64)
	s.kids = float64(u+k) / clockTicks
	s.start, _ = strconv.ParseUint(f[19], 10, 64)
	return s, nil
}

// Alive reports whether a process runs or is stopped (a zombie is dead).
func Alive(pid int) bool {
	s, err := readStat(pid)
	return err == nil && s.state != 'Z' && s.state != 'X'
}
