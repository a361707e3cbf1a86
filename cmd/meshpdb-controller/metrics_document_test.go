package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshpdb/meshpdb/pkg/claim"
)

// podOfNobody is asked for in everyMetric.
var podOfNobody corev1.Pod

// labels says what bounds the values of each label. None names a pod, a user or a node.
var labels = map[string]string{
	"path":      "the first column of [paths.md](paths.md)",
	"verdict":   "`allowed`, `refused`; of intents `admitted`, `warned`, `refused`, `undecided`",
	"reason":    "of decisions: see below; of `meshpdb_budget_enforced` the reason of the condition Enforced, one at a time",
	"phase":     "the steps of a decision, see below",
	"object":    "`node`, `namespace` and the kinds of owners whose deletion is looked at",
	"kind":      "`Pod` and the kinds of owners whose controllers are told to try again",
	"result":    "`evicted`, `kicked`, `refused`, `gone`, `failed`",
	"peer":      "the clusters of the ClusterMesh configuration, and the own one",
	"state":     "`pending`, `granted`",
	"namespace": "namespaces of budgets that exist; the series go with the budget",
	"budget":    "budgets that exist; the series go with the budget",
	"cluster":   "the own cluster's name",
	"version":   "one value for each process",
	"goversion": "one value for each process",
	"le":        "the bucket of a histogram",
}

// reasons of decisions.
const reasons = `| reason | verdict | what it says |
|---|---|---|
| ` + "`SufficientPods`" + ` | allowed | the budget holds without the pod |
| ` + "`Repeated`" + ` | allowed | it had been allowed before and is not finished |
| ` + "`Waived`" + ` | allowed | the pod is not available, or the budget is suspended |
| ` + "`Accounted`" + ` | allowed | it goes whatever budgets say, by its path |
| ` + "`GlassBroken`" + ` | allowed | somebody who may do that broke the glass |
| ` + "`InsufficientPods`" + ` | refused | too few pods would be left |
| ` + "`GaveWay`" + ` | refused | budget is free, and kept for a pod that has waited longer |
| ` + "`NativeBudget`" + ` | refused | a PodDisruptionBudget of this cluster refuses anyway |
| ` + "`Moot`" + ` | refused | what asked for it is no more |
| ` + "`ClusterNotRead`" + ` | refused | the bound depends on a cluster that cannot be read |
| ` + "`ViewsDiffer`" + ` | refused | clusters do not agree yet which of them take part |
| ` + "`NoBound`" + ` | refused | no cluster that was read states a bound |
| ` + "`Undecided`" + ` | refused | this cluster could not decide: its kvstore, its API server, or itself |
`

var phases = map[claim.Step]string{
	claim.AppendClaim:    "write the claim to the Kubernetes API, durably",
	claim.ReadRegistry:   "read the list of kvstore instances, and write the claim to those that are known",
	claim.WriteInstances: "write the claim to the instances that were not known",
	claim.ReadClusters:   "read all clusters' kvstores, in one parallel round",
	claim.AwaitChange:    "wait until claims that compete are decided",
	claim.GrantClaim:     "write the grant to the Kubernetes API, durably",
	claim.WithdrawClaim:  "take the claim back",
	claim.ConfirmWaiver:  "read a pod again that goes because it is not available",
}

// document is docs/metrics.md.
func document(own, used []metric) string {
	var b strings.Builder
	b.WriteString(`# Metrics

Written by ` + "`make generate`" + ` from what the controller registers.

Each replica serves ` + "`/metrics`" + ` at port 9964, by TLS and to whom the ClusterRole ` + "`meshpdb-metrics`" + ` is bound. What budgets and claims tell comes from the
leader only, everything else from every replica. ` + "`kubectl apply -k deploy/monitoring`" + ` has Prometheus scrape them and brings alerts, which [runbook.md](runbook.md)
explains; ` + "`deploy/monitoring/dashboard.json`" + ` is for Grafana. No label names a pod, a node or a user: Events, logs and traces do.

`)
	table(&b, own)
	b.WriteString("\n## Labels\n\n| label | values |\n|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, labels[name])
	}
	b.WriteString("\n## Reasons of decisions\n\n" + reasons)
	b.WriteString("\n## Phases of decisions\n\n[performance.md](performance.md) has what each takes. Phases that are done at the same time count in full each.\n\n| phase | what it is |\n|---|---|\n")
	for step := claim.AppendClaim; step < claim.Answer; step++ {
		fmt.Fprintf(&b, "| `%s` | %s |\n", step, phases[step])
	}
	b.WriteString("\n## Of libraries\n\nMetrics of controller-runtime and client-go are served as well; these are used by the alerts and the dashboard:\n\n")
	table(&b, used)
	b.WriteString("\n## Of the API server\n\nOnly the API server knows of requests for which no replica could be asked:\n\n")
	table(&b, apiServer)
	return b.String()
}
