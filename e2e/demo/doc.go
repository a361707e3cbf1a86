// Command demo shows what meshpdb is for, in a few minutes and on one machine.
//
//	go run ./e2e/demo
//
// It starts three real Kubernetes clusters joined as a Cilium ClusterMesh (see
// package sandbox) and one workload over all of them, of which a single pod may
// be unavailable. Then every cluster is maintained at the same time, by
// Kubernetes' own drain code, twice:
//
//  1. Under native PodDisruptionBudgets. Each cluster keeps its own budget, so
//     each takes a pod away, and the workload loses three at once.
//  2. Under meshpdb. The clusters share one budget.
//
// A table shows both as they happen: redrawn in place on a terminal, printed
// now and then elsewhere. A witness that only reads the pods' watch events, and
// knows nothing of meshpdb, judges both afterwards.
//
// The last line is "held", or "broken: <why>" with exit code 1. Ctrl-C stops
// everything; a second one does not wait for that.
package main
