// Package kvstore is one etcd in memory, for simulations: many versions of
// every key, transactions, leases, compaction and the events of watches, at the
// level of etcd's gRPC requests, so that etcd's own client code can run on it.
//
// A [Store] does no I/O, asks for no time and is not safe for concurrent use:
// who simulates a network and clocks around it decides when a request takes
// effect. What it does not simulate it refuses with codes.Unimplemented. That
// it answers as etcd does is tested against a real etcd, on random requests.
package kvstore
