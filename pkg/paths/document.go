package paths

import (
	"fmt"
	"strings"
)

// Document is docs/paths.md.
func Document() string {
	var b strings.Builder
	b.WriteString(`# By which paths pods are disrupted

Written by ` + "`make generate`" + ` from the table that admission decides by (pkg/paths).

A budget covers what somebody asks Kubernetes to do. Who asks is judged by the authenticated user and by live facts (the node, its taints,
the namespace, the pod), never by the pod's condition DisruptionTarget. Let through whoever asks are pods that are terminating, have ended, were never started, or are mirrors of static pods.

| path | who asks, and how | an available pod is | unless | when it is refused |
|---|---|---|---|---|
`)
	for _, row := range Table {
		fmt.Fprintf(&b, "| %s | %s (%s) | %s | %s | %s |\n", row.Path, row.What, row.Request, row.Treatment, row.Unless, row.Refused)
	}
	b.WriteString(`
The first column is the label ` + "`path`" + ` of the metric meshpdb_decisions_total. A refusal is HTTP 429 with cause DisruptionBudget, in the words of the budget's decision, and is never a Retry-After but for the scheduler.
“Accounted” means that an Event, a metric and the log tell of it, and that the pod counts as unavailable from its deletion on.
TestPaths in e2e goes along every row on real clusters, with the real caller; kwok stands for the kubelets.

## What a person may do about a budget that is in the way

- ` + "`spec.suspend: true`" + ` on the budget in one cluster: disruptions in that cluster go whatever the budget says, and are claimed, so that the other clusters count them. The condition Enforced says so.
- The annotation ` + "`meshpdb.io/break-glass: \"why\"`" + ` on a pod, by somebody who may do the verb ` + "`break-glass`" + ` on the budget (` + "`meshpoddisruptionbudgets`" + ` in ` + "`meshpdb.io`" + `): his eviction or deletion of that pod goes, is claimed, counted, and told of with his name and reason. Without the annotation nobody is let through, cluster-admins included, whose drains would else never meet a budget.

## What no admission webhook can cover

`)
	for _, u := range Uncovered {
		fmt.Fprintf(&b, "- **%s**: %s\n", u.What, u.Why)
	}
	return b.String()
}
