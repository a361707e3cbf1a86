package main

import (
	"context"
	"io"
	"strconv"
	"time"

	"github.com/meshpdb/meshpdb/e2e/bench/paper"
	"github.com/meshpdb/meshpdb/e2e/bench/recorded"
	"github.com/meshpdb/meshpdb/e2e/bench/stats"
)

func measureClusters(ctx context.Context, o options, progress io.Writer) (chapter, error) {
	r, err := recorded.Measure(ctx, recorded.Options{Meshes: o.meshes, Samples: o.samples, Progress: progress})
	return clustersChapter(r.Meshes), err
}

func measureEndpoints(ctx context.Context, o options, progress io.Writer) (chapter, error) {
	r, err := recorded.Measure(ctx, recorded.Options{Endpoints: o.endpoints, Samples: o.samples, Progress: progress})
	return endpointsChapter(r.Endpoints), err
}

func measureBudgets(ctx context.Context, o options, progress io.Writer) (chapter, error) {
	r, err := recorded.Measure(ctx, recorded.Options{Budgets: o.budgets, Samples: o.samples, Progress: progress})
	return budgetsChapter(r.Budgets), err
}

func clustersChapter(meshes []recorded.Mesh) chapter {
	write := func(d *paper.Document) {
		d.Heading(2, "Cost by number of clusters")
		d.Say("One controller's real mesh client and decider, against etcds that hold what the controllers and the Cilium of so many clusters would have written: " +
			"two budgets with three pods in every cluster. Each peer has a client, a connection and a standing view of its own; several peers share an etcd, and no distance is simulated. " +
			"A preview is one round of fresh reads without a claim, as a dry-run gets it. A grant is the whole decision, with the claim written to the own kvstore, " +
			"but without the two writes to the Kubernetes API, which do not depend on the number of clusters.")
		t := paper.Table{Columns: []string{"clusters", "arithmetic p50", "refusal, cached view p50", "p99", "preview p50", "p99", "grant p50", "p99", "grant p50 / first row"}}
		for _, m := range meshes {
			t.Row(strconv.Itoa(m.Clusters), p(m.Core, 50), p(m.Refusal, 50), p(m.Refusal, 99), p(m.Preview, 50), p(m.Preview, 99), p(m.Grant, 50), p(m.Grant, 99),
				ratio(m.Grant.Percentile(50), meshes[0].Grant.Percentile(50)))
		}
		d.Table(t)
		d.Show("performance-clusters.svg", "Time of a decision by number of clusters")
		d.Say("What it holds for that: heap and stacks after a garbage collection, goroutines and connections, all of them on top of what the process had before; and how long it took from nothing until all views stood.")
		t = paper.Table{Columns: []string{"clusters", "memory", "for each cluster", "goroutines", "for each cluster", "connections", "all views stand after"}}
		for _, m := range meshes {
			t.Row(strconv.Itoa(m.Clusters), paper.Bytes(m.Standing.Memory), paper.Bytes(m.Standing.Memory/float64(m.Clusters)),
				paper.Count(m.Standing.Goroutines), paper.Number(float64(m.Standing.Goroutines)/float64(m.Clusters)),
				strconv.Itoa(m.Standing.Connections), paper.Duration(m.Ready))
		}
		d.Table(t)
	}
	return chapter{write: write, charts: map[string]paper.Chart{"performance-clusters.svg": clustersChart(meshes)}}
}

func clustersChart(meshes []recorded.Mesh) paper.Chart {
	c := paper.Chart{
		Kind: paper.Lines, Log: true, Title: "Time of a decision by number of clusters", X: "clusters", Y: "milliseconds, p50",
		Series: []paper.Series{{Name: "grant: claim and fresh reads"}, {Name: "preview: fresh reads"}, {Name: "refusal from the cached view"}, {Name: "arithmetic alone", Dashed: true}},
	}
	for _, m := range meshes {
		c.Places = append(c.Places, strconv.Itoa(m.Clusters))
		for i, took := range []stats.Distribution{m.Grant, m.Preview, m.Refusal, m.Core} {
			c.Series[i].Values = append(c.Series[i].Values, positive(took.Percentile(50)))
		}
	}
	return c
}

// positive is a duration in milliseconds for a logarithmic axis; a clock that
// has not moved counts as one tick.
func positive(d time.Duration) float64 { return paper.Milliseconds(max(d, 1)) }

func endpointsChapter(rows []recorded.Endpoints) chapter {
	write := func(d *paper.Document) {
		d.Heading(2, "Cost by endpoints in the namespace")
		d.Say("A fresh read of a cluster compares its pods with the endpoints that Cilium exports. " +
			"Here other Services of the budget's namespace have endpoints too, a hundred in a slice, encoded by Cilium's own code; " +
			"measured is the read of one cluster and what its etcd sent for it.")
		t := paper.Table{Columns: []string{"other endpoints", "read p50", "p99", "p50 / first row", "bytes sent", "bytes / first row"}}
		for _, r := range rows {
			t.Row(paper.Count(r.Endpoints), p(r.Snapshot, 50), p(r.Snapshot, 99), ratio(r.Snapshot.Percentile(50), rows[0].Snapshot.Percentile(50)),
				paper.Bytes(r.Bytes), paper.Number(r.Bytes/rows[0].Bytes))
		}
		d.Table(t)
	}
	return chapter{write: write}
}

func budgetsChapter(rows []recorded.Budgets) chapter {
	write := func(d *paper.Document) {
		d.Heading(2, "Cost by number of budgets")
		d.Say("Three clusters whose stores hold so many budgets, ten in each namespace, with a pod in every cluster. " +
			"A decision reads and counts its own budget only; what grows is the standing view.")
		t := paper.Table{Columns: []string{"budgets", "refusal, cached view p50", "p99", "p50 / first row", "preview p50", "p99", "p50 / first row", "memory", "for each budget and cluster", "all views stand after"}}
		for _, r := range rows {
			t.Row(paper.Count(r.Budgets), p(r.Refusal, 50), p(r.Refusal, 99), ratio(r.Refusal.Percentile(50), rows[0].Refusal.Percentile(50)),
				p(r.Preview, 50), p(r.Preview, 99), ratio(r.Preview.Percentile(50), rows[0].Preview.Percentile(50)),
				paper.Bytes(r.Standing.Memory), perBudget(rows[0], r), paper.Duration(r.Ready))
		}
		d.Table(t)
	}
	return chapter{write: write}
}

// perBudget is what one more budget costs in one cluster's view, against the
// first row, whose memory is that of clients and connections.
func perBudget(first, r recorded.Budgets) string {
	if r.Budgets <= first.Budgets {
		return ""
	}
	return paper.Bytes((r.Standing.Memory - first.Standing.Memory) / float64(r.Budgets-first.Budgets) / recorded.Small)
}

func p(d stats.Distribution, q float64) string { return paper.Duration(d.Percentile(q)) }
