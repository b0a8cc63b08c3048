package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"callswitch/console"
	"callswitch/handoff"
)

// install copies a release's executable into the state directory and asks it
// what it is.
func (b *backend) install(ctx context.Context, path string) (handoff.Side, error) {
	var s handoff.Side
	f, err := os.Open(path)
	if err != nil {
		return s, usage("the switch cannot read the file (%v): put it where its user may, not in /tmp or /home when systemd keeps it from these", err)
	}
	defer f.Close()
	if s.Digest, err = digestOf(f); err != nil {
		return s, usage("%v", err)
	}
	s.Binary = releasePath(b.cfg.State, s.Digest)
	b.brought.Store(filepath.Base(filepath.Dir(s.Binary)), time.Now())
	copied := isCopied(f, s.Binary)
	if !copied {
		if err := copyExecutable(f, s.Binary); err != nil {
			return s, err
		}
	}
	v, err := versionOf(ctx, s.Binary)
	if err != nil {
		if !copied {
			_ = os.RemoveAll(filepath.Dir(s.Binary))
		}
		return s, console.Refused("not-a-release", path+" does not answer 'version' as a release of the switch does", "build it from this project: go build -o FILE ./cmd/switch")
	}
	s.Release, s.Schema = v.Release, v.Schema
	if floor := b.cluster().writes(); v.Schema < floor {
		return s, console.Refused("under-floor", fmt.Sprintf("%s reads schemas up to %d and the floor is %d since a rollout was finalized", v.Release, v.Schema, floor),
			"an older release cannot come back after that; push one that knows the floor")
	}
	return s, nil
}

// version is what an executable says of itself.
type version struct {
	Release string `json:"release"`
	Schema  int    `json:"schema"`
}

func versionOf(ctx context.Context, binary string) (v version, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "version", "-o", "json").Output()
	if err == nil {
		err = json.Unmarshal(out, &v)
	}
	if err == nil && (v.Release == "" || v.Schema < 1) {
		err = errors.New("no release")
	}
	return v, err
}

// isCopied reports whether the copy of f is there, and whole: a power failure
// soon after it was made may have cut it short.
func isCopied(f *os.File, to string) bool {
	want, err1 := f.Stat()
	have, err2 := os.Stat(to)
	return err1 == nil && err2 == nil && have.Mode().IsRegular() && have.Size() == want.Size()
}

func copyExecutable(f *os.File, to string) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	next, err := os.OpenFile(to+".next", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(next, f)
	if err = errors.Join(err, next.Close()); err == nil {
		err = os.Rename(to+".next", to)
	}
	if err != nil { // a full disk is not kept full
		_ = os.Remove(to + ".next")
		_ = os.Remove(filepath.Dir(to))
	}
	return err
}

// currentSide is the release that takes new calls now; the rollout leaves it.
func (b *backend) currentSide(ctx context.Context, to string) (handoff.Side, error) {
	var s handoff.Side
	for _, w := range weights(b.rollout(), b.dir.Processes()) {
		if w.Digest != to {
			s.Digest = w.Digest
			break
		}
	}
	if s.Digest == "" {
		return s, console.Refused("same-release", "that executable is the release that runs", "push another one; 'switch status' shows the digests")
	}
	for _, p := range b.dir.Processes() {
		if p.Role == "worker" && p.Digest == s.Digest {
			s.Release, s.Schema = p.Release, p.SchemaMax
		}
	}
	list, err := b.host.List(ctx)
	if err != nil {
		return s, err
	}
	for _, c := range list.Children {
		if c.Hello.Digest == s.Digest && c.Spec.Role == "worker" {
			s.Binary = c.Spec.Argv[0]
		}
	}
	return s, nil
}
