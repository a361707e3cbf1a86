// Package sandbox runs N real Kubernetes clusters, joined as a Cilium ClusterMesh, on one machine and without
// containers, images or root. The end-to-end tests and the demo stand on it.
//
// Every part is the real program, built from the Go module proxy and started as a child process:
//
//	per cluster    etcd, kube-apiserver, kube-controller-manager, kube-scheduler, and kwok, which plays the
//	               kubelets: its nodes and pods have a life cycle in the API, but no container runs.
//	per instance   the pair that a clustermesh-apiserver pod is: an etcd of its own, with TLS, Cilium's users and
//	               Cilium's roles, and the clustermesh-apiserver that exports the cluster's state to it. As in
//	               Cilium, the etcds of one cluster are independent of each other and come up EMPTY each time.
//	controllers    meshpdb-controller processes, each with a service account token, a webhook certificate, a peer
//	               directory and a kvstore directory of its own, as its own pod would have.
//
// Two things are modelled inside the sandbox process instead, because they are not programs but networks: a load
// balancer per cluster stands for the Service in front of the clustermesh-apiserver pods (and another one for the
// webhook's), and one proxy per ordered pair of clusters stands for the path between them, with a round-trip time
// and the possibility to be cut.
//
//	c1 controller --peer file c2--> [link c1->c2: RTT, cut] --> [balancer of c2] --> any ready instance of c2
//	c2 controller --kvstore file--> every instance of c2, directly
//
// Everything listens on 127.0.0.0/8, each cluster on an address of its own, except the health port of
// clustermesh-apiserver, which Cilium binds to all addresses and offers no way to narrow. No address of a pod, a node
// or a Service is ever dialled.
//
// # Use
//
//	m := sandbox.Start(t, sandbox.Options{Clusters: 2, PodStart: sandbox.Range{Min: time.Second, Max: 3 * time.Second}})
//	m.Clusters[0].Client.AppsV1()...     // a client-go clientset with administrator rights
//	m.Partition("c1", "c2")              // c1 no longer reads c2
//	m.Clusters[1].Instances[0].Kill(ctx) // and so on
//	m.Clusters[1].APIServer.Freeze()     // and KubeEtcd; or Kill, Thaw, Start
//	m.Clusters[1].SyncPods(ctx)          // after that: the kubelets try again what had failed
//	m.Clusters[1].Strand()               // connections to c2's kvstores go silent for good
//	m.Clusters[0].Kubectl(ctx, "get", "mpdb", "-A")
//	m.Clusters[0].Audit(since)           // every request of the cluster's controllers to its API server
//	m.Clusters[0].Instances[0].Requests(ctx) // counted by the etcd itself
//
// The first start on a machine builds the programs, which takes some minutes; they are kept in the user's cache
// folder. After that three clusters are up in some ten seconds, in about 1.6 GiB of memory. No child process
// outlives the process that called New, however that one ends.
package sandbox
