package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"callswitch/handoff"
	"callswitch/nats"
)

// The copies under <state>/releases outlive the files that they came from, and
// would outlive everybody. Kept are those
//
//	of the release in force, and of serve itself
//	of both sides of the last rollout: the one before is there to go back to
//	that a child runs or would be started again from, and the host
//	that were brought within the last ten minutes: somebody is about to use them

// broughtFor is how long a copy that install made or found is left alone.
const broughtFor = 10 * time.Minute

// pruneReleases removes the other copies. Where it cannot know, it removes nothing.
func (b *backend) pruneReleases(ctx context.Context) {
	dir := filepath.Join(b.cfg.State, "releases")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	force, err := readInForce(b.cfg.State)
	if err != nil || force.Digest == "" {
		return
	}
	r, _, err := handoff.ReadRollout(ctx, b.docs, nats.DocRollout)
	if err != nil {
		return
	}
	list, err := b.host.List(ctx)
	if err != nil {
		return
	}
	paths := []string{releasePath(b.cfg.State, force.Digest), releasePath(b.cfg.State, force.Serve)}
	for _, c := range list.Children {
		paths = append(paths, c.Spec.Argv[0])
	}
	exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", b.host.HostPID()))
	for _, side := range []handoff.Side{r.From, r.To} {
		if side.Digest != "" {
			paths = append(paths, releasePath(b.cfg.State, side.Digest))
		}
	}
	keep := copiesOf(dir, append(paths, exe))
	for _, e := range entries {
		if at, ok := b.brought.Load(e.Name()); keep[e.Name()] || ok && time.Since(at.(time.Time)) < broughtFor {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			b.log.Warn("a copy of an old release is not removed", "err", err)
			continue
		}
		b.log.Info("copy of an old release removed", "digest", e.Name())
	}
}

// copiesOf are the names in dir that executables are under.
func copiesOf(dir string, executables []string) map[string]bool {
	names := map[string]bool{}
	for _, path := range executables {
		if at := filepath.Dir(path); filepath.Dir(at) == dir {
			names[filepath.Base(at)] = true
		}
	}
	return names
}
