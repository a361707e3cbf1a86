package main

import (
	"slices"

	"github.com/meshpdb/meshpdb/e2e/bench/live"
	"github.com/meshpdb/meshpdb/e2e/bench/paper"
)

// meaning says in words what the steps of the protocol are.
func meaning(step string) string {
	switch step {
	case "AppendClaim":
		return "write the claim to the Kubernetes API"
	case "ReadRegistry":
		return "read the kvstore's instances from there, and write the claim to those known"
	case "WriteInstances":
		return "write the claim to the instances that were not known"
	case "ReadClusters":
		return "read all clusters' kvstores"
	case "AwaitChange":
		return "wait until claims that compete are decided"
	case "GrantClaim":
		return "write the grant to the Kubernetes API"
	case "WithdrawClaim":
		return "take the claim back, after the answer if need be"
	default:
		return ""
	}
}

func writeSteps(d *paper.Document, distances []live.Distance) {
	d.Heading(3, "Where the time goes")
	d.Say("Mean time that one decision spends in each step, from the controllers' histogram `meshpdb_decision_phase_duration_seconds`; " +
		"in the races, per request that a claim was made for, granted or not. Steps that are done at the same time count in full each.")
	t := paper.Table{Words: 2, Columns: []string{"step", ""}}
	for _, at := range distances {
		t.Columns = append(t.Columns, rtt(at.RTT)+", one by one", "in the race")
	}
	for _, name := range stepNames(distances) {
		cells := []string{name, meaning(name)}
		for _, at := range distances {
			cells = append(cells, stepTime(at.Calm.Steps, name), stepTime(at.Race.Steps, name))
		}
		t.Row(cells...)
	}
	sums, counts := []string{"decisions", ""}, false
	writes, rounds := []string{"moves on claims per durable write", ""}, []string{"decisions per round of reads", ""}
	for _, at := range distances {
		for _, s := range []live.Steps{at.Calm.Steps, at.Race.Steps} {
			sums = append(sums, paper.Count(s.Decisions))
			writes, rounds = append(writes, share(s.PerWrite)), append(rounds, share(s.PerRound))
			counts = counts || s.PerWrite > 0 || s.PerRound > 0
		}
	}
	t.Row(sums...)
	if counts {
		t.Row(writes...)
		t.Row(rounds...)
	}
	d.Table(t)
	d.Show("performance-steps.svg", "Time of one decision by step and round-trip time")
	writeRemedies(d)
}

// writeRemedies says what each step is for, and what it would take to do without.
func writeRemedies(d *paper.Document) {
	d.Say("What is not in these steps is one read of the pod before them. Each step is there for a rule of [the protocol](protocol.md); " +
		"who wants to do without it must change the model first:")
	t := paper.Table{Words: 3, Columns: []string{"step", "why it is there", "what would remove it"}}
	for _, row := range [][]string{
		{"AppendClaim", "a claim that a peer may have seen must survive a wiped kvstore (R2)", "a floor of its own for each cluster, below which it decides alone: the first disruptions would need no claim and no round trip"},
		{"ReadRegistry", "an instance that has registered since must get the claim too (R2)", "the list of instances inside the ledger: it would come back with the write that appends the claim"},
		{"WriteInstances", "peers read the kvstore and not the ledger (R2)", "nothing; beside the registry's read it takes no time of its own unless an instance is new"},
		{"ReadClusters", "one round trip to see whom the claim competes with (R3)", "nothing that looks at other clusters; floors as above for those that need not look"},
		{"GrantClaim", "a claim that was collected meanwhile must not be granted (R6)", "claims that count as granted until they are withdrawn: one write less for each grant, and every refused claim would then hold budget until its withdrawal is durable"},
	} {
		t.Row(row...)
	}
	d.Table(t)
}

func share(perUnit float64) string {
	if perUnit == 0 {
		return ""
	}
	return paper.Number(perUnit)
}

func stepTime(s live.Steps, name string) string {
	if step := find(s, name); step.Times > 0 {
		return paper.Duration(step.Mean)
	}
	return ""
}

func find(s live.Steps, name string) live.Step {
	if i := slices.IndexFunc(s.Steps, func(step live.Step) bool { return step.Name == name }); i >= 0 {
		return s.Steps[i]
	}
	return live.Step{}
}

// stepNames are all steps that were taken anywhere, in the order of the one
// that knows the most.
func stepNames(distances []live.Distance) []string {
	var all []live.Steps
	for _, at := range distances {
		all = append(all, at.Calm.Steps, at.Race.Steps)
	}
	slices.SortStableFunc(all, func(a, b live.Steps) int { return len(b.Steps) - len(a.Steps) })
	var names []string
	for _, s := range all {
		for _, step := range s.Steps {
			if !slices.Contains(names, step.Name) {
				names = append(names, step.Name)
			}
		}
	}
	return names
}

func stepsChart(distances []live.Distance) paper.Chart {
	c := paper.Chart{Kind: paper.Stacked, Title: "Where the time of one decision goes, one by one", X: "round-trip time between clusters", Y: "milliseconds, mean"}
	for _, at := range distances {
		c.Places = append(c.Places, rtt(at.RTT))
	}
	for _, name := range stepNames(distances) {
		s := paper.Series{Name: name}
		total := 0.0
		for _, at := range distances {
			took := paper.Milliseconds(find(at.Calm.Steps, name).Mean)
			s.Values = append(s.Values, took)
			total += took
		}
		if total > 0 {
			c.Series = append(c.Series, s)
		}
	}
	return c
}
