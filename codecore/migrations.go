//go:build !nextrelease && !brokenrelease

package codecore

// Release is the name of this release.
const Release = version

var migrations = released
