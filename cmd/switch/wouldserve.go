package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// wouldServe asks an executable ("": the host's own) whether it would start with
// the words, environment and directory of the host that runs now. A host that
// executes what would end at once, by a line that has been written into
// switch.yaml meanwhile, takes the supervision of every call with it.
func wouldServe(ctx context.Context, pid int, binary string) error {
	proc := fmt.Sprintf("/proc/%d", pid)
	words, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	env, err2 := os.ReadFile(filepath.Join(proc, "environ"))
	dir, err3 := os.Readlink(filepath.Join(proc, "cwd"))
	own, err4 := os.Readlink(filepath.Join(proc, "exe"))
	if err := errors.Join(err, err2, err3, err4); err != nil {
		return fmt.Errorf("no host runs (its pid was %d): 'switch serve' takes over what lives", pid)
	}
	if binary == "" {
		binary = strings.TrimSuffix(own, " (deleted)")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	argv := append(split(words)[1:], "--check")
	cmd := exec.CommandContext(ctx, binary, argv...)
	cmd.Dir = dir
	cmd.Env = slices.DeleteFunc(split(env), func(v string) bool { return strings.HasPrefix(v, "HOST_KEPT=") })
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("the next host would not start: %s", strings.TrimSpace(cmp.Or(string(out), err.Error())))
	}
	return nil
}

// split reads a list of words that each end with a zero byte.
func split(words []byte) (out []string) {
	for w := range bytes.SplitSeq(bytes.TrimSuffix(words, []byte{0}), []byte{0}) {
		out = append(out, string(w))
	}
	return out
}
