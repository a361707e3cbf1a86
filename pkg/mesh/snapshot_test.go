package mesh_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	services "github.com/cilium/cilium/pkg/clustermesh/store"
	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/clustermesh/types/endpointslice"
	discovery "github.com/cilium/cilium/pkg/k8s/slim/k8s/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// shop asks for the two budgets that all these tests are about.
func shop() mesh.Query {
	return mesh.Query{Namespace: "shop", Budgets: []mesh.BudgetRef{{Name: "db", Service: "db"}, {Name: "web", Service: "web"}}}
}

// The keys of c2 that tests change. They are spelled out: other programs write them.
const (
	incarnationKey = "cilium/state/meshpdb/v1/c2/incarnation"
	markerKey      = "cilium/state/meshpdb/v1/c2/marker"
	dbKey          = "cilium/state/meshpdb/v1/c2/budgets/shop/db"
	webKey         = "cilium/state/meshpdb/v1/c2/budgets/shop/web"
	dbPods         = "cilium/state/meshpdb/v1/c2/pods/shop/db/"
	webPods        = "cilium/state/meshpdb/v1/c2/pods/shop/web/"
	claimsKey      = "cilium/state/meshpdb/v1/c2/claims/shop/"
	configKey      = "cilium/cluster-config/c2"
	servicesSynced = "cilium/synced/c2/cilium/state/services/v1"
	slicesSynced   = "cilium/synced/c2/cilium/state/endpointslices/v1"
	dbService      = "cilium/state/services/v1/c2/shop/db"
)

// values are the content of a store.
type values map[string]string

func (v values) record(key string, r wire.Record) { v[key] = string(must(wire.Marshal(r))) }

func (v values) config(c cmtypes.CiliumClusterConfigCapabilities) {
	v[configKey] = string(must(json.Marshal(cmtypes.CiliumClusterConfig{ID: 2, Capabilities: c})))
}

// slice adds an endpoint slice of shop/db, encoded by Cilium.
func (v values) slice(name string, change func(*endpointslice.ClusterEndpointSlice), endpoints ...discovery.Endpoint) {
	s := &endpointslice.ClusterEndpointSlice{Cluster: "c2", ClusterID: 2}
	s.Namespace, s.Name, s.AddressType = "shop", name, discovery.AddressTypeIPv4
	s.Labels = map[string]string{"kubernetes.io/service-name": "db", "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}
	s.Endpoints = endpoints
	if change != nil {
		change(s)
	}
	v["cilium/state/endpointslices/v1/"+s.GetKeyName()] = string(must(s.Marshal()))
}

// service adds the service record of a Cilium without endpoint slices.
func (v values) service(addresses ...string) {
	s := services.NewClusterService("db", "shop")
	s.Cluster, s.ClusterID, s.Shared, s.IncludeExternal = "c2", 2, true, true
	for _, a := range addresses {
		s.Backends[a] = services.PortConfiguration{}
	}
	v[dbService] = string(must(s.Marshal()))
}

// endpoint has its address, and conditions as letters: r ready, s serving, t
// terminating; capitals: not so.
func endpoint(address, conditions string) discovery.Endpoint {
	e := discovery.Endpoint{Addresses: []string{address}}
	for _, c := range conditions {
		is := ptr.To(c >= 'a')
		switch strings.ToLower(string(c)) {
		case "r":
			e.Conditions.Ready = is
		case "s":
			e.Conditions.Serving = is
		case "t":
			e.Conditions.Terminating = is
		}
	}
	return e
}

// complete is what c2 holds when all is well: an exported db and a web that is not.
func complete() values {
	v := values{servicesSynced: "true", slicesSynced: "true"}
	v.config(cmtypes.CiliumClusterConfigCapabilities{SyncedCanaries: true, EndpointSlicesExportMode: cmtypes.EndpointSlicesExportModeServicesAndEndpointSlices})
	v.record(incarnationKey, &wire.Incarnation{ID: "life-1"})
	v.record(markerKey, &wire.Marker{Incarnation: "life-1"})
	v.record(dbKey, &wire.Budget{Service: "db", MinAvailable: "2", Expected: 3, View: []string{"c1", "c2"}, Exported: true})
	v.record(webKey, &wire.Budget{Service: "web", MaxUnavailable: "50%", Expected: 1, View: []string{"c2"}})
	v.record(dbPods+"p-1", &wire.Pod{UID: "p-1", Name: "db-1", IPs: []string{"10.2.0.1", "fd00::1"}})
	v.record(dbPods+"p-2", &wire.Pod{UID: "p-2", Name: "db-2", IPs: []string{"10.2.0.2"}})
	v.record(dbPods+"p-3", &wire.Pod{UID: "p-3", Name: "db-3", IPs: []string{"10.2.0.3"}, Unavailable: wire.NotReady})
	v.record(webPods+"p-4", &wire.Pod{UID: "p-4", Name: "web-1", IPs: []string{"10.2.0.4"}})
	v.record(claimsKey+"c-1", &wire.Claim{ID: "c-1", UID: "p-1", Pod: "db-1", Budgets: []string{"shop/db"}, State: wire.Granted, Ticket: 7, Seq: 2, Reason: wire.Eviction})
	v.slice("db-1", nil, endpoint("10.2.0.1", "rsT"), endpoint("10.2.0.2", "rsT"), endpoint("10.2.0.3", "rsT"))
	return v
}

// text puts a snapshot into one line: claims as ID=State/UID/ticket, budgets
// as service, bounds and expected count, view, and pods, + for available.
func text(s claim.Snapshot) string {
	if s.Invalid != "" {
		return "invalid: " + s.Invalid
	}
	var parts []string
	for _, c := range s.Claims {
		parts = append(parts, fmt.Sprintf("%s=%s/%s/%d", c.ID, c.State, c.UID, c.Ticket))
	}
	slices.Sort(parts)
	for _, name := range slices.Sorted(maps.Keys(s.Budgets)) {
		parts = append(parts, name+": "+reportText(s.Budgets[name]))
	}
	return strings.Join(parts, "; ")
}

func reportText(r claim.Report) string {
	if r.Undecided != "" {
		return "undecided: " + r.Undecided
	}
	var pods []string
	for _, p := range r.Pods {
		sign := "-"
		switch {
		case p.Available:
			sign = "+"
		case p.Unexported:
			sign = "~"
		}
		pods = append(pods, p.UID+sign)
	}
	slices.Sort(pods)
	return fmt.Sprintf("%s %s of %d %v %v", r.Service, boundsText(r.Bounds), r.Expected, r.View, pods)
}

func boundsText(bounds []budget.Bound) string {
	var all []string
	for _, b := range bounds {
		t := fmt.Sprintf("min %d", b.Value)
		if b.Kind == budget.MaxUnavailable {
			t = fmt.Sprintf("max %d", b.Value)
		}
		if b.Percent {
			t += "%"
		}
		all = append(all, t)
	}
	return strings.Join(all, ",")
}

const (
	theClaim = "c-1=Granted/p-1/7; "
	theDB    = "shop/db: db min 2 of 3 [c1 c2] [p-1+ p-2+ p-3-]; "
	theWeb   = "shop/web: web max 50% of 1 [c2] [p-4+]"
)

// dbWith is the snapshot in which db has these pods.
func dbWith(pods string) string {
	return theClaim + "shop/db: db min 2 of 3 [c1 c2] [" + pods + "]; " + theWeb
}

// R3: what one read of a cluster says, and when it must not be believed.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c2")
	here := newSite(t, nil)
	here.peer("c2", etcdFile(t, s.address, writeIdentity(t, remote()), nil))
	here.run()
	here.await("invalid: no meshpdb publishes in its kvstore", here.fresh, "c2")

	capabilities := cmtypes.CiliumClusterConfigCapabilities{SyncedCanaries: true}
	withSlices, cached := capabilities, capabilities
	withSlices.EndpointSlicesExportMode = cmtypes.EndpointSlicesExportModeEndpointSlicesOnly
	cached.Cached = true
	huge := strings.Repeat("x", 10<<20)
	for _, tt := range []struct {
		name   string
		change func(v values)
		want   string
	}{
		{"complete", func(values) {}, theClaim + theDB + theWeb},

		{"no marker", func(v values) { delete(v, markerKey) }, "invalid: its meshpdb has not finished publishing after a restart"},
		{"marker of another incarnation", func(v values) { v.record(markerKey, &wire.Marker{Incarnation: "life-0"}) },
			"invalid: its meshpdb has not finished publishing after a restart"},
		{"marker without incarnation", func(v values) { delete(v, incarnationKey) },
			"invalid: its meshpdb has not finished publishing after a restart"},
		{"undecodable incarnation", func(v values) { v[incarnationKey] = "{" },
			"invalid: its meshpdb has not finished publishing after a restart"},
		{"undecodable marker", func(v values) { v[markerKey] = "{" },
			"invalid: its meshpdb has not finished publishing after a restart"},
		{"nothing of ours", func(v values) {
			maps.DeleteFunc(v, func(key, _ string) bool { return strings.HasPrefix(key, wire.Root) })
		}, "invalid: no meshpdb publishes in its kvstore"},

		{"no cluster-config", func(v values) { delete(v, configKey) }, "invalid: its kvstore holds no cluster-config of c2 yet"},
		{"undecodable cluster-config", func(v values) { v[configKey] = "nonsense" }, "invalid: decode cluster-config of c2: …"},
		{"a cache", func(v values) { v.config(cached) },
			"invalid: its peer file leads to kvstoremesh's cache, which may be stale: point it at the cluster's own clustermesh-apiserver"},
		{"slices not synced", func(v values) { delete(v, slicesSynced) }, "invalid: its clustermesh-apiserver has not exported all endpoints yet"},
		{"services not synced, not needed", func(v values) { delete(v, servicesSynced) }, theClaim + theDB + theWeb},
		{"slices only", func(v values) { v.config(withSlices) }, theClaim + theDB + theWeb},
		{"no canaries in that version", func(v values) {
			v.config(cmtypes.CiliumClusterConfigCapabilities{EndpointSlicesExportMode: cmtypes.EndpointSlicesExportModeEndpointSlicesOnly})
			delete(v, slicesSynced)
		}, theClaim + theDB + theWeb},

		{"no budget", func(v values) { delete(v, dbKey) }, theClaim + theWeb},
		{"deleted budget", func(v values) { v.record(dbKey, &wire.Budget{Tombstone: true}) }, theClaim + theWeb},
		{"another service", func(v values) { v.record(dbKey, &wire.Budget{Service: "cache", MinAvailable: "2"}) },
			theClaim + "shop/db: undecided: its budget shop/db names service cache instead of db; " + theWeb},
		{"undecided there", func(v values) {
			v.record(dbKey, &wire.Budget{Service: "db", MinAvailable: "2", Undecided: "service shop/db has no selector"})
		}, theClaim + "shop/db: undecided: service shop/db has no selector; " + theWeb},
		{"values of a later version", func(v values) {
			v["cilium/state/meshpdb/v1/c2/zones/shop/z-1"] = "nonsense"
			v[claimsKey+"c-2/later"] = "nonsense"
			v[dbPods+"p-2"] = `{"uid":"p-2","name":"db-2","ips":["10.2.0.2"],"unavailable":"Hibernating"}`
			v[claimsKey+"c-1"] = `{"id":"c-1","uid":"p-1","pod":"db-1","state":"Postponed","ticket":7}`
		}, dbWith("p-1+ p-2- p-3-")},
		{"pending claim", func(v values) {
			v.record(claimsKey+"c-2", &wire.Claim{ID: "c-2", UID: "p-2", State: wire.Pending, Ticket: 9})
		}, theClaim + "c-2=Pending/p-2/9; " + theDB + theWeb},
		{"claim of another namespace", func(v values) {
			v.record("cilium/state/meshpdb/v1/c2/claims/shop2/c-3", &wire.Claim{ID: "c-3", UID: "p-9", State: wire.Pending})
		}, theClaim + theDB + theWeb},

		{"undecodable pod", func(v values) { v[dbPods+"p-2"] = "nonsense" },
			theClaim + "shop/db: undecided: its kvstore value pods/shop/db/p-2: decode *wire.Pod: invalid character…; " + theWeb},
		{"pod under another's key", func(v values) { v.record(dbPods+"p-2", &wire.Pod{UID: "p-1"}) },
			theClaim + `shop/db: undecided: its kvstore value pods/shop/db/p-2: decode pod: uid "p-1" does not match its key; ` + theWeb},
		{"huge pod", func(v values) { v[dbPods+"p-2"] = huge },
			theClaim + "shop/db: undecided: its kvstore value pods/shop/db/p-2: decode *wire.Pod: 10485760 bytes exceed 102400; " + theWeb},
		{"undecodable budget", func(v values) { v[dbKey] = `{"service":"db"}` },
			theClaim + "shop/db: undecided: its kvstore value budgets/shop/db: decode *wire.Budget: exactly one of …; " + theWeb},
		{"huge budget", func(v values) { v[dbKey] = huge },
			theClaim + "shop/db: undecided: its kvstore value budgets/shop/db: decode *wire.Budget: 10485760 bytes exceed 102400; " + theWeb},
		{"undecodable claim", func(v values) { v[claimsKey+"c-2"] = "nonsense" },
			theClaim + "shop/db: undecided: its kvstore value claims/shop/c-2: decode *wire.Claim: …; shop/web: undecided: its kvstore value claims/shop/c-2: …"},
		{"claim under another's key", func(v values) { v[claimsKey+"c-2"] = v[claimsKey+"c-1"] },
			theClaim + `shop/db: undecided: its kvstore value claims/shop/c-2: decode claim: id "c-1" does not match its key; shop/web: undecided: …`},
		{"huge claim", func(v values) { v[claimsKey+"c-2"] = huge },
			theClaim + "shop/db: undecided: …claims/shop/c-2: decode *wire.Claim: 10485760 bytes exceed 102400; shop/web: undecided: …"},
		{"more than an answer may hold", func(v values) { v[claimsKey+"c-2"], v[claimsKey+"c-3"] = huge, huge },
			"invalid: its kvstore cannot be read: …larger than max…"},

		{"no slice", func(v values) { delete(v, "cilium/state/endpointslices/v1/c2/shop/db-1") }, dbWith("p-1~ p-2~ p-3-")},
		{"one not listed", func(v values) { v.slice("db-1", nil, endpoint("10.2.0.2", "rsT")) }, dbWith("p-1~ p-2+ p-3-")},
		{"not serving", func(v values) { v.slice("db-1", nil, endpoint("10.2.0.1", "RST"), endpoint("10.2.0.2", "rsT")) }, dbWith("p-1~ p-2+ p-3-")},
		{"published although not ready", func(v values) { v.slice("db-1", nil, endpoint("10.2.0.1", "rST"), endpoint("10.2.0.2", "rsT")) }, dbWith("p-1~ p-2+ p-3-")},
		{"terminating, serving", func(v values) { v.slice("db-1", nil, endpoint("10.2.0.1", "Rst"), endpoint("10.2.0.2", "rsT")) }, dbWith("p-1~ p-2+ p-3-")},
		{"terminating, published as ready", func(v values) { v.slice("db-1", nil, endpoint("10.2.0.1", "rst"), endpoint("10.2.0.2", "rsT")) }, dbWith("p-1~ p-2+ p-3-")},
		// Kubernetes: serving decides; ready is what publishNotReadyAddresses bends.
		{"serving, not ready", func(v values) { v.slice("db-1", nil, endpoint("10.2.0.1", "RsT"), endpoint("10.2.0.2", "rsT")) }, dbWith("p-1+ p-2+ p-3-")},
		// Kubernetes: a condition that is not set is to be taken for serving.
		{"no conditions", func(v values) { v.slice("db-1", nil, endpoint("10.2.0.1", ""), endpoint("10.2.0.2", "")) }, dbWith("p-1+ p-2+ p-3-")},
		{"two slices", func(v values) {
			v.slice("db-1", nil, endpoint("10.2.0.1", "rsT"))
			v.slice("other-name", nil, endpoint("10.2.0.2", "rsT"))
		}, dbWith("p-1+ p-2+ p-3-")},
		{"dual stack, listed by IPv6 only", func(v values) {
			v.slice("db-1", nil, endpoint("10.2.0.2", "rsT"))
			v.slice("db-6", func(s *endpointslice.ClusterEndpointSlice) { s.AddressType = discovery.AddressTypeIPv6 }, endpoint("fd00::1", "rsT"))
		}, dbWith("p-1+ p-2+ p-3-")},
		{"another service's slice", func(v values) {
			v.slice("db-1", func(s *endpointslice.ClusterEndpointSlice) { s.Labels["kubernetes.io/service-name"] = "db2" }, endpoint("10.2.0.1", "rsT"))
		}, dbWith("p-1~ p-2~ p-3-")},
		{"slice of other clusters' endpoints", func(v values) {
			v.slice("db-1", func(s *endpointslice.ClusterEndpointSlice) {
				s.Labels["endpointslice.kubernetes.io/managed-by"] = "endpointslice-mesh-controller.cilium.io"
			}, endpoint("10.2.0.1", "rsT"))
		}, dbWith("p-1~ p-2~ p-3-")},
		{"another namespace's slice", func(v values) {
			delete(v, "cilium/state/endpointslices/v1/c2/shop/db-1")
			v.slice("db-1", func(s *endpointslice.ClusterEndpointSlice) { s.Namespace = "shop2" }, endpoint("10.2.0.1", "rsT"))
		}, dbWith("p-1~ p-2~ p-3-")},
		{"undecodable slice", func(v values) { v["cilium/state/endpointslices/v1/c2/shop/other"] = "nonsense" },
			theClaim + "shop/db: undecided: decode endpoint slice other of c2: …; " + theWeb},
		{"slices win over services", func(v values) { v.service() }, theClaim + theDB + theWeb},
		{"not exported: slices do not count", func(v values) {
			v.slice("db-1", nil)
			v.record(dbKey, &wire.Budget{Service: "db", MinAvailable: "2", Expected: 3, View: []string{"c1", "c2"}})
		}, theClaim + theDB + theWeb},

		{"Cilium 1.19", func(v values) {
			v.config(capabilities)
			delete(v, slicesSynced)
			v.service("10.2.0.1", "10.2.0.2", "10.2.0.3")
		}, theClaim + theDB + theWeb},
		{"Cilium 1.19, one absent", func(v values) { v.config(capabilities); v.service("10.2.0.2", "10.2.0.3") }, dbWith("p-1~ p-2+ p-3-")},
		{"Cilium 1.19, IPv6", func(v values) { v.config(capabilities); v.service("10.2.0.2", "fd00::1") }, dbWith("p-1+ p-2+ p-3-")},
		{"Cilium 1.19, no record", func(v values) { v.config(capabilities) }, dbWith("p-1~ p-2~ p-3-")},
		{"Cilium 1.19, undecodable record", func(v values) { v.config(capabilities); v[dbService] = "nonsense" },
			theClaim + "shop/db: undecided: decode service shop/db of c2: …; " + theWeb},
		{"Cilium 1.19, services not synced", func(v values) { v.config(capabilities); delete(v, servicesSynced) },
			"invalid: its clustermesh-apiserver has not exported all endpoints yet"},
	} {
		v := complete()
		tt.change(v)
		s.fill(v)
		if got := here.within(patience, "c2"); !says(got, tt.want) {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

// TestSnapshotOfAllFields: what a claim and a report carry beyond text.
func TestSnapshotOfAllFields(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c2")
	here := newSite(t, nil)
	here.peer("c2", etcdFile(t, s.address, writeIdentity(t, remote()), nil))
	here.run()
	v := complete()
	v.record(dbKey, &wire.Budget{Service: "cache", MinAvailable: "2"})
	s.fill(v)
	here.await(theClaim+"…", here.fresh, "c2")
	got := here.Snapshot(t.Context(), "c2", shop())
	want := claim.Claim{
		ID: "c-1", UID: "p-1", Namespace: "shop", Pod: "db-1", Budgets: []string{"shop/db"}, Cluster: "c2",
		State: claim.Granted, Ticket: 7, Seq: 2, Reason: "Eviction",
	}
	if len(got.Claims) != 1 || fmt.Sprint(got.Claims[0]) != fmt.Sprint(want) || got.Cluster != "c2" {
		t.Errorf("got %s %+v, want c2 %+v", got.Cluster, got.Claims, want)
	}
	// The bounds of an undecided budget bind all the same (B03).
	if b := boundsText(got.Budgets["shop/db"].Bounds); b != "min 2" {
		t.Errorf("bounds %q", b)
	}
	s.put(dbPods+"p-2", "nonsense")
	if got := here.Snapshot(t.Context(), "c2", shop()); boundsText(got.Budgets["shop/db"].Bounds) != "min 2" {
		t.Errorf("damaged: %+v", got.Budgets["shop/db"])
	}
}

func TestExports(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c2")
	here := newSite(t, nil)
	here.peer("c2", etcdFile(t, s.address, writeIdentity(t, remote()), nil))
	here.run()
	here.await("invalid: no meshpdb publishes in its kvstore", here.fresh, "c2")
	for _, tt := range []struct {
		name   string
		change func(v values)
		want   bool
	}{
		{"nothing", func(values) {}, false},
		{"slice", func(v values) { v.slice("db-1", nil, endpoint("10.2.0.1", "rsT")) }, true},
		{"slice of other clusters' endpoints", func(v values) {
			v.slice("db-1", func(s *endpointslice.ClusterEndpointSlice) {
				s.Labels["endpointslice.kubernetes.io/managed-by"] = "endpointslice-mesh-controller.cilium.io"
			}, endpoint("10.2.0.1", "rsT"))
		}, false},
		{"service record without backends", func(v values) { v.service() }, true},
	} {
		v := values{slicesSynced: "true"}
		v.config(cmtypes.CiliumClusterConfigCapabilities{SyncedCanaries: true, EndpointSlicesExportMode: cmtypes.EndpointSlicesExportModeServicesAndEndpointSlices})
		tt.change(v)
		s.fill(v)
		if got, err := here.Exports(t.Context(), "c2", "shop", "db"); got != tt.want || err != nil {
			t.Errorf("%s: got %v, %v", tt.name, got, err)
		}
	}
	// A store that was just emptied says nothing of what its cluster exports.
	s.fill(values{})
	if _, err := here.Exports(t.Context(), "c2", "shop", "db"); err == nil || !strings.Contains(err.Error(), "no cluster-config") {
		t.Errorf("emptied store: %v", err)
	}
	if _, err := here.Exports(t.Context(), "c3", "shop", "db"); err == nil || err.Error() != "it is not in this cluster's ClusterMesh configuration" {
		t.Errorf("unknown cluster: %v", err)
	}
	s.fill(values{"cilium/state/endpointslices/v1/c2/shop/db-1": "nonsense"})
	if _, err := here.Exports(t.Context(), "c2", "shop", "db"); err == nil {
		t.Error("an undecodable slice says that nothing is exported")
	}
	s.kill()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := here.Exports(ctx, "c2", "shop", "db"); err == nil || !strings.HasPrefix(err.Error(), "its kvstore ") {
		t.Errorf("unreachable: %v", err)
	}
}
