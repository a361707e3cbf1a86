// Package hold says of a budget what people ask of it: how much it allows,
// and if nothing, who holds it back, since when, and what would free it.
//
// It turns the status of a MeshPodDisruptionBudget into a [Report], by pure
// functions: time is an argument. The words are those of package budget.
package hold
