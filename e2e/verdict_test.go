package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/history"
)

// wantVerdict judges what a witness, who has been stopped, saw and what
// callers were answered under one bound, by a checker that knows nothing of
// meshpdb. If the test fails, the history is kept beside the logs. It returns
// the judgement.
func wantVerdict(t *testing.T, want history.Verdict, witness *scenario.Witness, bound history.Bound, tallies ...*scenario.Tally) history.Result {
	t.Helper()
	h, err := witness.History(bound, tallies...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keep(t, h) })
	report, err := scenario.Judge(h)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report)
	if report.Verdict() != want {
		t.Errorf("the verdict on the history is %s, want %s", report.Verdict(), want)
	}
	return report.Budgets[0]
}

// keep writes a history to the mesh's folder, which stays if a test fails.
func keep(t *testing.T, h history.History) {
	if !t.Failed() {
		return
	}
	of, _, _ := strings.Cut(h.Events[0].Budget, "/")
	path := filepath.Join(mesh.dir, "histories", of+".jsonl")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Error(err)
		return
	}
	file, err := os.Create(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer file.Close()
	if err := history.Write(file, h); err != nil {
		t.Error(err)
		return
	}
	t.Logf("the history is in %s", path)
}
