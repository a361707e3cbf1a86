package model

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	root      = "../../.."
	protocol  = root + "/docs/protocol.md"
	breakages = "../breakage_test.go"
)

var (
	ruleNames = regexp.MustCompile(`\bR[0-9]{1,2}\b`)
	rowIDs    = regexp.MustCompile(`\b[BFHLSVWX][0-9]{2}\b`)
)

// sources are the files in which rules and rows are named, by path from the root.
func sources(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, dir := range []string{"cmd", "docs", "pkg", "e2e"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !slices.Contains([]string{".go", ".md", ".pml"}, filepath.Ext(path)) {
				return err
			}
			text, err := os.ReadFile(path)
			name, _ := filepath.Rel(root, path)
			all[name] = string(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// table returns the lines of the Markdown table that begins with header, as cells.
func table(t *testing.T, text, header string) [][]string {
	t.Helper()
	_, after, found := strings.Cut(text, header+"\n")
	if !found {
		t.Fatalf("docs/protocol.md has no table %q", header)
	}
	var all [][]string
	for line := range strings.Lines(after) {
		c := cells(strings.TrimSpace(line))
		if c == nil {
			break
		}
		if !strings.HasPrefix(c[0], "---") {
			all = append(all, c)
		}
	}
	return all
}

// rulesOf returns the names of the rules that docs/protocol.md states, in order.
func rulesOf(t *testing.T, text string) []string {
	t.Helper()
	var all []string
	for n, c := range table(t, text, "| rule | in words | kept in | without it |") {
		name := strings.Fields(c[0])
		if len(name) != 2 || name[0] != fmt.Sprintf("R%d", n+1) {
			t.Fatalf("rule %d of docs/protocol.md is named %q: want R%d and one word", n+1, c[0], n+1)
		}
		all = append(all, name[0])
	}
	if len(all) < 12 {
		t.Fatalf("docs/protocol.md states %d rules only", len(all))
	}
	return all
}

// TestRulesAreNamedEverywhere: a rule has one name, which stands in a model, in
// the code that keeps it, and in a test.
func TestRulesAreNamedEverywhere(t *testing.T) {
	files := sources(t)
	named := map[string][]string{}
	for path, text := range files {
		kind := filepath.Ext(path)
		switch {
		case strings.HasPrefix(path, "pkg/claim/model/") && kind == ".go", kind == ".md":
			// What checks the names names them all.
			continue
		case strings.HasSuffix(path, "_test.go"):
			kind = "a test"
		case kind == ".go":
			kind = "code"
		default:
			kind = "a model"
		}
		for _, r := range ruleNames.FindAllString(text, -1) {
			named[r] = append(named[r], kind)
		}
	}
	rules := rulesOf(t, files["docs/protocol.md"])
	for _, r := range rules {
		for _, where := range []string{"a model", "code", "a test"} {
			if !slices.Contains(named[r], where) {
				t.Errorf("%s is named in %s nowhere", r, where)
			}
		}
	}
	for r := range named {
		if !slices.Contains(rules, r) {
			t.Errorf("%s is named in %v, but docs/protocol.md states no such rule", r, named[r])
		}
	}
}

// TestRowsExist: what documents, code and tests call X05 is a row.
func TestRowsExist(t *testing.T) {
	rows, _ := must(t)
	for path, text := range sources(t) {
		if strings.HasPrefix(path, "pkg/claim/model/") && strings.HasSuffix(path, ".go") {
			// Examples.
			continue
		}
		for _, id := range rowIDs.FindAllString(text, -1) {
			if !slices.ContainsFunc(rows, func(r Row) bool { return r.ID == id }) {
				t.Errorf("%s names %s, which is no row of rows.md", path, id)
			}
		}
	}
}

// TestEveryRuleBreaksSomething: docs/protocol.md says for each rule which rows
// must fail without it, which of these the simulation of the code finds as well,
// and which tests fail; all of that is so.
func TestEveryRuleBreaksSomething(t *testing.T) {
	rows, _ := must(t)
	text, err := os.ReadFile(protocol)
	if err != nil {
		t.Fatal(err)
	}
	simulated := simulatedRows(t, rows)
	listed := table(t, string(text), "| rule | rows that fail without it | found in the code by the simulation | tests that fail without it |")
	rules := rulesOf(t, string(text))
	if len(listed) != len(rules) {
		t.Fatalf("%d rules, of which %d are listed", len(rules), len(listed))
	}
	for n, c := range listed {
		var failing, found []string
		for _, r := range rows {
			if r.Expect == Fails && slices.Contains(r.Rules, rules[n]) {
				failing = append(failing, r.ID)
				if simulated[r.ID] {
					found = append(found, r.ID)
				}
			}
		}
		slices.Sort(failing)
		slices.Sort(found)
		if len(failing) == 0 {
			t.Errorf("no row fails without %s", rules[n])
		}
		if want := strings.Join(failing, " "); c[0] != rules[n] || c[1] != want {
			t.Errorf("docs/protocol.md says of %s that %q fail, rows.md says of %s: %q", c[0], c[1], rules[n], want)
		}
		if want := strings.Join(found, " "); c[2] != want {
			t.Errorf("docs/protocol.md says of %s that the simulation finds %q, breakage_test.go says %q", c[0], c[2], want)
		}
		tests := strings.Fields(c[3])
		if len(tests) == 0 {
			t.Errorf("no test fails without %s", rules[n])
		}
		for _, name := range tests {
			if source := testSource(t, strings.Trim(name, "`,")); !regexp.MustCompile(`\b` + rules[n] + `\b`).MatchString(source) {
				t.Errorf("docs/protocol.md says that %s fails without %s, but it does not name the rule, or does not exist", name, rules[n])
			}
		}
	}
}

// simulatedRows returns the rows that the simulation of package claim breaks the code by.
func simulatedRows(t *testing.T, rows []Row) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(breakages)
	if err != nil {
		t.Fatal(err)
	}
	simulated := map[string]bool{}
	for _, m := range regexp.MustCompile(`breakage = "([^" ]+) [^"]+"`).FindAllStringSubmatch(string(text), -1) {
		simulated[m[1]] = true
		if !slices.ContainsFunc(rows, func(r Row) bool { return r.ID == m[1] && r.Expect == Fails }) {
			t.Errorf("breakage_test.go breaks %s, which is no row that must fail", m[1])
		}
	}
	if len(simulated) < 20 {
		t.Fatalf("breakage_test.go names %d rows only", len(simulated))
	}
	return simulated
}

// testSource returns the source of a test, comment included, by "package.TestName".
func testSource(t *testing.T, name string) string {
	t.Helper()
	pkg, function, _ := strings.Cut(name, ".")
	files, err := filepath.Glob(filepath.Join(root, "pkg", pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == function {
				from := f.Pos()
				if f.Doc != nil {
					from = f.Doc.Pos()
				}
				return string(text[set.Position(from).Offset:set.Position(f.End()).Offset])
			}
		}
	}
	return ""
}
