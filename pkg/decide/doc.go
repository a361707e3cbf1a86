// Package decide answers one question: may this pod be disrupted now? It
// performs the steps of a claim.Attempt against the own cluster's ledger and
// kvstore instances and against all clusters' stores, within one deadline.
//
// Refusals that a cached view already gives cost neither a write nor a network
// call; permission always rests on the claim protocol.
package decide
