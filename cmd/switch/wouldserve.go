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
	"sync"
	"time"

	"callswitch/console"
	"callswitch/handoff"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// started is how somebody started the host that runs now.
type started struct {
	pid       int
	argv, env []string
	dir       string // it ran in
	exe       string // it is
}

// hostStarted asks the kernel about the host that answers.
func (b *backend) hostStarted(ctx context.Context) (started, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := b.host.List(ctx); err != nil {
		return started{}, errNoHost
	}
	return startedAs(b.host.HostPID())
}

var errNoHost = errors.New("no host runs: 'switch serve' takes over what lives")

func startedAs(pid int) (s started, err error) {
	proc := fmt.Sprintf("/proc/%d", pid)
	words, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	env, err2 := os.ReadFile(filepath.Join(proc, "environ"))
	dir, err3 := os.Readlink(filepath.Join(proc, "cwd"))
	exe, err4 := os.Readlink(filepath.Join(proc, "exe"))
	if errors.Join(err, err2, err3, err4) != nil {
		return s, errNoHost
	}
	return started{pid, split(words), split(env), dir, strings.TrimSuffix(exe, " (deleted)")}, nil
}

// split reads a list of words that each end with a zero byte.
func split(words []byte) (out []string) {
	for w := range bytes.SplitSeq(bytes.TrimSuffix(words, []byte{0}), []byte{0}) {
		out = append(out, string(w))
	}
	return out
}

// again is the file that the same words would start next time. A host that has
// executed another release in its own place still has the old words.
func (s started) again() string {
	if file := s.argv[0]; strings.Contains(file, "/") {
		if filepath.IsAbs(file) {
			return file
		}
		return filepath.Join(s.dir, file)
	}
	for _, v := range s.env {
		if path, ok := strings.CutPrefix(v, "PATH="); ok {
			for _, dir := range filepath.SplitList(path) {
				file := filepath.Join(s.dir, dir, s.argv[0])
				if filepath.IsAbs(dir) {
					file = filepath.Join(dir, s.argv[0])
				}
				if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
					return file
				}
			}
		}
	}
	return s.exe
}

// wouldServe asks an executable ("": the host's own) whether it would start with
// the words, environment and directory of the host that runs now. A host that
// executes what would end at once, by a line that has been written into
// switch.yaml meanwhile, takes the supervision of every call with it.
func wouldServe(ctx context.Context, s started, binary string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, cmp.Or(binary, s.exe), append(s.argv[1:], "--check")...)
	cmd.Dir = s.dir
	cmd.Env = slices.DeleteFunc(s.env, func(v string) bool { return strings.HasPrefix(v, "HOST_KEPT=") })
	cmd.WaitDelay = time.Second // one that hangs in a disk does not even die
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("whether the next host would start is not known: 'serve --check' has not ended in time: %w", ctx.Err())
	case err != nil:
		return fmt.Errorf("the next host would not start: %s", strings.TrimSpace(cmp.Or(string(out), err.Error())))
	}
	return nil
}

// verbRestartable asks the api of another host what restartable says there; body:
// handoff.Side; answer: a console.Error, without a code if there is none.
const verbRestartable = "restartable"

// serveRestartable answers it.
func (b *backend) serveRestartable(ctx context.Context) error {
	_, err := b.nats.Subscribe(sessions.SubjectControl(b.id, verbRestartable), "", func(m sessions.Msg) {
		var to handoff.Side
		if m.Reply == "" || wire.Open(m.Data, &to) != nil {
			return
		}
		go func() { // it runs an executable
			no := new(console.Error)
			if err := b.restartable(ctx, to); err != nil && !errors.As(err, &no) {
				no.Code, no.Text = "serve-unknown", err.Error()
			}
			data, err := wire.Seal(no)
			if err == nil {
				err = b.nats.Publish(m.Reply, data)
			}
			if err != nil {
				b.log.Warn("order not answered", "verb", verbRestartable, "err", err)
			}
		}()
	})
	return err
}

// restartableElsewhere asks the other hosts of the cluster, as far as they run.
func (b *backend) restartableElsewhere(ctx context.Context, to handoff.Side) error {
	const insist = "; --force finalizes nevertheless"
	var mu sync.Mutex
	var refused error
	refuse := func(p sessions.Process, no console.Error) {
		mu.Lock()
		defer mu.Unlock()
		refused = console.Refused(no.Code, "host "+p.Node+": "+no.Text, no.Fix)
	}
	eachProcess(ctx, b, "api", verbRestartable, func(ctx context.Context, p sessions.Process) error {
		if p.ID == b.id {
			return nil
		}
		no, err := ask[console.Error](ctx, b.nats, sessions.SubjectControl(p.ID, verbRestartable), to)
		switch {
		case err != nil:
			refuse(p, console.Error{Code: "serve-unknown", Text: fmt.Sprintf("its api, of release %s, does not say whether 'switch serve' would start there after this: %v", p.Release, err), Fix: "try again, or start serve of release " + to.Release + " there first" + insist})
		case no.Code != "":
			refuse(p, no)
		}
		return err
	})
	return refused
}

// restartable refuses to raise the floor over the heads of those who would start
// this switch again: serve, whose executable people replace by hand, and the copy
// that its workers are started from.
func (b *backend) restartable(ctx context.Context, to handoff.Side) error {
	const insist = "; --force finalizes nevertheless"
	brought := releasePath(b.cfg.State, to.Digest) // this host's own copy
	s, err := b.hostStarted(ctx)
	if err != nil {
		return err
	}
	file := s.again()
	v, err := versionOf(ctx, file)
	switch {
	case err != nil:
		return console.Refused("serve-unknown", fmt.Sprintf("%s, from which 'switch serve' was started, does not say which release it is: after this it may not start again", file),
			fmt.Sprintf("put release %s there (cp %s %s)%s", to.Release, brought, file, insist))
	case v.Schema < to.Schema:
		return console.Refused("serve-too-old", fmt.Sprintf("%s, from which 'switch serve' was started, is release %s and reads schemas up to %d: after this it does not start again",
			file, v.Release, v.Schema), fmt.Sprintf("replace it first (cp --remove-destination %s %s)%s", brought, file, insist))
	}
	force, err := readInForce(b.cfg.State)
	if err == nil {
		err = force.isWhole()
	}
	if err != nil {
		return console.Refused("copy-broken", "a whole restart could not start workers: "+err.Error(), fmt.Sprintf("push the release again with 'switch rollout start'%s", insist))
	}
	return nil
}
