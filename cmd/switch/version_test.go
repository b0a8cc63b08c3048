package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The word of another file, or of this one before it changed, is not taken.
func TestDigestIsTakenFromAWordOfTheSameFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	digest, word, err := digestOfFile(path, "")
	if err != nil || len(digest) != 64 {
		t.Fatal(digest, err)
	}
	known := word[:len(word)-64] + strings.Repeat("0", 64)
	if d, w, err := digestOfFile(path, known); d != strings.Repeat("0", 64) || w != known || err != nil {
		t.Errorf("read again: %s %v", d, err)
	}
	for _, odd := range []string{word[:len(word)-1], "=" + digest, digest} {
		if d, w, err := digestOfFile(path, odd); d != digest || w != word || err != nil {
			t.Errorf("of %q: %s %v", odd, d, err)
		}
	}
	if err := os.WriteFile(path, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, _, err := digestOfFile(path, known); d == digest || strings.Trim(d, "0") == "" || err != nil {
		t.Errorf("of another content: %s %v", d, err)
	}
	other := filepath.Join(filepath.Dir(path), "b")
	if err := os.WriteFile(other, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, _, err := digestOfFile(other, known); d != digest || err != nil {
		t.Errorf("of another file: %s %v", d, err)
	}
}
