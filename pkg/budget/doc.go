// Package budget is the pure arithmetic of a mesh-wide disruption budget: from
// one report per cluster to one decision with its numbers and one sentence.
//
// It knows nothing of time, clients or stores, and imports the standard
// library only. The rules are R4 (count) and R5 (decide) of the claim
// protocol; rounding and the meaning of the two bounds are those of
// Kubernetes' disruption controller (pkg/controller/disruption/disruption.go).
//
// The entry point is [Decide]. A [Decision] explains itself: the same sentence
// reaches the API caller, the Event, the log and the metrics.
package budget
