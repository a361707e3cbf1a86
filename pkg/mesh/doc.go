// Package mesh reads and writes the ClusterMesh kvstores: the own cluster's
// instances, which it writes, and the peers', which it only reads.
//
//	Member      one cluster's kvstore: fresh snapshots (rule R3) and a cached view
//	Own         the instances of the own kvstore; the only writer, and only under our prefix
//	Mesh        all members together; watches the ClusterMesh configuration directory, so that peers come and go
//
// It is the only package that knows etcd, and the only one that imports
// Cilium: keys and values of Cilium are named and decoded by Cilium's code.
// A grant rests on fresh snapshots only; the cached view, fed by a standing
// watch of our own prefix, serves refusals, status and waiting.
package mesh
