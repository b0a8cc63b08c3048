package main

import (
	"fmt"
	"os"

	"github.com/goccy/go-yaml"

	"callswitch/registrar"
	"callswitch/sessions"
)

// readSecrets reads the file of the trunks' passwords strictly. No error has
// anything of its text.
func readSecrets(path string) (map[string]registrar.Secret, error) {
	if path == "" {
		return nil, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s: everybody on this machine may read it: chmod o= %s", path, path)
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list []registrar.Secret
	if err := yaml.UnmarshalWithOptions(source, &list, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("%s: write a list of trunk, user, and password, or realm with ha1_sha256 and ha1_md5: %s", path, blame(err))
	}
	out := make(map[string]registrar.Secret, len(list))
	for i, s := range list {
		if err := s.Check(); err != nil {
			return nil, fmt.Errorf("%s: entry %d: %w", path, i+1, err)
		}
		if _, twice := out[s.Trunk]; twice {
			return nil, fmt.Errorf("%s: entry %d: %s stands twice", path, i+1, s.Trunk)
		}
		out[s.Trunk] = s
	}
	return out, nil
}

// othersLoad sums what the other workers tell in their heartbeats.
func othersLoad(self string, living func() []sessions.Process) func() (map[string]int, int) {
	return func() (map[string]int, int) {
		load, workers := map[string]int{}, 1
		for _, p := range living() {
			if p.Role != "worker" || p.ID == self {
				continue
			}
			if !p.Closed && !p.Draining {
				workers++
			}
			for party, n := range p.Load {
				load[party] += n
			}
		}
		return load, workers
	}
}
