package main

import (
	"context"
	"io"
	"time"

	"github.com/meshpdb/meshpdb/e2e/bench/live"
	"github.com/meshpdb/meshpdb/e2e/bench/paper"
	"github.com/meshpdb/meshpdb/e2e/sandbox"
)

// The pace of pods that are worth a budget, and the distance at which it is measured.
var (
	podStart = sandbox.Range{Min: 2 * time.Second, Max: 8 * time.Second}
	podStop  = sandbox.Range{Min: time.Second, Max: 3 * time.Second}
)

const (
	paceRTT = 20 * time.Millisecond
	// paceFactor is how much longer than others this race is: each slot is used a few times a minute.
	paceFactor = 2
)

func measurePace(ctx context.Context, o options, progress io.Writer) (chapter, error) {
	r, err := live.Measure(ctx, live.Options{
		PodStart: podStart, PodStop: podStop, RTTs: []time.Duration{paceRTT}, Duration: paceFactor * o.duration, Progress: progress,
	})
	return paceChapter(r), err
}

func paceChapter(r live.Result) chapter {
	return chapter{write: func(d *paper.Document) {
		d.Heading(2, "Pods that take seconds")
		d.Say("The same callers and budgets, with pods that take %s to stop and %s to start: now the budget is the limit and not the machine, as in real clusters. "+
			"What meshpdb costs is how long a slot lies idle between a pod's return and the next permission; what it gains is that a cluster may use what another one leaves.",
			podStop, podStart)
		d.Table(throughput(r))
	}}
}
