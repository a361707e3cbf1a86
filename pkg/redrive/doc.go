// Package redrive sees to it that what a budget held up is done once the
// budget lets it. People's drains ask again by themselves; two of Kubernetes'
// own paths do not:
//
//   - The taint manager deletes the pods of a node with a NoExecute taint, in
//     five attempts within some 50 ms, and then forgets them
//     (pkg/controller/tainteviction). It also forgets them if the webhook was
//     down just then. Such pods are evicted here, by the eviction API and as
//     our own ServiceAccount, so that our own webhook decides and claims as for
//     anybody; and only while the node still has the taint, and is Ready.
//   - The controllers of ReplicaSets, ReplicationControllers, StatefulSets and
//     DaemonSets put a refused deletion off, each time twice as long, up to
//     1000 s. Any change of the owner has them try at once, so owners with
//     something unfinished are given an annotation when budget frees.
//
// What waits is derived from what stands in the API: nodes, their taints, pods,
// owners and the budget's status. A restart, a change of leader, or a time
// without any of us loses nothing but the seconds of patience within which
// Kubernetes itself is expected to act. Nobody asks the API server anything
// while nothing waits.
//
// Taints that stand for a failed node, and nodes that are not Ready, are left to
// Kubernetes: no budget holds up what they do.
package redrive
