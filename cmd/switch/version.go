package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"github.com/spf13/cobra"

	"callswitch/codecore"
	"callswitch/internal/wire"
)

func versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "say which release this is and what it reads and writes",
		Args:  args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			digest, err := executableDigest()
			if err != nil {
				return err
			}
			v := map[string]any{
				"release": codecore.Release, "digest": digest, "go": runtime.Version(),
				"schema_min": codecore.SchemaMin, "schema": codecore.Schema, "proto_min": wire.MinProto, "proto": wire.Proto,
			}
			return show(cmd, v, func(w io.Writer) {
				row(w, "switch", codecore.Release)
				row(w, "digest", digest)
				row(w, "schemas", fmt.Sprintf("reads %d to %d, writes the lowest that can say the call", codecore.SchemaMin, codecore.Schema))
				row(w, "protocols", fmt.Sprintf("%d to %d", wire.MinProto, wire.Proto))
				row(w, "built with", runtime.Version())
			})
		},
	}
	outputFlag(cmd)
	return cmd
}

// executableDigest is the SHA-256 of this process's executable: two releases of
// the same name are still two releases.
var executableDigest = sync.OnceValues(func() (string, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer f.Close()
	return digestOf(f)
})

func digestOf(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
