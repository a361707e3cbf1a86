package mesh

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/cilium/pkg/clustermesh/store"
	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/clustermesh/types/endpointslice"
	"github.com/cilium/cilium/pkg/kvstore"
	"github.com/klauspost/compress/zstd"
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

// exports is what a cluster's Cilium says about the endpoints of one namespace.
type exports struct {
	cluster, namespace string
	// values of one snapshot, by key.
	values map[string][]byte
	// slices: endpoint slices are exported (Cilium 1.20); else services only (1.19).
	slices bool
	// inSlices returns the usable addresses by Service, decoded once for all of them.
	inSlices func() (map[string]map[string]bool, error)
}

func newExports(cluster, namespace string, values map[string][]byte) exports {
	e := exports{cluster: cluster, namespace: namespace, values: values, slices: true}
	e.inSlices = sync.OnceValues(e.decodeSlices)
	return e
}

// decodeExports reads a cluster-config and checks that the cluster's exports
// are complete. The error says why they must not be used.
func decodeExports(cluster, namespace string, values map[string][]byte) (exports, error) {
	e := newExports(cluster, namespace, values)
	data, ok := values[clusterConfigKey(cluster)]
	if !ok {
		return exports{}, fmt.Errorf("its kvstore holds no cluster-config of %s yet", cluster)
	}
	var config cmtypes.CiliumClusterConfig
	if err := decodeExport(data, func() error { return json.Unmarshal(data, &config) }); err != nil {
		return exports{}, fmt.Errorf("decode cluster-config of %s: %w", cluster, err)
	}
	if config.Capabilities.Cached {
		return exports{}, fmt.Errorf("its peer file leads to kvstoremesh's cache, which may be stale: point it at the cluster's own clustermesh-apiserver")
	}
	e.slices = config.Capabilities.EndpointSlicesExportMode != cmtypes.EndpointSlicesExportModeServicesOnly
	canary := servicesSyncedKey(cluster)
	if e.slices {
		canary = slicesSyncedKey(cluster)
	}
	if _, ok := values[canary]; !ok && config.Capabilities.SyncedCanaries {
		return exports{}, fmt.Errorf("its clustermesh-apiserver has not exported all endpoints yet")
	}
	return e, nil
}

// decodeExport refuses what is too large to be an export of Cilium's, and takes out of an error what could be a
// whole value.
func decodeExport(data []byte, decode func() error) error {
	if len(data) > maxExport {
		return fmt.Errorf("%d bytes exceed %d", len(data), maxExport)
	}
	if err := decode(); err != nil {
		return errors.New(brief(err.Error()))
	}
	return nil
}

// serving returns the addresses of the Service's endpoints that Cilium still
// exports as usable, from slices if the cluster exports them and else from the
// service record. A service record lists ready OR serving addresses, so it can
// only miss some.
func (e exports) serving(service string) (map[string]bool, error) {
	if e.slices {
		byService, err := e.inSlices()
		if err != nil {
			return nil, err
		}
		// Of one that no slice names, no address is usable; nil would say that all are.
		if addresses := byService[service]; addresses != nil {
			return addresses, nil
		}
		return map[string]bool{}, nil
	}
	addresses := map[string]bool{}
	data, ok := e.values[serviceKey(e.cluster, e.namespace, service)]
	if !ok {
		return addresses, nil
	}
	var record store.ClusterService
	if err := decodeExport(data, func() error { return record.Unmarshal("", data) }); err != nil {
		return nil, fmt.Errorf("decode service %s/%s of %s: %w", e.namespace, service, e.cluster, err)
	}
	for ip := range record.Backends {
		addresses[ip] = true
	}
	return addresses, nil
}

// decodeSlices judges endpoints by serving and terminating, never by ready:
// publishNotReadyAddresses makes that always true.
func (e exports) decodeSlices() (map[string]map[string]bool, error) {
	prefix := slicesPrefix(e.cluster, e.namespace)
	expander, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxExport), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("decode endpoint slices of %s: %w", e.cluster, err)
	}
	defer expander.Close()
	byService := map[string]map[string]bool{}
	total := 0
	for _, key := range slices.Sorted(maps.Keys(e.values)) {
		name, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		size, slice, err := decodeSlice(expander, key, e.values[key])
		if err != nil {
			return nil, fmt.Errorf("decode endpoint slice %s of %s: %s", brief(name), e.cluster, brief(err.Error()))
		}
		if total += size; total > maxExports {
			return nil, fmt.Errorf("decode endpoint slices of %s: those of namespace %s exceed %d MiB", e.cluster, e.namespace, maxExports>>20)
		}
		if slice.Labels[discoveryv1.LabelManagedBy] == meshController {
			continue
		}
		service := slice.Labels[discoveryv1.LabelServiceName]
		if byService[service] == nil {
			byService[service] = map[string]bool{}
		}
		for _, endpoint := range slice.Endpoints {
			c := endpoint.Conditions
			serving := c.Serving == nil || *c.Serving
			if !serving || c.Terminating != nil && *c.Terminating {
				continue
			}
			for _, ip := range endpoint.Addresses {
				byService[service][ip] = true
			}
		}
	}
	return byService, nil
}

// decodeSlice looks at the decompressed size before Cilium decodes: its own
// limit of 16 MiB lets a kilobyte become a gigabyte of empty endpoints.
func decodeSlice(expander *zstd.Decoder, key string, data []byte) (size int, slice endpointslice.ClusterEndpointSlice, err error) {
	raw, err := expander.DecodeAll(data, nil)
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return 0, slice, fmt.Errorf("it exceeds %d bytes when decompressed", maxExport)
	}
	if err != nil {
		return 0, slice, err
	}
	return len(raw), slice, slice.Unmarshal(key, data)
}
