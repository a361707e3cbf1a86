// Package scale measures what a meshpdb-controller costs in a cluster with many
// pods: how long it takes until it can decide, how much memory it needs, and
// how long it takes until every budget is published.
//
// API server, etcd and the ClusterMesh kvstore are real, and so is every
// object: the API server itself writes the first pod, budget and so on, and
// the rest are copies of what it wrote, put beside it in etcd under other
// names. That takes seconds where a hundred thousand requests take minutes,
// and the API server serves them as it serves its own. Nothing acts on the
// objects: no kubelet, no scheduler, no kube-controller-manager.
package scale
