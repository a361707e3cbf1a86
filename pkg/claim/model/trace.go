package model

import (
	"context"
	"fmt"
	"regexp"
	"strings"
)

// Trace returns the counterexample of a row that fails, one line for each
// change of a variable: step, process, what it is now, and the statement.
func Trace(ctx context.Context, row Row, dir string) (string, error) {
	result, err := Run(ctx, row, dir)
	if err != nil {
		return "", err
	}
	if result.Verdict != Fails {
		return "", fmt.Errorf("trace %s: it %v, so there is no counterexample", row.ID, result.Verdict)
	}
	args := append([]string{"-t", "-p", "-g", "-l"}, row.flags()...)
	out, err := command(ctx, dir, "spin", append(args, modelFile)...)
	if err != nil {
		return "", fmt.Errorf("replay %s: %w", row.ID, err)
	}
	return reduce(out) + result.Why + "\n", nil
}

var (
	statement  = regexp.MustCompile(`^\s*(\d+):\s+proc\s+(\d+) \((\S+?):\d+\) \S+ \(state \d+\)\s+\[(.*)\]`)
	assignment = regexp.MustCompile(`^\s+([A-Za-z_()0-9:\[\].]+) = (\d+)\s*$`)
)

// reduce keeps of Spin's trace what changes.
func reduce(trace string) string {
	var out strings.Builder
	var step, process, what string
	last := map[string]string{}
	for line := range strings.Lines(trace) {
		line = strings.TrimRight(line, "\n")
		if m := statement.FindStringSubmatch(line); m != nil {
			step, process, what = m[1], m[3]+m[2], m[4]
			continue
		}
		m := assignment.FindStringSubmatch(line)
		if m == nil || step == "" || last[m[1]] == m[2] {
			continue
		}
		last[m[1]] = m[2]
		fmt.Fprintf(&out, "%4s %-10s %-28s %.80s\n", step, process, m[1]+" = "+m[2], what)
	}
	return out.String()
}
