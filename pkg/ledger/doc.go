// Package ledger keeps in the cluster's own Kubernetes API what must survive
// the ClusterMesh kvstore, which is emptied whenever its pod starts: the claims
// (one DisruptionLedger per namespace) and the registry of kvstore instances.
//
// Every change is a compare-and-swap on the object's resourceVersion and every
// read is a quorum read; nothing here comes from an informer (X21). Changes
// that arrive together for one namespace share one write.
package ledger
