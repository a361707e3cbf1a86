package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/meshpdb/meshpdb/e2e/bench/live"
	"github.com/meshpdb/meshpdb/e2e/bench/paper"
	"github.com/meshpdb/meshpdb/e2e/sandbox"
)

// pace is how long pods take to start and to stop.
type pace struct{ start, stop sandbox.Range }

// paces at which the budget is the limit rather than the machine: pods that are fast, and
// pods that are worth a budget.
var paces = []pace{
	{start: sandbox.Range{Min: 500 * time.Millisecond, Max: 1700 * time.Millisecond}, stop: sandbox.Range{Min: 200 * time.Millisecond, Max: 600 * time.Millisecond}},
	{start: sandbox.Range{Min: 2 * time.Second, Max: 8 * time.Second}, stop: sandbox.Range{Min: time.Second, Max: 3 * time.Second}},
}

const (
	// paceRTT is the distance at which they are measured.
	paceRTT = 20 * time.Millisecond
	// paceFactor is how much longer than others these races are: each slot is used a few times a minute.
	paceFactor = 2
)

// most is how many pods a second the budget lets go: a slot is taken until the replacement has started, which is
// made as soon as the old pod begins to stop.
func (p pace) most() float64 { return live.Budget / ((p.start.Min + p.start.Max) / 2).Seconds() }

func measurePace(ctx context.Context, o options, progress io.Writer) (chapter, error) {
	results := make([]live.Result, len(paces))
	for i, p := range paces {
		var err error
		results[i], err = live.Measure(ctx, live.Options{
			PodStart: p.start, PodStop: p.stop, RTTs: []time.Duration{paceRTT}, Duration: paceFactor * o.duration, Progress: progress,
		})
		if err != nil {
			return chapter{}, fmt.Errorf("pods that start in %s: %w", p.start, err)
		}
	}
	return paceChapter(results), nil
}

// paceChapter tells of the results at each of paces.
func paceChapter(results []live.Result) chapter {
	return chapter{write: func(d *paper.Document) {
		d.Heading(2, "Pods that take their time")
		d.Say("The same callers and budgets, with pods that take as long as pods do: the slower they are, the more the budget is the limit and the less the machine, as in real clusters. " +
			"What meshpdb costs is how long a slot lies idle between a pod's return and the next permission; what it gains is that a cluster may use what another one leaves.")
		for i, r := range results {
			p := paces[i]
			d.Say("Pods that take %s to stop and %s to start: a budget of %d lets %s of them go in a second, and %[3]d more at the beginning.",
				p.stop, p.start, live.Budget, paper.Number(p.most()))
			d.Table(throughput(r))
		}
	}}
}
