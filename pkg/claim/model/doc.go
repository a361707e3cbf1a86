// Package model checks the claim protocol by exhaustive search: small models
// of it in Promela, each of which the model checker Spin walks through in every
// interleaving there is.
//
//	safety.pml  the rules under lag, crashes, wiped stores, time-outs, flapping and failing pods
//	ha.pml      several instances of one cluster's store that know nothing of each other
//	view.pml    clusters join and leave while claimants read again
//	spec.pml    a bound is tightened in cluster after cluster
//	live.pml    who waits for whom: exactly min(n, k) are granted, and nobody waits for ever
//	starve.pml  a stream of newcomers starves nobody
//
// A row of rows.md is one search: a model, what is switched on in it (bounds,
// faults, or a rule that is broken) and what must come out. That a model holds
// says little if a broken one holds as well, so every rule has rows that must
// fail, each with a shortest counterexample to read. results.md is what came
// out when everything was run last (make verify-models).
//
// Models bound what they look at: three clusters, six pods and four requests
// at most. The simulation in package claim runs the real code, in larger
// worlds, but only some of its interleavings. What either finds broken is
// named by the row's ID in both, and in docs/protocol.md.
package model
