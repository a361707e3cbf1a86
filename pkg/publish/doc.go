// Package publish tells the mesh what this cluster holds. One controller of
// the cluster at a time, the leader, runs a Publisher: it brings every
// instance of the own kvstore into service (rule R1), keeps the records of
// budgets and pods in step, and tidies claims (R7, R9, R10, R11).
//
// Leadership is for liveness only. A publisher that lost it cannot write any
// more, because its successor begins a new incarnation in every instance.
//
// A pod is shown as available only after a quorum read of this publisher has
// seen it alive, and never again after its end was seen (assumption A2 of the
// protocol): an informer that starts from an old list would raise the dead.
package publish
