package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPasswordsOfTrunks(t *testing.T) {
	write := func(text string, mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), "trunks.yaml")
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	got, err := readSecrets(write("- trunk: carrier\n  user: u\n  password: geheim\n", 0o600))
	if err != nil || got["carrier"].User != "u" {
		t.Fatal(got, err)
	}
	for text, want := range map[string]string{
		"- trunk: a\n  usr: geheim\n": "line 2 cannot be read",
		"- trunk: a\n  user: u\n":     "write password, or realm",
		"- {trunk: a, user: u, password: geheim}\n- {trunk: a, user: u, password: geheim}\n": "a stands twice",
	} {
		if _, err := readSecrets(write(text, 0o600)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	path := write("- {trunk: a, user: u, password: geheim}\n", 0o600)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readSecrets(path); err == nil || !strings.Contains(err.Error(), "chmod o=") {
		t.Error(err)
	}
}
