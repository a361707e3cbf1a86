module github.com/meshpdb/meshpdb

go 1.26.0

// The statedb version that Cilium 1.20.2 names is not served by every module proxy; 0.8.3 has the same API.
replace github.com/cilium/statedb v0.8.4 => github.com/cilium/statedb v0.8.3

require (
	github.com/cilium/cilium v1.20.2
	github.com/Shopify/toxiproxy/v2 v2.5.0
	go.etcd.io/etcd/client/v3 v3.6.8
	k8s.io/api v0.36.3
	k8s.io/apimachinery v0.36.3
	k8s.io/client-go v0.36.3
	k8s.io/kubectl v0.36.3
	sigs.k8s.io/controller-runtime v0.24.1
)
