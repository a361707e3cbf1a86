// Package workload knows the pods of the own cluster: which budgets cover a
// pod, which pods a budget covers and in what state they are, and how many of
// them their owners ask for.
//
// It reads through the controller's informers; what must be true at the moment
// of asking (has this pod ended?) is asked of the API server itself.
package workload
