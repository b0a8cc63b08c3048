package codecore

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// reasonInCode finds the codes that the call logic gives: behind a status, as a
// cause, in a hang-up, beside an error.
var reasonInCode = regexp.MustCompile(`\b[3-6]\d\d, "([a-z][a-z-]*)"|[cC]ause(?: = |: )"([a-z-]+)"|hangUp\([^,]+, "([a-z-]+)"|\{Err\w+, "([a-z-]+)"\}|e\.Reason = "([a-z-]+)"`)

// finishes name the party that ended a call, not a reason.
var finishes = regexp.MustCompile(`finish\("[a-z-]+", \d{3}, "[a-z]+"`)

// TestReasonsAreListed walks code, list and table both ways: who reads a code
// finds what it means, and no code is forgotten or renamed.
func TestReasonsAreListed(t *testing.T) {
	text, err := os.ReadFile("reasons.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, m := range regexp.MustCompile(`(?m)^\| ([a-z0-9-]+) \| (\d{3}|-|\*) \| .+ \|$`).FindAllStringSubmatch(string(text), -1) {
		listed = append(listed, m[1])
	}
	if !slices.Equal(listed, reasonCodes) {
		t.Errorf("reasons.md and reasonCodes differ, or are not in order:\n%v\n%v", listed, reasonCodes)
	}
	files, _ := filepath.Glob("*.go")
	given := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || name == "reasons.go" {
			continue
		}
		code, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range reasonInCode.FindAllStringSubmatch(finishes.ReplaceAllString(string(code), ""), -1) {
			c := strings.Join(m[1:], "")
			given[c] = true
			if !IsReason(c) {
				t.Errorf("%s gives %q, which is not in reasons.md: say there when", name, c)
			}
		}
	}
	// These are given by others, and only passed on here.
	for _, c := range []string{"circuit-open", "not-registered", "operator", "ports-out", "trunk-full", "trunk-rate", "unknown-account"} {
		given[c] = true
	}
	for _, c := range reasonCodes {
		if !given[c] {
			t.Errorf("%q is given by nobody", c)
		}
	}
}
