package model

import (
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// available skips the test where there is no Spin, except in CI: what a test
// needs is installed there, and a check that does not run is none.
func available(t *testing.T) {
	t.Helper()
	switch err := Available(); {
	case err != nil && os.Getenv("CI") != "":
		t.Fatal(err)
	case err != nil:
		t.Skipf("the models are not searched: %v", err)
	}
}

// TestModels searches the rows that take seconds. Those that take minutes run
// under make verify-models; TestResultsAreOfTheseModels keeps their results honest.
func TestModels(t *testing.T) {
	available(t)
	rows, err := Rows()
	if err != nil {
		t.Fatal(err)
	}
	set := Test
	if testing.Short() {
		set = Short
	}
	queue := make(chan Row, len(rows))
	for _, r := range rows {
		if r.Set <= set {
			queue <- r
		}
	}
	close(queue)
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for row := range queue {
				t.Run(row.ID, func(t *testing.T) {
					r, err := Run(t.Context(), row, t.TempDir())
					if err != nil {
						t.Fatal(err)
					}
					if !r.Expected(row) {
						t.Errorf("%s: %v, expected %v (%s); go run ./pkg/claim/model/verify -trace %s shows how", row.What, r.Verdict, row.Expect, r.Why, row.ID)
					}
				})
			}
		})
	}
	workers.Wait()
}

// TestResultsAreOfTheseModels fails when a model or a row has changed and the
// searches have not been run since.
func TestResultsAreOfTheseModels(t *testing.T) {
	available(t)
	rows, results := must(t)
	outdated, err := Outdated(t.Context(), rows, results)
	if err != nil {
		t.Fatal(err)
	}
	if len(outdated) > 0 {
		t.Errorf("results.md is not what rows.md says of %v: run make verify-models ROWS='%s'", outdated, strings.Join(outdated, "|"))
	}
}

func must(t *testing.T) ([]Row, map[string]Result) {
	t.Helper()
	rows, err := Rows()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("results.md")
	if err != nil {
		t.Fatal(err)
	}
	results, err := ParseTable(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return rows, results
}

// TestOutdated: a result is of one model, one set of definitions and one row.
func TestOutdated(t *testing.T) {
	available(t)
	row := Row{ID: "X01", Model: "spec", Expect: Fails, Defines: []string{"OWN_SPEC"}}
	digest, err := Digest(t.Context(), row)
	if err != nil {
		t.Fatal(err)
	}
	good := Result{ID: "X01", Verdict: Fails, Digest: digest}
	for what, c := range map[string]struct {
		result Result
		row    Row
		want   []string
	}{
		"of this row":               {good, row, nil},
		"unexpected":                {Result{ID: "X01", Verdict: Holds, Digest: digest}, row, []string{"X01"}},
		"of other definitions":      {good, Row{ID: "X01", Model: "spec", Expect: Fails}, []string{"X01"}},
		"of what changes nothing":   {good, Row{ID: "X01", Model: "spec", Expect: Fails, Defines: []string{"OWN_SPEC", "RBW"}}, nil},
		"of another model":          {good, Row{ID: "X01", Model: "view", Expect: Fails, Defines: row.Defines}, []string{"X01"}},
		"of a row that is no more":  {Result{ID: "X02"}, row, []string{"X01", "X02"}},
		"of a row that never ended": {Result{ID: "X01", Verdict: Undecided, Digest: digest}, row, []string{"X01"}},
	} {
		got, err := Outdated(t.Context(), []Row{c.row}, map[string]Result{c.result.ID: c.result})
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v, want %v", what, got, err, c.want)
		}
	}
}

// TestTableIsRead: what is written is read back, and rows without a result are left out.
func TestTableIsRead(t *testing.T) {
	rows, results := must(t)
	again, err := ParseTable(Table(rows, results))
	if err != nil {
		t.Fatal(err)
	}
	for id, r := range results {
		if again[id] != r {
			t.Errorf("%s: %+v, read back %+v", id, r, again[id])
		}
	}
}

// TestReadReport: only a complete search holds.
func TestReadReport(t *testing.T) {
	const counts = "State-vector 64 byte, depth reached 137, errors: %\n  1994712 states, stored\n"
	for what, c := range map[string]struct {
		out  string
		want Verdict
	}{
		"complete":         {strings.Replace(counts, "%", "0", 1), Holds},
		"violated":         {"pan:1: assertion violated (a<b) (at depth 12)\n" + strings.Replace(counts, "%", "1", 1), Fails},
		"deadlock":         {"pan:1: invalid end state (at depth 12)\n" + strings.Replace(counts, "%", "1", 1), Fails},
		"out of bounds":    {"pan:1: assertion violated - invalid array index (at depth 1)\n" + strings.Replace(counts, "%", "1", 1), Undecided},
		"too deep":         {"error: max search depth too small\n" + strings.Replace(counts, "%", "0", 1), Undecided},
		"out of memory":    {"pan: reached -DMEMLIM bound\n" + strings.Replace(counts, "%", "0", 1), Undecided},
		"unknown error":    {strings.Replace(counts, "%", "1", 1), Undecided},
		"killed half-way":  {"Depth= 100\n", Undecided},
		"nothing was said": {"", Undecided},
	} {
		var r Result
		r.read(c.out)
		if r.Verdict != c.want {
			t.Errorf("%s: %v (%s), want %v", what, r.Verdict, r.Why, c.want)
		}
		if c.want == Holds && (r.States != 1994712 || r.Depth != 137) {
			t.Errorf("%s: %+v", what, r)
		}
	}
}

// TestParseRows: a row that is not understood is not passed over.
func TestParseRows(t *testing.T) {
	const head = "## Rules (safety.pml)\n"
	const good = "| X01 | fails | R2 R3 | short | `NC=2 RBW` | read before written |\n"
	rows, err := parseRows(head + good)
	if err != nil || len(rows) != 1 || rows[0].Model != "safety" || !slices.Equal(rows[0].Defines, []string{"NC=2", "RBW"}) || rows[0].Set != Short {
		t.Fatalf("%+v, %v", rows, err)
	}
	for what, text := range map[string]string{
		"twice":             head + good + good,
		"under no model":    good,
		"unknown verdict":   head + strings.Replace(good, "fails", "perhaps", 1),
		"unknown set":       head + strings.Replace(good, "short", "tiny", 1),
		"no rule":           head + strings.Replace(good, "R2", "Q2", 1),
		"no definition":     head + strings.Replace(good, "NC=2", "NC=2;x", 1),
		"columns missing":   head + "| X01 | fails |\n",
		"columns too many":  head + strings.Replace(good, "before", "|", 1),
		"no definition (2)": head + strings.Replace(good, "RBW", "-DRBW", 1),
	} {
		if rows, err := parseRows(text); err == nil {
			t.Errorf("%s: read as %+v", what, rows)
		}
	}
}

// TestTrace: a counterexample is told by what changes.
func TestTrace(t *testing.T) {
	available(t)
	rows, err := Rows()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(rows, func(r Row) bool { return r.ID == "B02" })
	text, err := Trace(t.Context(), rows[at], t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"granted = ", "claims = ", "assertion violated"} {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in the trace:\n%s", part, text)
		}
	}
	at = slices.IndexFunc(rows, func(r Row) bool { return r.ID == "F02" })
	if text, err := Trace(t.Context(), rows[at], t.TempDir()); err == nil {
		t.Errorf("a model that holds has a counterexample:\n%s", text)
	}
}
