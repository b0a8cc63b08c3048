//go:build !nextrelease && !brokenrelease

package codecore

// Release is the name of this release.
const Release = version

// migrations lists every schema change since schema 1, oldest first. Entries
// are appended, never edited: records in the field depend on them.
var migrations = []Migration{
	// -- add new migrations here --
}
