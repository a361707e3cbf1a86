package model

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// intro stands above the results.
const intro = `# What the models say

Written by ` + "`make verify-models`" + `; see docs/protocol.md for what it means. A search that holds has visited every state that its row
allows; one that fails was searched breadth first, so its depth is the length of a shortest counterexample.
`

// Table renders the results of rows, group by group, as results.md.
func Table(rows []Row, results map[string]Result) string {
	var out strings.Builder
	out.WriteString(intro)
	group := ""
	for _, row := range rows {
		r, known := results[row.ID]
		if !known {
			continue
		}
		if row.Group != group {
			group = row.Group
			fmt.Fprintf(&out, "\n## %s (%s.pml)\n\n| row | what | expected | verdict | why | states | depth | s | digest |\n|---|---|---|---|---|---:|---:|---:|---|\n", group, row.Model)
		}
		fmt.Fprintf(&out, "| %s | %s | %v | %v | %s | %d | %d | %.0f | %s |\n",
			row.ID, row.What, row.Expect, r.Verdict, short(r.Why), r.States, r.Depth, r.Took.Seconds(), r.Digest)
	}
	return out.String()
}

// short keeps the kind of a violation; what was asserted stands in the model.
func short(why string) string {
	if kind, _, found := strings.Cut(why, " ("); found {
		return kind
	}
	return why
}

// ParseTable reads what Table wrote.
func ParseTable(text string) (map[string]Result, error) {
	results := map[string]Result{}
	for n, line := range strings.Split(text, "\n") {
		c := cells(line)
		if len(c) == 0 || !rowID.MatchString(c[0]) {
			continue
		}
		if len(c) != 9 {
			return nil, fmt.Errorf("results.md:%d: %d columns instead of 9", n+1, len(c))
		}
		verdict, err := parseVerdict(c[3])
		if err != nil {
			return nil, fmt.Errorf("results.md:%d: %w", n+1, err)
		}
		states, err := strconv.Atoi(c[5])
		if err != nil {
			return nil, fmt.Errorf("results.md:%d: %w", n+1, err)
		}
		depth, err := strconv.Atoi(c[6])
		if err != nil {
			return nil, fmt.Errorf("results.md:%d: %w", n+1, err)
		}
		seconds, err := strconv.Atoi(c[7])
		if err != nil {
			return nil, fmt.Errorf("results.md:%d: %w", n+1, err)
		}
		results[c[0]] = Result{ID: c[0], Verdict: verdict, Why: c[4], States: states, Depth: depth, Took: time.Duration(seconds) * time.Second, Digest: c[8]}
	}
	return results, nil
}

// Outdated returns the rows whose result is missing, is of another model or
// other definitions, or is not the expected one.
func Outdated(ctx context.Context, rows []Row, results map[string]Result) ([]string, error) {
	var all []string
	for _, row := range rows {
		digest, err := Digest(ctx, row)
		if err != nil {
			return nil, err
		}
		if r, known := results[row.ID]; !known || r.Digest != digest || !r.Expected(row) {
			all = append(all, row.ID)
		}
	}
	for id := range results {
		if !slices.ContainsFunc(rows, func(r Row) bool { return r.ID == id }) {
			all = append(all, id)
		}
	}
	slices.Sort(all)
	return all, nil
}
