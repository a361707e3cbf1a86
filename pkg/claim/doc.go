// Package claim is the claim protocol that lets several clusters share one
// disruption budget without a shared store: claim in your own stores, then
// read everybody's, then decide.
//
// The package holds the rules, by their names R1 to R12, as values that are
// told what happened and say what to do next. It does no I/O and never asks
// for the time: clocks, stores and API servers belong to the callers, so the
// same code runs in the controller and in the seeded simulation of the tests.
//
//	Ledger      the durable claims of a cluster and the moves on them (R2, R6, R7, R8, R9, R10)
//	Attempt     one request from claim to answer (R2 to R8)
//	Restore     bringing a store instance into service (R1)
//	Tombstones  when a granted claim whose pod has ended may go (R9)
//	Reaper      when a claim has been left behind (R7, R10)
//	Compare     what a store shows that the ledger does not, and the reverse (R11)
//
// R12 (the UID precondition of evictions) is kept by package admission: it is
// a matter of the request, not of the claim.
//
// Package model beside it searches models of the same rules; docs/protocol.md
// says what breaks without each.
//
// Safety rests on theorem 1 of the protocol: of all granted claims the one
// that was written last counted enough pods that nobody else may disrupt.
// That is why the order of the steps of an Attempt must not change.
package claim
