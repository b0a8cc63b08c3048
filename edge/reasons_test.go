package edge

import (
	"os"
	"regexp"
	"testing"
)

// TestReasonsAreListed holds reasons.md true: each code stands in it once, and
// none that does not exist.
func TestReasonsAreListed(t *testing.T) {
	text, err := os.ReadFile("reasons.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([a-z0-9-]+) \| (\d{3,4}|-|\*) \| .+ \|$`).FindAllStringSubmatch(string(text), -1) {
		if listed[m[1]] != "" {
			t.Errorf("%q stands twice", m[1])
		}
		listed[m[1]] = m[2]
	}
	for i, name := range reasonNames {
		if reason(i) == okay {
			continue
		}
		if name == "" {
			t.Errorf("reason %d has no code", i)
		}
		if listed[name] == "" {
			t.Errorf("%q is not in reasons.md: say when it is given and what is answered", name)
		}
	}
	for name := range listed {
		if _, ok := reasonByName(name); !ok {
			t.Errorf("%q is no reason: codes are never renamed, so it should be one", name)
		}
	}
	// What the table says is answered is what was answered to RFC 4475's messages.
	for _, c := range append(torture4475, torture5118...) {
		if _, ours := reasonByName(c.code); !ours || c.code == "" || c.status == "" {
			continue
		}
		if listed[c.code] != c.status {
			t.Errorf("%s: %q is answered with %s, reasons.md says %s", c.name, c.code, c.status, listed[c.code])
		}
	}
}
