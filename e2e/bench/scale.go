package main

import (
	"context"
	"io"
	"time"

	"github.com/meshpdb/meshpdb/e2e/bench/paper"
	"github.com/meshpdb/meshpdb/e2e/scale"
)

// footprint is what one controller needs in a cluster with many pods.
type footprint struct {
	pods, budgets int
	// empty is a controller in a cluster without any; first starts beside all of
	// them with nothing published yet, again with all of it there.
	empty, first, again use
}

// use is what a controller used from its start until everything was published
// and every status written, in bytes and time.
type use struct {
	ready, published, written time.Duration
	heap, rss, peak           float64
	cpu                       time.Duration
}

// podsPerBudget is how many pods each budget covers.
const podsPerBudget = 10

func measureScale(ctx context.Context, pods int, progress io.Writer) (footprint, error) {
	r, err := scale.Measure(ctx, scale.Options{Pods: pods, Budgets: pods / podsPerBudget, Progress: progress})
	if err != nil {
		return footprint{}, err
	}
	used := func(run scale.Run) use {
		u := run.Settled
		return use{
			ready: run.Ready, published: run.Published, written: run.Written,
			heap: float64(u.Heap), rss: float64(u.RSS), peak: float64(u.PeakRSS), cpu: u.CPU,
		}
	}
	return footprint{
		pods: r.Pods, budgets: r.Budgets, empty: used(scale.Run{Settled: r.Empty}), first: used(r.First), again: used(r.Again),
	}, nil
}

// scaled is a section about one controller with many pods, whoever measures that.
func scaled(measure func(ctx context.Context, pods int, progress io.Writer) (footprint, error)) section {
	return section{"scale", func(ctx context.Context, o options, progress io.Writer) (chapter, error) {
		f, err := measure(ctx, o.pods, progress)
		return scaleChapter(f), err
	}}
}

func scaleChapter(f footprint) chapter {
	write := func(d *paper.Document) {
		d.Heading(2, "One controller and many pods")
		d.Say("One real controller in one real cluster with %s pods and %s budgets that cover all of them: how long after its start it is ready to decide, "+
			"has published every pod to the kvstore and has written the status of every budget, and what it uses when that is done. "+
			"Each pod costs %s of heap, its share of everything else included.",
			paper.Count(f.pods), paper.Count(f.budgets), paper.Bytes((f.again.heap-f.empty.heap)/float64(max(1, f.pods))))
		t := paper.Table{Columns: []string{"", "ready", "published", "statuses written", "heap", "RSS", "peak RSS", "CPU time"}}
		for _, row := range []struct {
			name string
			use
		}{{"no pods at all", f.empty}, {"first start", f.first}, {"start again", f.again}} {
			t.Row(row.name, after(row.ready), after(row.published), after(row.written),
				paper.Bytes(row.heap), paper.Bytes(row.rss), paper.Bytes(row.peak), after(row.cpu))
		}
		d.Table(t)
		d.Say("What took most of the time at start, by its CPU profile, and is gone: a read of each pod from the API server before it was shown as available " +
			"(one list verifies all of them now); looking at every budget of a namespace for each pod, owner and record (an index by label tells); " +
			"and making every pod whole again at each resync. What is left is decoding whole pods, which the API server sends and the controller keeps a few fields of, " +
			"and collecting that garbage: about a third each.")
	}
	return chapter{write: write}
}

// after is empty for what was not waited for.
func after(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return paper.Duration(d)
}
