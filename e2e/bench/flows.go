package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/meshpdb/meshpdb/e2e/bench/paper"
	"github.com/meshpdb/meshpdb/e2e/bench/recorded"
)

// flowRate is at which decisions are offered, a second: some thousand times what a busy mesh asks for.
const flowRate = 20_000

// flowGoal is by how much showing decisions may slow them.
const flowGoal = 0.05

func measureFlows(ctx context.Context, o options, progress io.Writer) (chapter, error) {
	flows := recorded.FlowOptions{Rate: flowRate, Time: o.flowTime, Rounds: o.flowRounds}
	r, err := recorded.Measure(ctx, recorded.Options{Flows: flows, Samples: o.samples, Progress: progress})
	return flowsChapter(flows, r.Flows), err
}

func flowsChapter(o recorded.FlowOptions, rows []recorded.Flows) chapter {
	write := func(d *paper.Document) {
		d.Heading(2, "Decisions while they are shown to Hubble")
		d.Say("A decision is what the webhook's handler makes of a decoded AdmissionReview, until its answer: here the refusal of an eviction from the cached view of three clusters, "+
			"which is the fastest one and so the easiest to slow. Left out are HTTP and TLS, which would hide what is measured. It is offered %s times a second, "+
			"whether those before were answered or not, by one caller for each core but one, for %s in each setting of [the flow pipeline](hubble.md). "+
			"All settings took turns of a fifth of a second, in %d rounds; each figure is the median of those, and each comparison the median of what the rounds say by themselves. The reader follows whole flows by gRPC and "+
			"runs in the same process, as does whatever else costs time; the export goes to files that are put aside at 10 MB.",
			paper.Count(o.Rate), paper.Duration(o.Time), o.Rounds)
		if len(rows) == 0 {
			return
		}
		off := rows[0]
		t := paper.Table{Columns: []string{"pipeline", "p50", "against off", "mean", "against off", "p99", "CPU for each decision", "more than off"}}
		for _, r := range rows {
			t.Row(r.Setting, paper.Duration(r.P50), change(r.P50More), paper.Duration(r.Mean), change(r.MeanMore), paper.Duration(r.P99), paper.Duration(r.CPU), more(r.CPU, off.CPU))
		}
		d.Table(t)
		d.Say("The goal, less than %s more at the median: %s.", percent(flowGoal), verdict(rows))
		d.Say("Where no core is left, readers and files take from decisions what the last column says, for each flow. %s a second is far above what a mesh decides.", paper.Count(o.Rate))
		d.Say("What became of the flows, in all rounds together:")
		t = paper.Table{Columns: []string{"pipeline", "decisions", "a second", "taken", "lost", "reached the reader", "in the export"}}
		for _, r := range rows[1:] {
			t.Row(r.Setting, paper.Count(r.Offered), paper.Count(int(r.Rate)), paper.Count(int(r.Shown)), paper.Count(int(r.Lost)), paper.Count(int(r.Followed)), paper.Count(int(r.Exported)))
		}
		d.Table(t)
	}
	return chapter{write: write}
}

// verdict names what misses the goal.
func verdict(rows []recorded.Flows) string {
	missed := ""
	for _, r := range rows {
		if r.P50More >= flowGoal {
			missed += ", " + r.Setting
		}
	}
	if missed == "" {
		return "kept in every setting"
	}
	return "missed by " + missed[2:]
}

func change(share float64) string { return fmt.Sprintf("%+.1f%%", 100*share) }

func more(a, b time.Duration) string {
	if a <= b {
		return ""
	}
	return paper.Duration(a - b)
}
