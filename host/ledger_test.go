package host

import (
	"context"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A disk that takes nothing holds up nobody who is being replaced; but a child that
// was asked for is not there for the one who asked before a host to come knows of it.
func TestNobodyWaitsForTheDisk(t *testing.T) {
	r, c, n, old := tallyRig(t, "")
	next := ledgerPath(r.dir) + ".next"
	if err := unix.Mkfifo(next, 0o600); err != nil { // who opens it to write waits for a reader
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.Replace(ctx, "m", nil); err != nil {
		t.Fatal(err)
	}
	if n.next() == old {
		t.Error("the old one still answers")
	}
	started := make(chan error, 1)
	go func() { started <- c.Start(ctx, spec("x", "plain")) }()
	r.await(Ready, "x")
	select {
	case err := <-started:
		t.Errorf("said to be started, and not written down: %v", err)
	default:
	}

	disk, err := os.Open(next)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(disk); err != nil {
		t.Fatal(err)
	}
	_ = disk.Close()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, s := range Living(r.dir) {
		names[s.Name] = true
	}
	if !names["m"] || !names["x"] {
		t.Errorf("written down: %v", names)
	}
}
