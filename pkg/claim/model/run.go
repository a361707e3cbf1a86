package model

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Result is what became of one search.
type Result struct {
	ID      string
	Verdict Verdict
	// States that were visited and stored, and the Depth of the longest path to one.
	States, Depth int
	Took          time.Duration
	// Digest names what was searched.
	Digest string
	// Why is the violation, or why the search ended undecided; empty if it holds.
	Why string
}

// Expected reports whether the search came out as its row says.
func (r Result) Expected(row Row) bool { return r.Verdict == row.Expect }

// memory is what one search may use, in MiB.
const memory = 6000

// Available returns an error that says what is missing to search at all.
func Available() error {
	var missing []error
	for _, tool := range []string{"spin", "gcc"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, fmt.Errorf("%w (Debian's package %s)", err, tool))
		}
	}
	return errors.Join(missing...)
}

// Run searches one row in dir, which must be empty and is the caller's to
// remove. That ctx ends makes it undecided; an error means that the search
// could not begin.
func Run(ctx context.Context, row Row, dir string) (Result, error) {
	result := Result{ID: row.ID, Verdict: Undecided}
	source, err := files.ReadFile(row.Model + ".pml")
	if err != nil {
		return result, err
	}
	if result.Digest, err = Digest(ctx, row); err != nil {
		return result, err
	}
	if err := os.WriteFile(filepath.Join(dir, modelFile), source, 0o600); err != nil {
		return result, err
	}
	generate := append([]string{"-a"}, row.flags()...)
	if out, err := command(ctx, dir, "spin", append(generate, modelFile)...); err != nil || strings.Contains(out, "Error") {
		return result, fmt.Errorf("generate the checker of %s: %w: %s", row.ID, cmpError(err), out)
	}
	compile, search := row.mode()
	if out, err := command(ctx, dir, "gcc", append(compile, "-o", "pan", "pan.c")...); err != nil {
		return result, fmt.Errorf("compile the checker of %s: %w: %s", row.ID, err, out)
	}
	start := time.Now()
	out, err := command(ctx, dir, "./pan", search...)
	result.Took = time.Since(start)
	if ctx.Err() != nil {
		result.Why = "no verdict in time"
		return result, nil
	}
	if err != nil && !strings.Contains(out, "pan") {
		return result, fmt.Errorf("search %s: %w: %s", row.ID, err, out)
	}
	result.read(out)
	return result, nil
}

// modelFile is the name that a model has where it is searched.
const modelFile = "model.pml"

func cmpError(err error) error {
	if err == nil {
		return errors.New("syntax error")
	}
	return err
}

func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	// What it has started itself must not keep us waiting.
	c.WaitDelay = 5 * time.Second
	out, err := c.CombinedOutput()
	return string(out), err
}

func (r Row) flags() []string {
	flags := make([]string, 0, len(r.Defines))
	for _, d := range r.Defines {
		flags = append(flags, "-D"+d)
	}
	return flags
}

// mode returns how the checker is compiled and called. What must fail is
// searched breadth first, for a shortest counterexample; live.pml also for
// states from which nothing goes on; starve.pml for fair cycles.
func (r Row) mode() (compile, search []string) {
	optimise := "-O2"
	if r.Set < Full {
		// To optimise takes longer than it saves.
		optimise = "-O0"
	}
	compile = []string{optimise, "-w", "-DCOLLAPSE", fmt.Sprintf("-DMEMLIM=%d", memory)}
	search = []string{"-w22", "-m2000000"}
	if r.Model == "starve" {
		return append(compile, "-DNFAIR=3"), append(search, "-a", "-f")
	}
	compile = append(compile, "-DSAFETY", "-DNOFAIR")
	if r.Expect == Fails {
		compile = append(compile, "-DBFS")
	}
	if r.Model != "live" {
		search = append(search, "-E")
	}
	return compile, search
}

var (
	errorCount = regexp.MustCompile(`errors: (\d+)`)
	stateCount = regexp.MustCompile(`(?m)^\s*([0-9.e+]+) states, stored`)
	depthCount = regexp.MustCompile(`depth reached (\d+)`)
	// violation is one of the property; an index out of bounds is a mistake in the model.
	violation = regexp.MustCompile(`pan:1: (assertion violated +!?\(.*\)|invalid end state|acceptance cycle) \(at depth`)
	// incomplete is what the checker says when it did not look everywhere.
	incomplete = regexp.MustCompile(`max search depth too small|reached -DMEMLIM bound|out of memory|aborting`)
)

// read takes the checker's report in. A search that was not complete holds nothing.
func (r *Result) read(out string) {
	number := func(e *regexp.Regexp) int {
		m := e.FindStringSubmatch(out)
		if m == nil {
			return 0
		}
		f, _ := strconv.ParseFloat(m[1], 64)
		return int(f)
	}
	r.Verdict, r.States, r.Depth = Undecided, number(stateCount), number(depthCount)
	switch {
	case errorCount.FindString(out) == "":
		r.Why = "no report: " + strings.TrimSpace(out)
	case number(errorCount) > 0 && violation.MatchString(out):
		r.Verdict, r.Why = Fails, violation.FindStringSubmatch(out)[1]
	case number(errorCount) > 0 || incomplete.MatchString(out):
		r.Why = "not searched to the end: " + incomplete.FindString(out)
	default:
		r.Verdict = Holds
	}
}

var space = regexp.MustCompile(`\s+`)

// Digest names what a row searches: its model as the preprocessor leaves it, so
// that neither a comment nor what is switched off in the row makes another one.
func Digest(ctx context.Context, row Row) (string, error) {
	source, err := files.ReadFile(row.Model + ".pml")
	if err != nil {
		return "", err
	}
	c := exec.CommandContext(ctx, "gcc", append([]string{"-E", "-P", "-x", "c"}, append(row.flags(), "-")...)...)
	c.Stdin = bytes.NewReader(source)
	code, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("preprocess %s: %w", row.ID, err)
	}
	sum := sha256.Sum256(space.ReplaceAll(code, []byte(" ")))
	return fmt.Sprintf("%x", sum[:4]), nil
}
