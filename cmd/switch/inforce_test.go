package main

import (
	"os"
	"strings"
	"testing"

	"callswitch/handoff"
)

func TestWholeRestartChoosesTheRelease(t *testing.T) {
	rel := func(name string, schema int) inForce {
		return inForce{Release: name, Digest: "digest of " + name, Schema: schema, Binary: "/state/" + name}
	}
	v1, v2, v3 := rel("v1", 1), rel("v2", 2), rel("v3", 2)
	confirmed := v2 // by a rollout, while serve ran as v1
	confirmed.Serve, confirmed.Rollout = v1.Digest, "r-1"
	final := confirmed
	final.Floor = 2
	for _, c := range []struct {
		what      string
		own, last inForce
		living    bool
		want      string // release, or the words of the refusal
		note      string
	}{
		{"the first start", v1, inForce{}, false, "v1", ""},
		{"nothing has changed", v1, func() inForce { f := v1; f.Serve = v1.Digest; return f }(), false, "v1", ""},
		{"a rollout was confirmed", v1, confirmed, false, "v2", "an older one"},
		{"the confirmed release is installed", v2, confirmed, false, "v2", ""},
		{"a third one is installed", v3, confirmed, false, "v3", "whole-restart upgrade"},
		{"a third one is installed, workers live", v3, confirmed, true, "v2", "they stay"},
		{"an older third one is installed", rel("v0", 1), confirmed, false, "v2", "rollout start"},
		{"serve is under the floor", v1, final, false, "the floor is 2", ""},
	} {
		now, note, err := choose(c.own, c.last, c.living)
		switch {
		case err != nil && !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: %v", c.what, err)
		case err == nil && (now.Release != c.want || now.Serve != c.own.Digest || now.Rollout != c.last.Rollout):
			t.Errorf("%s: %+v, want %s", c.what, now, c.want)
		case note == "" && c.note != "", !strings.Contains(note, c.note):
			t.Errorf("%s: note %q, want %q", c.what, note, c.note)
		}
	}
}

func TestRolloutPutsInForce(t *testing.T) {
	f := inForce{Release: "v1", Digest: "d1", Schema: 1, Binary: "/1", Serve: "d1"}
	r := handoff.Rollout{
		ID: "r-1", Phase: handoff.PhaseDone,
		From: handoff.Side{Release: "v1", Digest: "d1", Schema: 1, Binary: "/1"}, To: handoff.Side{Release: "v2", Digest: "d2", Schema: 2, Binary: "/2"},
	}
	step := func(p handoff.Phase, release string, floor int) {
		t.Helper()
		r.Phase = p
		if f = f.after(r); f.Release != release || f.Floor != floor {
			t.Errorf("after %s: %+v", p, f)
		}
	}
	step(handoff.PhaseDone, "v1", 0)
	step(handoff.PhaseConfirmed, "v2", 0)
	step(handoff.PhaseUndoing, "v2", 0)
	step(handoff.PhaseRolledBack, "v1", 0)
	own := inForce{Release: "v2", Digest: "d2", Schema: 2, Binary: "/2"} // serve is upgraded to what was taken back
	f, _, _ = choose(own, f, false)
	step(handoff.PhaseRolledBack, "v2", 0)
	f = inForce{Release: "v1", Digest: "d1", Schema: 1, Binary: "/1", Serve: "d1"}
	r.ID = "r-2"
	step(handoff.PhaseRaising, "v2", 2)
	f.Release, f.Digest = "v3", "d3" // serve was upgraded; the old document is seen again
	step(handoff.PhaseFinalized, "v3", 2)
}

// A copy that a power failure has cut short is made again.
func TestOwnReleaseIsWhole(t *testing.T) {
	state := t.TempDir()
	f, err := ownRelease(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(f.Binary, 0); err != nil {
		t.Fatal(err)
	}
	if f, err = ownRelease(state); err != nil || f.isWhole() != nil {
		t.Errorf("%v, %v", err, f.isWhole())
	}
}
