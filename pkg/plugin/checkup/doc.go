// Package checkup examines an installation: it turns facts that were gathered
// from clusters into findings, each with what is wrong and what mends it.
//
// It is pure: who gathers the facts asks the API servers, and hands in the
// time. What was not permitted to be read is a finding of its own, never a pass.
package checkup
