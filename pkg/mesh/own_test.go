package mesh_test

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

const (
	ownPrefix = "cilium/state/meshpdb/v1/c1/"
	ownMarker = ownPrefix + "marker"
)

func life(id string) wire.Incarnation { return wire.Incarnation{ID: id, Controller: "meshpdb-0"} }

// ownSite is a site whose own kvstore are these etcds.
func ownSite(t *testing.T, stores ...*store) *site {
	t.Helper()
	here := newSite(t, nil)
	var endpoints, addresses []string
	for _, s := range stores {
		endpoints, addresses = append(endpoints, "https://"+s.address), append(addresses, s.address)
	}
	replaceFile(t, here.own, etcdFile(t, "", stores[0].certs, map[string]any{"endpoints": endpoints}))
	here.run()
	slices.Sort(addresses)
	await(t, fmt.Sprint(addresses), func() string { return fmt.Sprint(here.Own().Instances()) })
	return here
}

// prefix returns what a store holds of ours.
func (s *store) prefix() map[string]string {
	s.t.Helper()
	response, err := s.admin.Get(s.t.Context(), ownPrefix, clientv3.WithPrefix())
	if err != nil {
		s.t.Fatal(err)
	}
	all := map[string]string{}
	for _, kv := range response.Kvs {
		all[strings.TrimPrefix(string(kv.Key), ownPrefix)] = string(kv.Value)
	}
	return all
}

func TestOwnClaims(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c1")
	own, ctx := ownSite(t, s).Own(), t.Context()
	if err := own.Problem(); err != nil {
		t.Fatal(err)
	}
	c := claim.Claim{ID: "c-1", UID: "p-1", Namespace: "shop", Pod: "db-0", Budgets: []string{"shop/db"}, Views: []string{"62863b3073ab1b58"}, Cluster: "c1", State: claim.Pending, Ticket: 3, Reason: "Eviction"}
	other := claim.Claim{ID: "c-2", UID: "p-1", Namespace: "shop", Pod: "db-0", Cluster: "c1", State: claim.Granted, Ticket: 4, Seq: 1}
	for _, written := range []claim.Claim{c, other} {
		if err := own.WriteClaim(ctx, s.address, written); err != nil {
			t.Fatal(err)
		}
	}
	const text = `{"id":"c-1","uid":"p-1","pod":"db-0","budgets":["shop/db"],"views":["62863b3073ab1b58"],"state":"Pending","ticket":3,"reason":"Eviction"}`
	if got := s.get(ownPrefix + "claims/shop/c-1"); got != text {
		t.Errorf("got %s, want %s", got, text)
	}
	stored := map[string]string{}
	keep := func(page map[string]string) { maps.Copy(stored, page) }
	if err := own.Stored(ctx, s.address, keep); err != nil || len(stored) != 2 {
		t.Errorf("stored %v, %v", stored, err)
	}
	claims, err := own.StoredClaims(ctx, s.address)
	slices.SortFunc(claims, func(a, b claim.Claim) int { return strings.Compare(a.ID, b.ID) })
	if err != nil || fmt.Sprintf("%+v", claims) != fmt.Sprintf("%+v", []claim.Claim{c, other}) {
		t.Errorf("claims %+v, %v", claims, err)
	}
	// Claims that arrive together, more than a transaction may hold; one of them twice.
	var many []claim.Claim
	for i := range 150 {
		many = append(many, claim.Claim{ID: fmt.Sprint("m-", i%149), UID: "p", Namespace: "shop", State: claim.Pending, Ticket: 1})
	}
	if err := own.WriteClaims(ctx, s.address, many); err != nil || len(s.prefix()) != 2+149 {
		t.Errorf("%d claims are stored, %v", len(s.prefix()), err)
	}
	if err := own.WriteClaims(ctx, s.address, append(many, claim.Claim{ID: "x", Namespace: "shop"})); err == nil {
		t.Error("a claim without UID was written among others")
	}
	if err := own.DeleteClaims(ctx, s.address, many); err != nil || len(s.prefix()) != 2 {
		t.Errorf("%d claims are left, %v", len(s.prefix()), err)
	}
	c.State = claim.Granted
	if err := own.WriteClaim(ctx, s.address, c); err != nil || !strings.Contains(s.get(ownPrefix+"claims/shop/c-1"), `"state":"Granted"`) {
		t.Errorf("granted: %s, %v", s.get(ownPrefix+"claims/shop/c-1"), err)
	}
	// One claim goes by its own ID; another claim on the same pod stays (X17).
	if err := own.DeleteClaim(ctx, s.address, c); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(slices.Sorted(maps.Keys(s.prefix()))); got != "[claims/shop/c-2]" {
		t.Errorf("left: %s", got)
	}
	if err := own.DeleteClaim(ctx, s.address, c); err != nil {
		t.Errorf("delete again: %v", err)
	}
	if err := own.WriteClaim(ctx, s.address, claim.Claim{ID: "c-3", Namespace: "shop", State: claim.Pending}); err == nil {
		t.Error("a claim without UID was written")
	}

	// What cannot be read is known by its key, to be removed.
	s.put(ownPrefix+"claims/shop/c-2", "nonsense")
	s.put(ownPrefix+"later/x", "nonsense")
	claims, err = own.StoredClaims(ctx, s.address)
	if err != nil || len(claims) != 1 || claims[0].ID != "c-2" || claims[0].Namespace != "shop" {
		t.Errorf("claims %+v, %v", claims, err)
	}

	const unknown = "127.0.0.1:1"
	_, err = own.StoredClaims(ctx, unknown)
	for what, err := range map[string]error{
		"WriteClaim":     own.WriteClaim(ctx, unknown, c),
		"DeleteClaim":    own.DeleteClaim(ctx, unknown, c),
		"DeleteClaims":   own.DeleteClaims(ctx, unknown, many),
		"PutIncarnation": own.PutIncarnation(ctx, unknown, life("life-1")),
		"Publish":        own.Publish(ctx, unknown, life("life-1"), nil),
		"PutMarker":      own.PutMarker(ctx, unknown, life("life-1")),
		"Alive":          own.Alive(ctx, unknown, life("life-1")),
		"Stored":         own.Stored(ctx, unknown, keep),
		"StoredClaims":   err,
	} {
		if err == nil || err.Error() != "instance 127.0.0.1:1 of the own kvstore is not configured here" {
			t.Errorf("%s in an unknown instance: %v", what, err)
		}
	}
}

// TestOwnGuard: the certificate is root, so only the screen keeps us to our prefix.
func TestOwnGuard(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c1")
	own, ctx := ownSite(t, s).Own(), t.Context()
	if err := own.PutIncarnation(ctx, s.address, life("life-1")); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"cilium/state/services/v1/c1/shop/db",
		"cilium/cluster-config/c1",
		"cilium/state/meshpdb/v1/c2/marker",
		"cilium/state/meshpdb/v1/c10/marker",
		"cilium/state/meshpdb/v1/c1",
		"x", "",
	} {
		for _, value := range []string{"{}", ""} {
			if key != "" {
				s.put(key, "theirs")
			}
			err := own.Publish(ctx, s.address, life("life-1"), []mesh.Change{{Key: ownPrefix + "budgets/shop/db", Value: "{}"}, {Key: key, Value: value}})
			if want := fmt.Sprintf("write %q: outside %q", key, ownPrefix); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
			if key != "" && s.get(key) != "theirs" {
				t.Errorf("%s is now %q", key, s.get(key))
			}
			if s.get(ownPrefix+"budgets/shop/db") != "" {
				t.Errorf("%s: what stood beside it was written", key)
			}
		}
	}
}

func TestOwnPublish(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c1")
	own, ctx := ownSite(t, s).Own(), t.Context()
	if err := own.PutIncarnation(ctx, s.address, life("life-1")); err != nil {
		t.Fatal(err)
	}
	// More than etcd takes in one transaction.
	var puts, deletes []mesh.Change
	for i := range 345 {
		key := fmt.Sprintf("%spods/shop/db/p-%03d", ownPrefix, i)
		puts = append(puts, mesh.Change{Key: key, Value: fmt.Sprintf(`{"uid":"p-%03d"}`, i)})
		if i%2 == 0 {
			deletes = append(deletes, mesh.Change{Key: key})
		}
	}
	if err := own.Publish(ctx, s.address, life("life-1"), puts); err != nil {
		t.Fatal(err)
	}
	held := s.prefix()
	for _, c := range puts {
		if held[strings.TrimPrefix(c.Key, ownPrefix)] != c.Value {
			t.Fatalf("%s holds %q", c.Key, held[strings.TrimPrefix(c.Key, ownPrefix)])
		}
	}
	if err := own.Publish(ctx, s.address, life("life-1"), deletes); err != nil {
		t.Fatal(err)
	}
	if got, want := len(s.prefix()), 1+345-173; got != want {
		t.Errorf("%d values are left, want %d", got, want)
	}
	if err := own.Publish(ctx, s.address, life("life-1"), nil); err != nil {
		t.Errorf("publish nothing: %v", err)
	}
}

// R1: what an earlier incarnation still writes does not land.
func TestOwnFencing(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c1")
	here := ownSite(t, s)
	own, ctx := here.Own(), t.Context()
	budget := mesh.Change{Key: ownPrefix + "budgets/shop/db", Value: `{"service":"db","minAvailable":"1"}`}
	first, second := life("life-1"), life("life-2")
	// Each step names who does what, and whether it is fenced.
	do := map[string]func(wire.Incarnation) error{
		"begin":   func(i wire.Incarnation) error { return own.PutIncarnation(ctx, s.address, i) },
		"publish": func(i wire.Incarnation) error { return own.Publish(ctx, s.address, i, []mesh.Change{budget}) },
		"mark":    func(i wire.Incarnation) error { return own.PutMarker(ctx, s.address, i) },
		"alive":   func(i wire.Incarnation) error { return own.Alive(ctx, s.address, i) },
	}
	for n, step := range []struct {
		do     string
		by     wire.Incarnation
		fenced bool
	}{
		// Nobody has begun.
		{"publish", first, true},
		{"mark", first, true},
		{"begin", first, false},
		{"publish", first, false},
		{"publish", second, true},
		{"mark", first, false},
		{"alive", first, false},
		{"alive", second, true},
		{"begin", second, false},
		{"publish", first, true},
		{"mark", first, true},
		{"alive", first, true},
		{"publish", second, false},
		// Its own marker is not there yet, the other one's still is.
		{"alive", second, true},
		{"mark", second, false},
		{"alive", second, false},
		{"alive", second, false},
		{"mark", first, true},
		{"alive", second, false},
	} {
		before := s.prefix()
		err := do[step.do](step.by)
		if mesh.IsFenced(err) != step.fenced || !step.fenced && err != nil {
			t.Fatalf("step %d, %s by %s: %v", n+1, step.do, step.by.ID, err)
		}
		if step.fenced && !maps.Equal(before, s.prefix()) {
			t.Fatalf("step %d, %s by %s: the store changed to %v", n+1, step.do, step.by.ID, s.prefix())
		}
	}
	if got := s.get(ownMarker); got != `{"incarnation":"life-2"}` {
		t.Errorf("marker %s", got)
	}

	// The marker goes with its lease, and that is a doubt.
	here.await("invalid: its kvstore holds no cluster-config of c1 yet", here.fresh, "c1")
	response, err := s.admin.Get(ctx, ownMarker)
	if err != nil || len(response.Kvs) != 1 || response.Kvs[0].Lease == 0 {
		t.Fatalf("marker %+v is on no lease: %v", response, err)
	}
	lease := clientv3.LeaseID(response.Kvs[0].Lease)
	if left, err := s.admin.TimeToLive(ctx, lease); err != nil || left.GrantedTTL != mesh.MarkerTTL {
		t.Errorf("lease %+v, %v", left, err)
	}
	if _, err := s.admin.Revoke(ctx, lease); err != nil {
		t.Fatal(err)
	}
	if got := s.get(ownMarker); got != "" {
		t.Errorf("the marker stands without its lease: %s", got)
	}
	if got := s.get(ownPrefix + "budgets/shop/db"); got == "" {
		t.Error("records went with the lease")
	}
	if err := own.Alive(ctx, s.address, second); err == nil || mesh.IsFenced(err) {
		t.Errorf("alive without a lease: %v", err)
	}
	here.await("invalid: its meshpdb has not finished publishing after a restart", here.fresh, "c1")

	// Marked again, then the marker alone is taken away.
	if err := own.PutMarker(ctx, s.address, second); err != nil {
		t.Fatal(err)
	}
	s.delete(ownMarker)
	if err := own.Alive(ctx, s.address, second); !mesh.IsFenced(err) {
		t.Errorf("alive without a marker: %v", err)
	}
	// The same life of another controller is another life.
	if err := own.Publish(ctx, s.address, wire.Incarnation{ID: "life-2", Controller: "meshpdb-1"}, []mesh.Change{budget}); !mesh.IsFenced(err) {
		t.Errorf("another controller: %v", err)
	}

	s.kill()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := own.Publish(ctx, s.address, second, []mesh.Change{budget}); err == nil || mesh.IsFenced(err) || !strings.Contains(err.Error(), "its kvstore ") {
		t.Errorf("an etcd that is gone: %v", err)
	}
}

// TestOwnInstances: any marked instance answers for the own cluster, and
// instances that work survive a broken file.
func TestOwnInstances(t *testing.T) {
	t.Parallel()
	one, two := startStore(t, "c1"), startStore(t, "c1")
	here := ownSite(t, one, two)
	own, ctx := here.Own(), t.Context()
	for _, s := range []*store{one, two} {
		s.put("cilium/cluster-config/c1", `{"id":1}`)
		if err := own.PutIncarnation(ctx, s.address, life("life-"+s.address)); err != nil {
			t.Fatal(err)
		}
	}
	here.await("invalid: its meshpdb has not finished publishing after a restart", here.fresh, "c1")
	names := own.Instances()
	last := names[len(names)-1]
	if err := own.WriteClaim(ctx, last, claim.Claim{ID: "c-1", UID: "p-1", Namespace: "shop", State: claim.Pending, Ticket: 1}); err != nil {
		t.Fatal(err)
	}
	if err := own.PutMarker(ctx, last, life("life-"+last)); err != nil {
		t.Fatal(err)
	}
	here.await("c-1=Pending/p-1/1", here.fresh, "c1")
	here.await("c-1=Pending/p-1/1", here.cached, "c1")
	here.await("valid", func(c string) string { return reachability(here, c) }, "c1")
	for _, r := range here.OwnInstances() {
		if r.Cluster != "c1" || (r.Err == nil) != (r.Instance == last) || !slices.Contains(names, r.Instance) {
			t.Errorf("told of an instance is %+v", r)
		}
	}
	if len(here.OwnInstances()) != len(names) {
		t.Errorf("told of %+v, want %v", here.OwnInstances(), names)
	}

	replaceFile(t, here.own, []byte("broken"))
	// A good peer file shows when the directory has been read again.
	here.peer("c2", []byte("broken"))
	await(t, "[c2]", func() string { return fmt.Sprint(here.Peers()) })
	if got := here.fresh("c1"); got != "c-1=Pending/p-1/1" || own.Problem() != nil {
		t.Errorf("with a broken file: %s, %v", got, own.Problem())
	}
	if err := own.Alive(ctx, last, life("life-"+last)); err != nil {
		t.Errorf("with a broken file: %v", err)
	}

	// Another authority is trusted as well: that takes a new client, and no new marker.
	authorities := filepath.Join(one.certs, "ca.crt")
	replaceFile(t, authorities, append(authority().pem(), newCA().pem()...))
	here.peer("c3", []byte("broken"))
	await(t, "[c2 c3]", func() string { return fmt.Sprint(here.Peers()) })
	if err := own.Alive(ctx, last, life("life-"+last)); err != nil {
		t.Errorf("with another authority: %v", err)
	}

	// One instance leaves. The other one keeps its lease, and from the one that
	// left the marker can still be taken.
	if err := own.PutMarker(ctx, names[0], life("life-"+names[0])); err != nil {
		t.Fatal(err)
	}
	left, stays := one, two
	if last == one.address {
		left, stays = two, one
	}
	if retired, err := own.Retire(ctx, left.address); retired || err != nil {
		t.Errorf("an instance that is configured was retired: %v, %v", retired, err)
	}
	replaceFile(t, here.own, etcdFile(t, last, one.certs, nil))
	await(t, "["+last+"]", func() string { return fmt.Sprint(own.Instances()) })
	here.await("c-1=Pending/p-1/1", here.fresh, "c1")
	if err := own.Alive(ctx, last, life("life-"+last)); err != nil {
		t.Errorf("the instance that stays: %v", err)
	}
	for n, want := range []bool{true, false} {
		if retired, err := own.Retire(ctx, left.address); retired != want || err != nil || left.get(ownMarker) != "" {
			t.Errorf("retire, time %d: %v, %v, marker %q", n+1, retired, err, left.get(ownMarker))
		}
	}
	if left.get(ownPrefix+"incarnation") == "" || stays.get(ownMarker) == "" {
		t.Error("more than the marker of the one that left was taken")
	}

	// It comes back, leaves again, and cannot be reached: nothing is acknowledged.
	both := etcdFile(t, "", one.certs, map[string]any{"endpoints": []string{"https://" + one.address, "https://" + two.address}})
	replaceFile(t, here.own, both)
	await(t, fmt.Sprint(names), func() string { return fmt.Sprint(own.Instances()) })
	replaceFile(t, here.own, etcdFile(t, last, one.certs, nil))
	await(t, "["+last+"]", func() string { return fmt.Sprint(own.Instances()) })
	left.kill()
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if retired, err := own.Retire(short, left.address); retired || err == nil {
		t.Errorf("retired without an answer: %v, %v", retired, err)
	}
	if retired, err := own.Retire(ctx, "127.0.0.1:1"); retired || err != nil {
		t.Errorf("an unknown instance: %v, %v", retired, err)
	}
}

func TestOwnFileProblem(t *testing.T) {
	t.Parallel()
	certs := writeIdentity(t, certificate{name: "admin-c1"})
	for _, tt := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"broken", []byte("endpoints: ["), "parse etcd client file …"},
		{"no https", etcdFile(t, "", certs, map[string]any{"endpoints": []string{"http://127.0.0.1:2379"}}), `parse endpoint "http://127.0.0.1:2379" of …: not an https URL`},
		{"no host", etcdFile(t, "", certs, map[string]any{"endpoints": []string{"https://127.0.0.1:2379", "https://"}}), `parse endpoint "https://" of …: not an https URL`},
	} {
		here := newSite(t, nil)
		replaceFile(t, here.own, tt.content)
		here.run()
		await(t, tt.want, func() string { return fmt.Sprint(here.Own().Problem()) })
		here.await("invalid: "+tt.want, here.fresh, "c1")
		if got := here.Own().Instances(); len(got) != 0 {
			t.Errorf("%s: instances %v", tt.name, got)
		}
	}
}

// TestDiscovery: addresses that were found replace those of the file, under
// the name that the certificates carry.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	one, two := startStore(t, "c1"), startStore(t, "c1")
	d := &mesh.Discovery{ServerName: "clustermesh-apiserver.cilium.io"}
	here := newSite(t, d)
	replaceFile(t, here.own, etcdFile(t, "clustermesh-apiserver.kube-system.svc:2379", one.certs, nil))
	here.run()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const none = "no instance of the own ClusterMesh was found: its Service has no endpoints"
	await(t, none, func() string { return fmt.Sprint(here.Own().Problem()) })
	here.await("invalid: "+none, here.fresh, "c1")

	// The certificates do not name these addresses, only the server name.
	f, g := startForwarder(t, loopback(), one.address), startForwarder(t, loopback(), two.address)
	for _, addresses := range [][]string{{f.address}, {g.address, f.address}, {g.address}} {
		d.Set(addresses)
		sorted := slices.Sorted(slices.Values(addresses))
		await(t, fmt.Sprint(sorted), func() string { return fmt.Sprint(here.Own().Instances()) })
		for _, a := range addresses {
			if err := here.Own().PutIncarnation(ctx, a, life("life-of-"+a)); err != nil {
				t.Errorf("%s: %v", a, err)
			}
		}
	}
	if got := one.get(ownPrefix + "incarnation"); !strings.Contains(got, "life-of-"+f.address) {
		t.Errorf("the first instance holds %q", got)
	}
	// No instance at all: those that worked go on working.
	d.Set(nil)
	here.peer("c2", []byte("broken"))
	await(t, "[c2]", func() string { return fmt.Sprint(here.Peers()) })
	if got := fmt.Sprint(here.Own().Instances()); got != "["+g.address+"]" {
		t.Errorf("instances %s", got)
	}
}
