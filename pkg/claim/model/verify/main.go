// The verify command searches the rows of the protocol's models, and shows the
// counterexample of one.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/meshpdb/meshpdb/pkg/claim/model"
)

type options struct {
	rows, write, trace string
	workers            int
	limit              time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.rows, "rows", ".*", "search the rows whose ID matches this regular expression")
	flag.StringVar(&o.write, "write", "", "merge the results into this file")
	flag.StringVar(&o.trace, "trace", "", "show the counterexample of this row instead")
	flag.IntVar(&o.workers, "workers", 2, "how many searches run at a time")
	flag.DurationVar(&o.limit, "limit", 20*time.Minute, "time limit of one search")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	rows, err := model.Rows()
	if err != nil {
		return err
	}
	if err := model.Available(); err != nil {
		return err
	}
	if o.trace != "" {
		return trace(ctx, rows, o.trace)
	}
	wanted, err := regexp.Compile("^(" + o.rows + ")$")
	if err != nil {
		return err
	}
	results := map[string]model.Result{}
	if o.write != "" {
		// Results of rows that are not searched now stay, unless their row is gone.
		text, err := os.ReadFile(o.write)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if results, err = model.ParseTable(string(text)); err != nil {
			return err
		}
	}
	// After each row: the next one may take minutes.
	save := func() error {
		if o.write == "" {
			return nil
		}
		return os.WriteFile(o.write, []byte(model.Table(rows, results)), 0o644)
	}
	return search(ctx, slices.DeleteFunc(slices.Clone(rows), func(r model.Row) bool { return !wanted.MatchString(r.ID) }), results, save, o)
}

// search runs rows, those that took longest first, and puts what they found into results.
func search(ctx context.Context, rows []model.Row, results map[string]model.Result, save func() error, o options) error {
	slices.SortStableFunc(rows, func(a, b model.Row) int { return cmp.Compare(results[b.ID].Took, results[a.ID].Took) })
	start := time.Now()
	queue := make(chan model.Row, len(rows))
	for _, r := range rows {
		queue <- r
	}
	close(queue)
	var mu sync.Mutex
	var failures []error
	var workers sync.WaitGroup
	for range o.workers {
		workers.Go(func() {
			for row := range queue {
				r, err := one(ctx, row, o.limit)
				if ctx.Err() != nil {
					return
				}
				mu.Lock()
				if err == nil {
					results[row.ID] = r
					err = errors.Join(judge(row, r), save())
				}
				failures = append(failures, err)
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	if err := errors.Join(append(failures, ctx.Err())...); err != nil {
		return err
	}
	fmt.Printf("%d rows, all as expected, in %v\n", len(rows), time.Since(start).Round(time.Second))
	return nil
}

// judge tells how a search came out, and returns an error if not as expected.
func judge(row model.Row, r model.Result) error {
	verdict := "as expected"
	if !r.Expected(row) {
		verdict = "UNEXPECTED: " + r.Why
	}
	fmt.Printf("%s %-9v %11d states, depth %4d, %6.1fs  %s\n", row.ID, r.Verdict, r.States, r.Depth, r.Took.Seconds(), verdict)
	if r.Expected(row) {
		return nil
	}
	return fmt.Errorf("%s %v, expected %v: %s", row.ID, r.Verdict, row.Expect, row.What)
}

func one(ctx context.Context, row model.Row, limit time.Duration) (model.Result, error) {
	dir, err := os.MkdirTemp("", "meshpdb-model-")
	if err != nil {
		return model.Result{}, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return model.Run(ctx, row, dir)
}

func trace(ctx context.Context, rows []model.Row, id string) error {
	i := slices.IndexFunc(rows, func(r model.Row) bool { return r.ID == id })
	if i < 0 {
		return fmt.Errorf("trace %s: no such row in rows.md", id)
	}
	dir, err := os.MkdirTemp("", "meshpdb-model-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	text, err := model.Trace(ctx, rows[i], dir)
	if err != nil {
		return err
	}
	fmt.Printf("%s: %s\n%s", id, rows[i].What, text)
	return nil
}
