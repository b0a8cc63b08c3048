// Package switch_test holds the rules of the house that a machine can check:
// who may import whom, what is pure, that every package says what it is, and
// that files stay readable in a sitting.
package switch_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mayImport lists, for each package of the tree, the packages of the tree it may
// use. The arrows are those of the README's map; a package that is missing here
// is an error, so that a new room is a decision.
var mayImport = map[string][]string{
	"codecore":              {},
	"sessions":              {"codecore", "internal/wire"},
	"sessions/sessionstest": {"codecore", "sessions", "internal/wire"},
	"handoff":               {"codecore", "sessions", "internal/wire"},
	"registrar":             {"codecore"},
	"secrets":               {},
	"registrant":            {"codecore", "sessions", "internal/wire"},
	"nats":                  {"codecore", "sessions", "handoff", "internal/wire"},
	"edge":                  {"codecore", "sessions", "handoff", "registrar", "secrets", "internal/wire"},
	"media":                 {"codecore", "sessions", "handoff", "secrets", "media/codec", "internal/wire"},
	"media/codec":           {},
	"host":                  {},
	"console":               {"codecore", "sessions"},
	"loadtest":              {},
	"internal/wire":         {},
	"internal/metrics":      {},
	"internal/near":         {"sessions"},
	"cmd/switch": {
		"codecore", "sessions", "handoff", "nats", "edge", "media", "host", "console", "loadtest", "registrar", "registrant", "secrets",
		"internal/wire", "internal/near", "internal/metrics",
	},
}

// onlyImporter names the one package that may use a library (its subpackages
// too); tests are free.
var onlyImporter = map[string][]string{
	"github.com/nats-io/":       {"nats"},
	"github.com/pion/sdp":       {"codecore", "loadtest"},
	"github.com/pion/rt":        {"media", "loadtest"},
	"github.com/pion/srtp":      {"media", "loadtest"},
	"github.com/pion/dtls":      {"media", "loadtest"},
	"github.com/pion/stun":      {"media", "loadtest"},
	"github.com/spf13/cobra":    {"cmd/switch"},
	"github.com/prometheus/":    {"internal/metrics", "cmd/switch"},
	"github.com/goccy/go-yaml":  {"cmd/switch"},
	"github.com/miekg/dns":      {"edge"},
	"github.com/fxamacker/":     {"internal/wire"},
	"github.com/go-json-experi": {"codecore"},
}

// impure may not be imported by a package that only computes.
var impure = []string{"os", "net", "net/http", "log", "log/slog", "math/rand", "math/rand/v2", "crypto/rand", "sync", "context", "syscall"}

type pkg struct {
	ImportPath, Dir, Doc string
	Imports, GoFiles     []string
}

const module = "callswitch"

func packages(t *testing.T, tags string) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-tags", tags, "-json=ImportPath,Dir,Doc,Imports,GoFiles", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var ps []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return ps
		} else if err != nil {
			t.Fatal(err)
		}
		if p.ImportPath != module { // the root holds this test only
			ps = append(ps, p)
		}
	}
}

func TestArrows(t *testing.T) {
	for _, tags := range []string{"", "nextrelease"} {
		for _, p := range packages(t, tags) {
			name := strings.TrimPrefix(p.ImportPath, module+"/")
			allowed, known := mayImport[name]
			if !known {
				t.Errorf("package %s is not on the map: add it to mayImport with what it may use, and to the README's map of the house", name)
				continue
			}
			for _, imp := range p.Imports {
				if inner, ok := strings.CutPrefix(imp, module+"/"); ok && !slices.Contains(allowed, inner) {
					t.Errorf("%s imports %s: the arrow does not exist; take an interface and let cmd/switch wire it", name, inner)
				}
				for lib, who := range onlyImporter {
					if strings.HasPrefix(imp, lib) && !slices.Contains(who, name) {
						t.Errorf("%s imports %s: only %v may; ask that package for what you need", name, imp, who)
					}
				}
			}
		}
	}
}

// pure lists what only computes: a whole package (nil), or the files of one.
var pure = map[string][]string{
	"codecore":    nil,
	"media/codec": nil,
	"handoff":     {"move.go", "takeover.go", "refusal.go", "report.go", "rollout.go", "rollout_next.go"},
	"registrant":  {"step.go"},
}

// codecore and the protocol files of handoff take time, ids and randomness as
// arguments, so that the same call goes on alike on every worker.
func TestPure(t *testing.T) {
	for _, p := range packages(t, "") {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		files, listed := pure[name]
		if !listed {
			continue
		}
		if files == nil {
			files = p.GoFiles
		}
		for _, file := range files {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, imp := range f.Imports {
				if path := strings.Trim(imp.Path.Value, `"`); slices.Contains(impure, path) {
					t.Errorf("%s/%s imports %s: it must stay pure, move the effect to the caller", name, file, path)
				}
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt, *ast.ChanType, *ast.SelectStmt:
					t.Errorf("%s/%s: goroutine or channel in a pure package", name, file)
				case *ast.SelectorExpr:
					clock := []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Sleep"}
					if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clock, n.Sel.Name) {
						t.Errorf("%s/%s reads the clock (time.%s): take now as an argument", name, file, n.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t, "") {
		base := filepath.Base(p.ImportPath)
		if want := "Package " + base + " "; !strings.HasPrefix(p.Doc, want) && !strings.HasPrefix(p.Doc, "Command "+base+" ") {
			t.Errorf("%s: its doc must open with %q and say what it gives and the one thing it does not do; got %q", p.ImportPath, want, p.Doc)
		}
	}
}

// A file one can read in a sitting. Raise a budget only with a reason.
func TestSizeBudget(t *testing.T) {
	const lines, testLines = 600, 900
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		budget := lines
		if strings.HasSuffix(path, "_test.go") {
			budget = testLines
		}
		if n := bytes.Count(b, []byte("\n")); n > budget {
			t.Errorf("%s has %d lines, more than %d: which two ideas are in it?", path, n, budget)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
