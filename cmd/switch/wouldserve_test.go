package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A host is not replaced by what does not say that it would start, and whoever asked
// hears that it is not known, not that somebody was killed.
func TestACheckThatDoesNotEnd(t *testing.T) {
	hangs := filepath.Join(t.TempDir(), "switch")
	if err := os.WriteFile(hangs, []byte("#!/bin/sh\nexec sleep 600\n"), 0o700); err != nil { //nolint:gosec // it is executed
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := wouldServe(ctx, started{argv: []string{"switch", "serve"}, dir: t.TempDir(), exe: hangs}, "")
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "not known") {
		t.Error(err)
	}
}
