//go:build race

package codecore

// raced: the race detector is on.
const raced = true
