package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestSelfSignedCertificate(t *testing.T) {
	cfg := DefaultConfig()
	cfg.State = t.TempDir()
	log := newLogger(cfg, os.Stderr)
	if c, err := certificate(cfg, log); c != nil || err != nil {
		t.Fatalf("without TLS: %v, %v", c, err)
	}
	cfg.Edge.Listen = append(cfg.Edge.Listen, "wss:192.0.2.1:443")
	now := time.Now()
	files, err := ownCertificate(cfg, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{files.Cert, files.Key, filepath.Dir(files.Key)} {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", f, info, err)
		}
	}
	read := func() string { b, _ := os.ReadFile(files.Cert); return string(b) }
	first := read()
	again := func(cfg Config, at time.Time) bool {
		if _, err := ownCertificate(cfg, at); err != nil {
			t.Fatal(err)
		}
		same := read() == first
		first = read()
		return !same
	}
	if again(cfg, now.Add(time.Hour)) {
		t.Error("another one, though it fits")
	}
	if !again(cfg, now.Add(ownCertFor-time.Hour)) {
		t.Error("it ends soon")
	}
	cfg.Edge.Advertise = "phone.example.com:5060"
	if !again(cfg, time.Now()) || !slices.Contains(ownNames(cfg), "phone.example.com") {
		t.Error("the name is new")
	}
	if c, err := certificate(cfg, log); err != nil || time.Until(c.Until()) < 300*24*time.Hour {
		t.Error(c, err)
	}
}
