// Package layers_test keeps the directions of imports: see "Where things are"
// in the README.
package layers_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/meshpdb/meshpdb/"

// layers by package, lowest first. Imports go down only, never sideways,
// except along the edges of allowed.
var layers = map[string]int{
	"pkg/budget":       0,
	"pkg/wire":         1,
	"pkg/claim":        1,
	"pkg/history":      1,
	"pkg/api/v1alpha1": 1,
	"pkg/paths":        1,
	// What controllers tell of themselves, read by people's tools.
	"pkg/roster": 1,
	"pkg/flow":   1,
	// Concurrency that knows nothing of the subject.
	"pkg/batch": 2,
	// Makes spans of what it is told.
	"pkg/tracing": 2,
	// Checks models of claim by running Spin; nobody imports it but its own command.
	"pkg/claim/model":        2,
	"pkg/claim/model/verify": 3,
	"pkg/mesh":               3,
	"pkg/ledger":             3,
	"pkg/workload":           3,
	"pkg/hubble":             3,
	"pkg/hubble/peers":       3,
	"pkg/hubble/reader":      3,
	"pkg/decide":             4,
	"pkg/publish":            4,
	"pkg/redrive":            4,
	// The shells around decide and publish: requests and reconciles.
	"pkg/admission":            5,
	"pkg/controller":           5,
	"cmd/meshpdb-controller":   6,
	"cmd/meshpdb-hubble-peers": 6,
	// kubectl's plugin: pure packages, and the shell around them.
	"deploy":               0,
	"pkg/plugin/hold":      2,
	"pkg/plugin/drainplan": 3,
	"pkg/plugin/checkup":   3,
	"pkg/plugin":           5,
	"cmd/kubectl-meshpdb":  6,
	// What tests run the rest on.
	"pkg/hubble/testcert":    2,
	"pkg/hubble/testserver":  4,
	"pkg/simulation/kvstore": 2,
	"pkg/simulation":         6,
}

// only these packages may import what begins with the key.
var only = map[string][]string{
	"github.com/cilium/cilium/":         {"pkg/mesh", "pkg/hubble", "pkg/hubble/peers", "pkg/hubble/reader", "cmd/meshpdb-hubble-peers", "pkg/flow"},
	"go.etcd.io/etcd/":                  {"pkg/mesh", "pkg/simulation", "pkg/simulation/kvstore"},
	"sigs.k8s.io/controller-runtime/":   {"pkg/ledger", "pkg/workload", "pkg/redrive", "pkg/admission", "pkg/controller", "pkg/simulation", "cmd/meshpdb-controller"},
	"go.opentelemetry.io/":              {"pkg/tracing"},
	"github.com/prometheus/":            {"pkg/mesh", "pkg/hubble", "pkg/redrive", "pkg/admission", "pkg/controller", "cmd/meshpdb-controller"},
	"github.com/meshpdb/meshpdb/e2e":    {},
	"github.com/google/uuid":            {"cmd/meshpdb-controller"},
	"github.com/anishathalye/":          {"pkg/history"},
	"k8s.io/client-go/tools/leaderelec": {},
}

// narrow packages import of what begins with the first nothing but the second.
var narrow = map[string][2]string{
	// All else of Cilium would make it as heavy as an observer.
	"pkg/flow": {"github.com/cilium/cilium/", "github.com/cilium/cilium/api/v1/flow"},
	// The plugin imports it.
	"pkg/hubble/reader": {"github.com/cilium/cilium/", "github.com/cilium/cilium/api/v1/observer"},
}

type pkgInfo struct {
	ImportPath string
	Dir        string
	Imports    []string
}

func list(t *testing.T) []pkgInfo {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Dir,Imports", module+"pkg/...", module+"cmd/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkgInfo
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkgInfo
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if p.ImportPath != module+"pkg" {
			all = append(all, p)
		}
	}
}

func TestImportsGoDown(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		layer, known := layers[name]
		if !known {
			t.Errorf("%s has no layer: give it one", name)
			continue
		}
		for _, i := range p.Imports {
			if below, ours := strings.CutPrefix(i, module); ours {
				if other, ok := layers[below]; !ok || other >= layer {
					t.Errorf("%s (layer %d) imports %s (layer %d): imports go down only", name, layer, below, other)
				}
			}
			if n, ok := narrow[name]; ok && strings.HasPrefix(i, n[0]) && i != n[1] {
				t.Errorf("%s imports %s: of %s only %s", name, i, n[0], n[1])
			}
			for prefix, importers := range only {
				if strings.HasPrefix(i, prefix) && !slices.Contains(importers, name) {
					t.Errorf("%s imports %s: only %v may", name, i, importers)
				}
			}
		}
	}
}

// TestCoreIsPure: no clock, no client, no logger, no context below layer 2,
// and nothing but the standard library in layer 0.
func TestCoreIsPure(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if layers[name] > 1 {
			continue
		}
		for _, i := range p.Imports {
			if layers[name] == 0 && strings.Contains(strings.Split(i, "/")[0], ".") {
				t.Errorf("%s imports %s: layer 0 uses the standard library only", name, i)
			}
			if slices.Contains([]string{"context", "log", "log/slog", "net", "net/http", "os"}, i) || strings.Contains(i, "logr") || strings.Contains(i, "client-go") {
				t.Errorf("%s imports %s: decide in values, act at the edge", name, i)
			}
		}
		err := filepath.WalkDir(p.Dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && path != p.Dir {
				// A package of its own, with a layer of its own.
				return fs.SkipDir
			}
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "NewTimer", "NewTicker"}, s.Sel.Name) {
						t.Errorf("%s: %s uses time.%s: time is an argument", name, filepath.Base(path), s.Sel.Name)
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}
