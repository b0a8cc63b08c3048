package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"callswitch/codecore"
	"callswitch/handoff"
)

// inForceFile, in the state directory, says which release's workers a whole
// restart starts. Its JSON names are stored: never rename.
const inForceFile = "release.json"

// inForce is the release that a node's workers are of.
type inForce struct {
	Release string `json:"release"`
	Digest  string `json:"digest"`
	Schema  int    `json:"schema"`
	Binary  string `json:"binary"`            // under <state>/releases: it outlives the file it came from
	Serve   string `json:"serve"`             // digest of the executable that serve ran as
	Rollout string `json:"rollout,omitempty"` // the last one that put its release in force
	Undone  string `json:"undone,omitempty"`  // the last one of those that was taken back
	Floor   int    `json:"floor,omitempty"`   // of the schema, as far as rollouts here have raised it
}

func readInForce(state string) (f inForce, err error) {
	raw, err := os.ReadFile(filepath.Join(state, inForceFile))
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &f)
	}
	if err != nil {
		return f, fmt.Errorf("%s, which says whose workers a restart starts: %w; when you remove it, they are of the release of 'switch serve' itself", filepath.Join(state, inForceFile), err)
	}
	return f, nil
}

func (f inForce) write(state string) error {
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(filepath.Join(state, inForceFile)); err == nil && bytes.Equal(old, append(raw, '\n')) {
		return nil
	}
	next := filepath.Join(state, inForceFile+".next")
	file, err := os.OpenFile(next, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(append(raw, '\n'))
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil { // power may fail
		return err
	}
	return os.Rename(next, filepath.Join(state, inForceFile))
}

// after is what a rollout leaves in force. A document that was accounted for is
// passed over: serve may have been upgraded since.
func (f inForce) after(r handoff.Rollout) inForce {
	side := func(s handoff.Side) {
		f.Release, f.Digest, f.Schema, f.Binary, f.Rollout = s.Release, s.Digest, s.Schema, s.Binary, r.ID
	}
	switch r.Phase {
	case handoff.PhaseRaising, handoff.PhaseFinalized:
		f.Floor = max(f.Floor, r.To.Schema)
		fallthrough
	case handoff.PhaseConfirmed, handoff.PhaseFinalizing:
		if f.Rollout != r.ID {
			side(r.To)
		}
	case handoff.PhaseRolledBack:
		if f.Rollout == r.ID && f.Undone != r.ID && f.Digest == r.To.Digest {
			side(r.From)
			f.Undone = r.ID
		}
	}
	return f
}

// choose says what a starting serve runs its workers of. own is the release of
// serve itself; living: workers that an earlier serve left are still there.
func choose(own, last inForce, living bool) (now inForce, note string, err error) {
	now = last
	now.Serve = own.Digest
	own.Rollout, own.Undone, own.Floor, own.Serve = last.Rollout, last.Undone, last.Floor, own.Digest
	push := fmt.Sprintf("; 'switch rollout start %s' moves the calls to it", own.Binary)
	switch {
	case own.Schema < last.Floor:
		return now, "", fmt.Errorf("this is release %s, which reads schemas up to %d, and the floor is %d since a rollout was finalized: "+
			"start serve from release %s or a newer one (%s)", own.Release, own.Schema, last.Floor, last.Release, last.Binary)
	case last.Digest == "" || own.Digest == last.Digest:
		return own, "", nil
	case own.Digest == last.Serve:
		note = fmt.Sprintf("workers are of release %s, which a rollout put in force; serve itself is of %s", last.Release, own.Release)
		if own.Schema < last.Schema {
			note += fmt.Sprintf(", an older one: replace its executable before the schema floor rises to %d", last.Schema)
		}
		return now, note, nil
	case living:
		return now, fmt.Sprintf("serve is of release %s, and workers of %s live: they stay%s", own.Release, last.Release, push), nil
	case own.Schema < last.Schema:
		return now, fmt.Sprintf("serve is of release %s, an older one than %s, whose workers are started: their records may be newer than %s reads%s",
			own.Release, last.Release, own.Release, push), nil
	}
	return own, fmt.Sprintf("a whole-restart upgrade: workers are of release %s now, and were of %s", own.Release, last.Release), nil
}

// ownRelease is this executable, with a copy of it under the state directory.
func ownRelease(state string) (f inForce, err error) {
	if f.Digest, err = executableDigest(); err != nil {
		return f, err
	}
	f.Release, f.Schema, f.Binary = codecore.Release, codecore.Schema, releasePath(state, f.Digest)
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return f, err
	}
	defer exe.Close()
	if isCopied(exe, f.Binary) {
		return f, nil
	}
	return f, copyExecutable(exe, f.Binary)
}

func releasePath(state, digest string) string {
	return filepath.Join(state, "releases", digest[:12], "switch")
}

// isWhole checks that the executable is still what its digest says.
func (f inForce) isWhole() error {
	exe, err := os.Open(f.Binary)
	if err != nil {
		return err
	}
	defer exe.Close()
	if d, err := digestOf(exe); err != nil || d != f.Digest {
		return fmt.Errorf("%s is not release %s any more: %w", f.Binary, f.Release, errors.Join(err, errDigest))
	}
	return nil
}

var errDigest = errors.New("another digest")

var keeping sync.Mutex // of release.json, within this process

// keepRelease writes down what a rollout has put in force here, and returns it.
func (b *backend) keepRelease(r handoff.Rollout) inForce {
	keeping.Lock()
	defer keeping.Unlock()
	last, err := readInForce(b.cfg.State)
	next := last.after(r)
	if err == nil && next != last {
		err = next.write(b.cfg.State)
	}
	if err != nil {
		b.log.Error("the release in force is not written down: a whole restart may start another", "err", err)
	}
	return next
}
