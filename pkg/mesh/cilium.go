package mesh

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/cilium/cilium/pkg/clustermesh/store"
	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/clustermesh/types/endpointslice"
	"github.com/cilium/cilium/pkg/kvstore"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// meshController manages the slices that hold endpoints of OTHER clusters
// (Cilium operator, pkg/clustermesh/endpointslicesync).
const meshController = "endpointslice-mesh-controller.cilium.io"

func clusterConfigKey(cluster string) string {
	return kvstore.JoinKey(kvstore.ClusterConfigPrefix, cluster)
}

func syncedKey(cluster, prefix string) string {
	return kvstore.JoinKey(kvstore.SyncedPrefix, cluster, prefix)
}

func servicesSyncedKey(cluster string) string { return syncedKey(cluster, store.ServiceStorePrefix) }

func slicesSyncedKey(cluster string) string {
	return syncedKey(cluster, endpointslice.EndpointSliceStorePrefix)
}

// slicesPrefix covers all slices of a namespace: their names do not have to
// begin with the Service's.
func slicesPrefix(cluster, namespace string) string {
	return kvstore.JoinKey(endpointslice.EndpointSliceStorePrefix, cluster, namespace) + "/"
}

func serviceKey(cluster, namespace, service string) string {
	return kvstore.JoinKey(store.ServiceStorePrefix, cluster, namespace, service)
}

// exports is what a cluster's Cilium says about its endpoints.
type exports struct {
	// slices: endpoint slices are exported (Cilium 1.20); else services only (1.19).
	slices bool
}

// decodeExports reads a cluster-config and checks that the cluster's exports
// are complete. The error says why they must not be used.
func decodeExports(cluster string, values map[string][]byte) (exports, error) {
	data, ok := values[clusterConfigKey(cluster)]
	if !ok {
		return exports{}, fmt.Errorf("its kvstore holds no cluster-config of %s yet", cluster)
	}
	var config cmtypes.CiliumClusterConfig
	if err := json.Unmarshal(data, &config); err != nil {
		return exports{}, fmt.Errorf("decode cluster-config of %s: %w", cluster, err)
	}
	if config.Capabilities.Cached {
		return exports{}, fmt.Errorf("its peer file leads to kvstoremesh's cache, which may be stale: point it at the cluster's own clustermesh-apiserver")
	}
	e := exports{slices: config.Capabilities.EndpointSlicesExportMode != cmtypes.EndpointSlicesExportModeServicesOnly}
	canary := servicesSyncedKey(cluster)
	if e.slices {
		canary = slicesSyncedKey(cluster)
	}
	if _, ok := values[canary]; !ok && config.Capabilities.SyncedCanaries {
		return exports{}, fmt.Errorf("its clustermesh-apiserver has not exported all endpoints yet")
	}
	return e, nil
}

// serving returns the addresses of the Service's endpoints that Cilium still
// exports as usable, from slices if the cluster exports them and else from the
// service record. Slices are judged by serving and terminating, never by ready:
// publishNotReadyAddresses makes that always true. A service record lists
// ready OR serving addresses, so it can only miss some.
func (e exports) serving(cluster, namespace, service string, values map[string][]byte) (map[string]bool, error) {
	addresses := map[string]bool{}
	if !e.slices {
		data, ok := values[serviceKey(cluster, namespace, service)]
		if !ok {
			return addresses, nil
		}
		var record store.ClusterService
		if err := record.Unmarshal("", data); err != nil {
			return nil, fmt.Errorf("decode service %s/%s of %s: %w", namespace, service, cluster, err)
		}
		for ip := range record.Backends {
			addresses[ip] = true
		}
		return addresses, nil
	}
	prefix := slicesPrefix(cluster, namespace)
	for key, data := range values {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		var slice endpointslice.ClusterEndpointSlice
		if err := slice.Unmarshal(key, data); err != nil {
			return nil, fmt.Errorf("decode endpoint slice %s of %s: %w", strings.TrimPrefix(key, prefix), cluster, err)
		}
		if slice.Labels[discoveryv1.LabelServiceName] != service || slice.Labels[discoveryv1.LabelManagedBy] == meshController {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			c := endpoint.Conditions
			serving := c.Serving == nil || *c.Serving
			if !serving || c.Terminating != nil && *c.Terminating {
				continue
			}
			for _, ip := range endpoint.Addresses {
				addresses[ip] = true
			}
		}
	}
	return addresses, nil
}
