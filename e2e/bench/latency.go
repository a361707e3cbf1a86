package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/meshpdb/meshpdb/e2e/bench/live"
	"github.com/meshpdb/meshpdb/e2e/bench/paper"
	"github.com/meshpdb/meshpdb/e2e/bench/stats"
)

// What a decision may take beyond one round trip when nothing else goes on.
const (
	medianGoal = 25 * time.Millisecond
	tailGoal   = 80 * time.Millisecond
)

func measureLatency(ctx context.Context, o options, progress io.Writer) (chapter, error) {
	r, err := live.Measure(ctx, live.Options{RTTs: o.rtts, Duration: o.duration, Polite: o.polite, Progress: progress})
	if err != nil {
		return chapter{}, err
	}
	return latencyChapter(r), nil
}

func latencyChapter(r live.Result) chapter {
	return chapter{
		write: func(d *paper.Document) {
			d.Heading(2, "Latency and throughput")
			d.Say("Three real clusters with %d controllers and %d pods each, and one budget over all of them: maxUnavailable %d. "+
				"Pods start and stop at once, so what is waited for is the decisions. The network between the clusters is simulated; the rest is not.",
				live.Controllers, live.Replicas, live.Budget)
			writeCalm(d, r.Distances)
			writeSpent(d, r.Distances)
			writeSteps(d, r.Distances)
			writeThroughput(d, r)
			writeRaces(d, r)
		},
		charts: map[string]paper.Chart{
			"performance-latency.svg":    calmChart(r.Distances),
			"performance-steps.svg":      stepsChart(r.Distances),
			"performance-throughput.svg": throughputChart(r),
		},
	}
}

func writeCalm(d *paper.Document, distances []live.Distance) {
	d.Heading(3, "What one permission takes")
	d.Say("One caller in one cluster evicts one pod after the other, each when the one before was replaced. “In the handler” is what the controller logs, "+
		"“for the caller” includes the API server. The floor is one write to the own kvstore and one linearizable read of a peer's, timed before each eviction: "+
		"a cluster must show its claim before it looks at those of others, so nothing that holds a budget together can be faster. "+
		"The goal for the handler is the round trip and %s at the median, and the round trip and %s at p99: %s.",
		rtt(medianGoal), rtt(tailGoal), goals(distances))
	t := paper.Table{Columns: []string{"round trip", "floor p50", "handler p50", "p90", "p99", "p50 less round trip", "p99 less round trip", "p50 / floor", "caller p50", "p99", "samples"}}
	for _, at := range distances {
		g, seen := at.Calm.Answers.Grants, at.Calm.Seen
		t.Row(rtt(at.RTT), paper.Duration(at.Calm.Floor(50)),
			paper.Duration(g.Percentile(50)), paper.Duration(g.Percentile(90)), paper.Duration(g.Percentile(99)),
			paper.Duration(g.Percentile(50)-at.RTT), paper.Duration(g.Percentile(99)-at.RTT), ratio(g.Percentile(50), at.Calm.Floor(50)),
			paper.Duration(seen.Percentile(50)), paper.Duration(seen.Percentile(99)), strconv.Itoa(len(g)))
	}
	d.Table(t)
	for _, at := range distances {
		if at.Calm.Refused > 0 {
			d.Say("At %s, %d of %d were refused although budget was free; they are not in the table.", rtt(at.RTT), at.Calm.Refused, at.Calm.Refused+len(at.Calm.Seen))
		}
	}
	d.Show("performance-latency.svg", "Time of one permission by round-trip time, with the floor")
}

// refusalGoal is what a refusal from the cached view may take at p99 when nothing else goes on.
const refusalGoal = time.Millisecond

func writeSpent(d *paper.Document, distances []live.Distance) {
	d.Heading(3, "What one refusal takes")
	var missed []string
	t := paper.Table{Columns: []string{"round trip", "handler p50", "p90", "p99", "from the cached view", "after a claim"}}
	for _, at := range distances {
		cached := at.Calm.Spent.Cached
		if cached.Percentile(99) > refusalGoal || len(at.Calm.Spent.Decided) > 0 {
			missed = append(missed, rtt(at.RTT))
		}
		t.Row(rtt(at.RTT), paper.Duration(cached.Percentile(50)), paper.Duration(cached.Percentile(90)), paper.Duration(cached.Percentile(99)),
			strconv.Itoa(len(cached)), strconv.Itoa(len(at.Calm.Spent.Decided)))
	}
	verdict := "kept at every distance"
	if len(missed) > 0 {
		verdict = "missed at " + strings.Join(missed, ", ")
	}
	d.Say("The same caller, one request after the other, while the budget has nothing to give. The cached view refuses: no write, no network call, "+
		"and no second webhook. The goal is %s at p99: %s.", rtt(refusalGoal), verdict)
	d.Table(t)
}

// goals says where the goals were kept.
func goals(distances []live.Distance) string {
	var missed []string
	for _, at := range distances {
		g := at.Calm.Answers.Grants
		if g.Percentile(50) > at.RTT+medianGoal || g.Percentile(99) > at.RTT+tailGoal {
			missed = append(missed, rtt(at.RTT))
		}
	}
	if len(missed) == 0 {
		return "kept at every distance"
	}
	return "missed at " + strings.Join(missed, ", ")
}

func calmChart(distances []live.Distance) paper.Chart {
	c := paper.Chart{
		Kind: paper.Bars, Title: "Time of one permission, in the handler", X: "round-trip time between clusters", Y: "milliseconds",
		Series: []paper.Series{{Name: "floor: one write and one read, p50"}, {Name: "permission p50"}, {Name: "permission p90"}, {Name: "permission p99"}},
	}
	for _, at := range distances {
		c.Places = append(c.Places, rtt(at.RTT))
		g := at.Calm.Answers.Grants
		for i, took := range []time.Duration{at.Calm.Floor(50), g.Percentile(50), g.Percentile(90), g.Percentile(99)} {
			c.Series[i].Values = append(c.Series[i].Values, paper.Milliseconds(took))
		}
	}
	return c
}

func writeThroughput(d *paper.Document, r live.Result) {
	d.Heading(3, "How much gets through")
	d.Say("%d eager callers in each cluster ask for random pods, with a pause of %s between an answer and the next question. "+
		"The baseline is what one would do without meshpdb: native PodDisruptionBudgets that share the %d pods out, a fixed part to each cluster. "+
		"They decide without looking at any other cluster, and cannot lend what one of them does not use. "+
		"The longest gap is the longest time in which more pods were available than the budget wants, somebody was asking, and nobody was granted. "+
		"Cores that are all busy mean that the machine was the limit, not the budget.",
		live.Callers, rtt(live.Pause), live.Budget)
	d.Table(throughput(r))
	d.Show("performance-throughput.svg", "Grants per second under native budgets and under meshpdb")
}

// throughput sets races beside the one under native budgets.
func throughput(r live.Result) paper.Table {
	t := paper.Table{Columns: []string{"", "grants per second", "of native", "granted", "refused", "most unavailable", "longest gap", "cores busy"}}
	row := func(name string, race live.Race) {
		t.Row(name, paper.Number(race.PerSecond()), percent(race.PerSecond()/r.Native.PerSecond()),
			paper.Count(race.Granted), paper.Count(race.Refused), strconv.Itoa(race.Worst), paper.Duration(race.Gap), percent(race.Busy))
	}
	row("native", r.Native)
	for _, at := range r.Distances {
		row("meshpdb, "+rtt(at.RTT), at.Race)
	}
	return t
}

func throughputChart(r live.Result) paper.Chart {
	c := paper.Chart{
		Kind: paper.Bars, Title: fmt.Sprintf("Grants per second, %d pods of %d may be unavailable", live.Budget, live.Replicas*live.Clusters),
		X: "round-trip time between clusters", Y: "grants per second",
		Series: []paper.Series{{Name: "native budgets, shared out"}, {Name: "meshpdb"}},
	}
	for _, at := range r.Distances {
		c.Places = append(c.Places, rtt(at.RTT))
		c.Series[0].Values = append(c.Series[0].Values, r.Native.PerSecond())
		c.Series[1].Values = append(c.Series[1].Values, at.Race.PerSecond())
	}
	return c
}

func writeRaces(d *paper.Document, r live.Result) {
	d.Heading(3, "What answers take when everybody asks")
	d.Say("The same races. A refusal from the cached view costs neither a write nor a network call; one that a claim was made for has lost against others. " +
		"A permission may have to wait until claims that compete with it are decided.")
	t := paper.Table{Words: 2, Columns: []string{"in the handler", "", "p50", "p90", "p99", "answers"}}
	for _, at := range r.Distances {
		row(&t, rtt(at.RTT), "permission", at.Race.Answers.Grants)
		row(&t, "", "refusal, cached view", at.Race.Answers.Cached)
		row(&t, "", "refusal, after a claim", at.Race.Answers.Decided)
	}
	d.Table(t)
	t = paper.Table{Words: 2, Columns: []string{"for the caller", "", "p50", "p90", "p99", "answers"}}
	row(&t, "native", "permission", r.Native.GrantSeen)
	row(&t, "", "refusal", r.Native.RefusalSeen)
	for _, at := range r.Distances {
		row(&t, "meshpdb, "+rtt(at.RTT), "permission", at.Race.GrantSeen)
		row(&t, "", "refusal", at.Race.RefusalSeen)
	}
	d.Table(t)
}

// row adds the percentiles of what was answered; a kind of answer that never
// came has no row.
func row(t *paper.Table, first, second string, took stats.Distribution) {
	if len(took) > 0 {
		t.Row(first, second, paper.Duration(took.Percentile(50)), paper.Duration(took.Percentile(90)), paper.Duration(took.Percentile(99)), paper.Count(len(took)))
	}
}

func rtt(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

// ratio writes a / b.
func ratio(a, b time.Duration) string {
	if b == 0 {
		return ""
	}
	return paper.Number(float64(a) / float64(b))
}

func percent(share float64) string { return fmt.Sprintf("%.0f%%", 100*share) }
