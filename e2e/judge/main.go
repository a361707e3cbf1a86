// Command judge judges histories that a run has kept:
//
//	go run ./e2e/judge -picture violation.html histories/race-held.jsonl
//
// It exits with 0 if all were held, with 1 if one was violated, and with 2 if
// one could not be judged. A history whose last line is cut off is judged up to there.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/history"
)

const (
	exitHeld = iota
	exitViolated
	exitUndecided
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("judge", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var o history.Options
	flags.DurationVar(&o.Lag, "lag", scenario.Lag, "how long after a death or a change of the budget a decision may rest on what was before")
	flags.DurationVar(&o.Limit, "limit", history.DefaultLimit, "limit of the time of one search")
	flags.DurationVar(&o.Idle, "idle", 0, "longest time for which budget may lie idle while somebody asks; 0 for any")
	picture := flags.String("picture", "", "page of HTML to draw the first violation of the last history on")
	if err := flags.Parse(args); err != nil {
		return exitUndecided
	}
	if flags.NArg() == 0 {
		fmt.Fprintln(stderr, "name the histories to judge")
		return exitUndecided
	}
	code := exitHeld
	for _, path := range flags.Args() {
		report, err := judge(path, o)
		if err != nil {
			fmt.Fprintf(stderr, "judge %s: %v\n", path, err)
			code = exitUndecided
			continue
		}
		fmt.Fprintf(stdout, "%s\n%s\n", path, report)
		switch report.Verdict() {
		case history.Held:
		case history.Violated:
			code = max(code, exitViolated)
			if err := draw(report, *picture); err != nil {
				fmt.Fprintln(stderr, err)
				code = exitUndecided
			}
		default:
			code = exitUndecided
		}
	}
	return code
}

func judge(path string, o history.Options) (history.Report, error) {
	file, err := os.Open(path)
	if err != nil {
		return history.Report{}, err
	}
	defer file.Close()
	h, err := history.Read(file)
	if err != nil && !errors.Is(err, history.ErrTruncated) {
		return history.Report{}, err
	}
	return history.Check(h, o)
}

// draw draws the first violation, if there is a path for it.
func draw(report history.Report, path string) (err error) {
	if path == "" {
		return nil
	}
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("draw violation: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	_, err = report.Visualize(file)
	return err
}
