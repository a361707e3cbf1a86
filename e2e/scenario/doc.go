// Package scenario is what the demo and the end-to-end tests do on a mesh of
// real clusters: a workload stretched over all of them, people who disrupt it,
// and an independent Witness that judges afterwards.
//
// The Witness knows nothing of meshpdb: it replays the watch events of the
// pods as the API servers sent them. Together with what callers asked and were
// answered they make a history, that pkg/history judges.
package scenario
