// Package plugin is `kubectl meshpdb`: what people ask of budgets that span
// clusters, in kubectl's own words, flags and printers.
//
//	status   who holds a budget back, since when, what would free it
//	explain  whether a pod would go now; the answer is the next eviction's own, by a dry-run
//	plan     what drains over several clusters would do
//	top      status, live
//	history  the decisions about a budget or a pod
//	doctor   what is wrong with the installation, and how to mend it
//	suspend, resume, forget
//
// The package gathers from API servers and prints. What it says is computed by
// the pure packages hold, drainplan and checkup below it. It knows neither
// kvstores nor claims: what only controllers know they tell by package roster.
package plugin
