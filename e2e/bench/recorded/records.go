package recorded

import (
	"encoding/json"
	"fmt"
	"slices"

	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/clustermesh/types/endpointslice"
	slimdiscovery "github.com/cilium/cilium/pkg/k8s/slim/k8s/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/meshpdb/meshpdb/pkg/wire"
)

// records are keys and values of one cluster.
type records map[string]string

// perSlice is how many endpoints Kubernetes puts into one slice.
const perSlice = 100

// book writes the records of a mesh of n clusters that all hold the same budgets.
type book struct {
	view    []string
	records []records
}

// newBook begins with what a store holds without any budget: the life of the
// instance, declared complete, and Cilium's word that all endpoints are exported.
func newBook(n int) (*book, error) {
	b := &book{records: make([]records, n)}
	for i := range n {
		b.view = append(b.view, nameOf(i))
	}
	slices.Sort(b.view)
	for i := range n {
		name := nameOf(i)
		config, err := json.Marshal(cmtypes.CiliumClusterConfig{ID: uint32(i + 1), Capabilities: cmtypes.CiliumClusterConfigCapabilities{
			SyncedCanaries: true, EndpointSlicesExportMode: cmtypes.EndpointSlicesExportModeServicesAndEndpointSlices,
		}})
		if err != nil {
			return nil, fmt.Errorf("encode cluster-config: %w", err)
		}
		b.records[i] = records{
			"cilium/cluster-config/" + name:                             string(config),
			"cilium/synced/" + name + "/cilium/state/services/v1":       "true",
			"cilium/synced/" + name + "/cilium/state/endpointslices/v1": "true",
		}
		err = b.write(i, wire.Key{Kind: wire.KindIncarnation}, &wire.Incarnation{ID: "life-1"})
		if err == nil {
			err = b.write(i, wire.Key{Kind: wire.KindMarker}, &wire.Marker{Incarnation: "life-1"})
		}
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

// write adds a record of the i-th cluster.
func (b *book) write(i int, key wire.Key, r wire.Record) error {
	key.Cluster = nameOf(i)
	value, err := wire.Marshal(r)
	if err != nil {
		return err
	}
	b.records[i][key.String()] = string(value)
	return nil
}

// budgetOf is one budget, held by every cluster of a mesh.
type budgetOf struct {
	namespace, name string
	maxUnavailable  string
	pods            int // in each cluster
	down            int // pods that are not available, in the last cluster
}

// budget adds a budget, its pods and the slices of its Service in all clusters.
func (b *book) budget(o budgetOf) error {
	for i := range b.records {
		err := b.write(i, wire.Key{Kind: wire.KindBudget, Namespace: o.namespace, Budget: o.name}, &wire.Budget{
			UID: uidOf(i, o.name, 0), Service: o.name, MaxUnavailable: o.maxUnavailable, Expected: o.pods, View: b.view, Exported: true,
		})
		if err != nil {
			return err
		}
		var addresses []string
		for n := range o.pods {
			p := &wire.Pod{UID: uidOf(i, o.name, n), Name: podName(o.name, n), IPs: []string{addressOf(i, n)}}
			if i == len(b.records)-1 && n < o.down {
				p.Unavailable = wire.NotReady
			}
			if err := b.write(i, wire.Key{Kind: wire.KindPod, Namespace: o.namespace, Budget: o.name, ID: p.UID}, p); err != nil {
				return err
			}
			addresses = append(addresses, addressOf(i, n))
		}
		if err := b.slice(i, sliceOf{o.namespace, o.name, addresses}); err != nil {
			return err
		}
	}
	return nil
}

// endpoints adds so many endpoints of other Services in the i-th cluster's namespace.
func (b *book) endpoints(i int, namespace string, total int) error {
	for n := 0; n < total; n += perSlice {
		var addresses []string
		for e := n; e < min(n+perSlice, total); e++ {
			addresses = append(addresses, scattered(i, e))
		}
		if err := b.slice(i, sliceOf{namespace, fmt.Sprintf("web-%d", n/perSlice), addresses}); err != nil {
			return err
		}
	}
	return nil
}

// sliceOf is the only endpoint slice of a Service.
type sliceOf struct {
	namespace, service string
	addresses          []string
}

// slice adds an endpoint slice of the i-th cluster, encoded by Cilium's own code.
func (b *book) slice(i int, o sliceOf) error {
	s := &endpointslice.ClusterEndpointSlice{Cluster: nameOf(i), ClusterID: uint32(i + 1)}
	s.Namespace, s.Name, s.AddressType = o.namespace, o.service+"-x7k2p", slimdiscovery.AddressTypeIPv4
	s.Labels = map[string]string{
		"kubernetes.io/service-name": o.service, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
	}
	s.Ports = []slimdiscovery.EndpointPort{{Name: ptr.To("tcp"), Port: ptr.To[int32](5432)}}
	for n, a := range o.addresses {
		s.Endpoints = append(s.Endpoints, slimdiscovery.Endpoint{
			Addresses: []string{a}, NodeName: ptr.To(fmt.Sprintf("node-%d", n*7%20)), Zone: ptr.To(fmt.Sprintf("zone-%d", n*7%20%3)),
			Conditions: slimdiscovery.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)},
		})
	}
	value, err := s.Marshal()
	if err != nil {
		return fmt.Errorf("encode endpoint slice %s: %w", s.Name, err)
	}
	b.records[i]["cilium/state/endpointslices/v1/"+s.GetKeyName()] = string(value)
	return nil
}

func uidOf(cluster int, budget string, pod int) string {
	return fmt.Sprintf("5f3c1a2e-%04d-%04d-8c1d-%s", cluster, pod, budget)
}

func podName(budget string, pod int) string { return fmt.Sprintf("%s-7b4fbb8d49-%05d", budget, pod) }

// scattered is an address that compresses no better than those of a real
// cluster, whose pods lie on many nodes: an odd factor visits all of 16 bits.
func scattered(cluster, endpoint int) string {
	n := endpoint * 40503 % (1 << 16)
	return fmt.Sprintf("10.%d.%d.%d", (cluster+128)%256, n>>8, n&255)
}

func addressOf(cluster, pod int) string {
	return fmt.Sprintf("10.%d.%d.%d", cluster%256, pod/250, 1+pod%250)
}
