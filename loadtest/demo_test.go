package loadtest

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// nextCopy is the test binary with another digest.
func nextCopy(t *testing.T) (exe, next string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	next = filepath.Join(t.TempDir(), "next")
	if err := os.WriteFile(next, append(b, "next"...), 0o700); err != nil { //nolint:gosec // it is executed
		t.Fatal(err)
	}
	return exe, next
}

func fakeDemo(t *testing.T, fault string, change func(*DemoConfig)) (Verdict, string) {
	t.Helper()
	exe, next := nextCopy(t)
	dir, err := os.MkdirTemp("", "rig") // a short path, for the unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var out, progress bytes.Buffer
	c := DemoConfig{
		SwitchBinary: exe, NextBinary: next, StateDir: dir, Calls: 6, Seconds: 2, RTP: true, JSON: true, Out: &out, Err: &progress,
		Kinds:   map[string]int{KindCancel: 1, KindPinned: 1, KindRefused: 1},
		Refused: Mark{Number: "7900"}, Pinned: Mark{Number: "7800"},
		Config: func(s Site) []byte { b, _ := json.Marshal(s); return b },
		Argv:   func(p string) []string { return []string{exe, p} },
		Env:    []string{"RIG_FAKE=serve", "RIG_FAULT=" + fault},
	}
	if change != nil {
		change(&c)
	}
	v, err := Demo(t.Context(), c)
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	var again Verdict
	if err := json.Unmarshal(out.Bytes(), &again); err != nil {
		t.Fatalf("stdout is not one JSON object: %v\n%s", err, out.String())
	}
	return v, progress.String() + out.String()
}

func TestDemoPassesAgainstASwitchThatLosesNothing(t *testing.T) {
	t.Parallel()
	v, text := fakeDemo(t, "", func(c *DemoConfig) {
		c.Kinds = DefaultKinds()
		c.Schema = 1
		for k := range c.Kinds {
			answersItself := k == KindInfo || k == KindPending || k == KindInvite
			if kindOf[k].schema > c.Schema || answersItself { // the fake has no routes, and keeps no transaction open
				delete(c.Kinds, k)
			}
		}
		c.Seconds = 4
	})
	if !v.Passed() {
		t.Fatalf("did not pass: %s\n%s", v.Problems, text)
	}
	if v.Moved != 6 || v.MovedBack != 6 || v.RTPSent < 6*2*50*3 || len(v.Workers) != 3 || v.MediaPorts != 12 {
		t.Fatalf("odd verdict:\n%s", text)
	}
	for _, k := range []string{KindRinging, KindHeld, KindBye, KindCancel, KindEarly, KindReinvite, KindPinned, KindRefused, KindBusy} {
		if v.Kinds[k] == nil || v.Kinds[k].OK == 0 {
			t.Errorf("kind %s: %+v", k, v.Kinds[k])
		}
	}
	var table bytes.Buffer
	v.WriteTable(&table)
	if !strings.Contains(table.String(), "PASSED") {
		t.Error(table.String())
	}
}

// Two executables of one name are two releases.
func TestDemoTellsReleasesApartByDigest(t *testing.T) {
	t.Parallel()
	v, text := fakeDemo(t, "one-name", nil)
	if !v.Passed() {
		t.Fatalf("did not pass: %s\n%s", v.Problems, text)
	}
	if a, b := v.Releases[0], v.Releases[1]; a.Digest == b.Digest || a.Release == b.Release {
		t.Errorf("steps are not told apart: %+v, %+v", a, b)
	}
}

// Each misbehaviour of a switch must fail the demo, with its own words.
func TestDemoCatches(t *testing.T) {
	t.Parallel()
	for fault, words := range map[string]string{
		"rtp-lost":      "1 of",
		"rtp-twice":     "came twice",
		"rtp-order":     "out of order",
		"rtp-elsewhere": "elsewhere",
		"rtp-foreign":   "of another call",
		"rtp-ssrc":      "breaks",
		"cdr-twice":     "more than once",
		"bye-twice":     "BYE",
		"one-stays":     "of 6 calls moved",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			v, text := fakeDemo(t, fault, nil)
			if v.Passed() || !strings.Contains(strings.Join(v.Problems, "\n"), words) {
				t.Errorf("not caught: %q\n%s", v.Problems, text)
			}
		})
	}
}
