package main

import (
	"callswitch/registrar"
	"callswitch/sessions"
)

// readSecrets reads the file of the trunks' passwords.
func readSecrets(path string) (map[string]registrar.Secret, error) {
	if path == "" {
		return nil, nil
	}
	list, err := readSecretList(path, "trunk, user, and password, or realm with ha1_sha256 and ha1_md5",
		func(s registrar.Secret) (string, error) { return s.Trunk, s.Check() })
	if err != nil {
		return nil, err
	}
	out := make(map[string]registrar.Secret, len(list))
	for _, s := range list {
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
