// Package wire is what one cluster tells the others: keys and values under
// cilium/state/meshpdb/v1/<cluster>/ in the cluster's own ClusterMesh kvstore.
//
// WARNING - STABLE API: peers of other versions read this. Fields may be
// added; none may change its meaning or its JSON name. A reader ignores fields
// it does not know, and takes an enum value that it does not know for the
// cautious one: a pod with an unknown reason is unavailable, a claim in an
// unknown state is granted. testdata holds a golden file per record; a record
// that is no longer read the same way fails the tests.
//
//	incarnation                        Incarnation: one life of one store instance (rule R1)
//	marker                             Marker: the incarnation that is complete; on a lease
//	budgets/<namespace>/<budget>       Budget: spec, view and expected count
//	pods/<namespace>/<budget>/<uid>    Pod: one pod of the budget
//	claims/<namespace>/<id>            Claim: one announced disruption
//	waiters/<namespace>/<budget>/<replica>  Waiters: who has waited long; on a lease
//
// The prefix lies under cilium/state because the roles that Cilium gives to
// remote clusters may read exactly that (Cilium pkg/kvstore/etcdinit).
package wire
