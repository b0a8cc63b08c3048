//go:build brokenrelease && !nextrelease

package codecore

import (
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
)

// The broken release, as tests need one: its migration panics, and for numbers
// that begin with HangingPrefix it never comes back. Never stored after a test.

// Release is the name of this release.
const Release = version + "-broken"

// HangingPrefix marks the numbers whose calls the migration hangs on.
const HangingPrefix = "99901"

var migrations = append(slices.Clone(released), Migration{Name: "0003_broken", Up: upBroken, Down: func(Fields) error { return nil }})

func upBroken(f Fields) error {
	var stub Stub
	if err := json.Unmarshal(f["stub"], &stub, form); err != nil {
		return err
	}
	if strings.HasPrefix(stub.CDR.To, HangingPrefix) {
		select {}
	}
	panic("a broken migration")
}
