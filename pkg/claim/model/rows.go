package model

import (
	"embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

//go:embed *.pml rows.md
var files embed.FS

// Verdict is what a search found. The zero value is invalid.
type Verdict uint8

const (
	// Holds: every reachable state was visited and none violates the property.
	Holds Verdict = iota + 1
	// Fails: a violation is reachable.
	Fails
	// Undecided: the search ended before either, for want of time or memory.
	Undecided
)

// String returns the verdict as it stands in tables.
func (v Verdict) String() string {
	switch v {
	case Holds:
		return "holds"
	case Fails:
		return "fails"
	case Undecided:
		return "undecided"
	default:
		return "invalid"
	}
}

func parseVerdict(s string) (Verdict, error) {
	for _, v := range []Verdict{Holds, Fails, Undecided} {
		if s == v.String() {
			return v, nil
		}
	}
	return 0, fmt.Errorf("parse verdict %q: neither holds nor fails", s)
}

// Set is how large a run a row belongs to: each includes the smaller ones. The
// zero value is invalid.
type Set uint8

const (
	// Short rows take a second or two and run under go test -short.
	Short Set = iota + 1
	// Test rows take seconds and run under go test.
	Test
	// Full rows take up to minutes and run under make verify-models.
	Full
)

func parseSet(s string) (Set, error) {
	if i := slices.Index([]string{"short", "test", "full"}, s); i >= 0 {
		return Set(i + 1), nil
	}
	return 0, fmt.Errorf("parse set %q: none of short, test, full", s)
}

// Row is one search.
type Row struct {
	// ID is a letter and two digits; documents, code and tests name rows by it.
	ID string
	// Model is the name of a Promela file, without its ending.
	Model string
	// Group is the heading under which the row stands.
	Group  string
	Expect Verdict
	// Rules that are broken where the row must fail, and that are at work where it must hold.
	Rules []string
	Set   Set
	// Defines are the preprocessor definitions that make up the row.
	Defines []string
	// What says in words what is looked at.
	What string
}

var (
	heading = regexp.MustCompile(`^## (.+) \(([a-z]+)\.pml\)$`)
	// rowID is the shape of every row's name.
	rowID = regexp.MustCompile(`^[A-Z][0-9]{2}$`)
	// Rule is the shape of every rule's name.
	rule   = regexp.MustCompile(`^R[0-9]{1,2}$`)
	define = regexp.MustCompile(`^[A-Z][A-Z0-9_]*(=[0-9]+)?$`)
)

// Rows returns all rows, in the order of rows.md.
func Rows() ([]Row, error) {
	text, err := files.ReadFile("rows.md")
	if err != nil {
		return nil, err
	}
	return parseRows(string(text))
}

func parseRows(text string) ([]Row, error) {
	var rows []Row
	var group, model string
	for n, line := range strings.Split(text, "\n") {
		if m := heading.FindStringSubmatch(line); m != nil {
			group, model = m[1], m[2]
			continue
		}
		cells := cells(line)
		if len(cells) == 0 || !rowID.MatchString(cells[0]) {
			continue
		}
		row, err := parseRow(cells)
		if err != nil {
			return nil, fmt.Errorf("rows.md:%d: %w", n+1, err)
		}
		row.Group, row.Model = group, model
		if model == "" || slices.ContainsFunc(rows, func(r Row) bool { return r.ID == row.ID }) {
			return nil, fmt.Errorf("rows.md:%d: %s stands under no model, or twice", n+1, row.ID)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func parseRow(cells []string) (Row, error) {
	if len(cells) != 6 {
		return Row{}, fmt.Errorf("parse row %s: %d columns instead of 6", cells[0], len(cells))
	}
	row := Row{ID: cells[0], Rules: strings.Fields(cells[2]), Defines: strings.Fields(strings.Trim(cells[4], "`")), What: cells[5]}
	var err error
	if row.Expect, err = parseVerdict(cells[1]); err != nil {
		return Row{}, err
	}
	if row.Set, err = parseSet(cells[3]); err != nil {
		return Row{}, err
	}
	for _, r := range row.Rules {
		if !rule.MatchString(r) {
			return Row{}, fmt.Errorf("parse row %s: %q is no rule", row.ID, r)
		}
	}
	for _, d := range row.Defines {
		if !define.MatchString(d) {
			return Row{}, fmt.Errorf("parse row %s: %q is no definition", row.ID, d)
		}
	}
	return row, nil
}

// cells returns the columns of a line of a Markdown table, nil for another line.
func cells(line string) []string {
	inner, isRow := strings.CutPrefix(line, "|")
	if !isRow {
		return nil
	}
	inner, isRow = strings.CutSuffix(strings.TrimSpace(inner), "|")
	if !isRow {
		return nil
	}
	all := strings.Split(inner, "|")
	for i, c := range all {
		all[i] = strings.TrimSpace(c)
	}
	return all
}
