package mesh_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// TestViewFollows: the standing view shows every change without being asked to read.
func TestViewFollows(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c2")
	here := newSite(t, nil)
	here.peer("c2", etcdFile(t, s.address, writeIdentity(t, remote()), nil))
	here.run()
	here.await("invalid: no meshpdb publishes in its kvstore", here.cached, "c2")
	if held, read := here.Held("c2", "shop", "db"); held || !read {
		t.Errorf("an empty store: held %v, read %v", held, read)
	}
	if held, read := here.Held("c3", "shop", "db"); held || read {
		t.Errorf("an unknown cluster: held %v, read %v", held, read)
	}
	s.fill(complete())
	here.await(theClaim+theDB+theWeb, here.cached, "c2")
	if held, read := here.Held("c2", "shop", "db"); !held || !read {
		t.Errorf("held %v, read %v", held, read)
	}

	unready := string(must(wire.Marshal(&wire.Pod{UID: "p-2", Name: "db-2", Unavailable: wire.ProcessExited})))
	ready := string(must(wire.Marshal(&wire.Pod{UID: "p-2", Name: "db-2"})))
	pending := string(must(wire.Marshal(&wire.Claim{ID: "c-2", UID: "p-2", State: wire.Pending, Ticket: 8})))
	for _, step := range []struct {
		name string
		do   func()
		want string
	}{
		{"a pod changes", func() { s.put(dbPods+"p-2", unready) }, dbWith("p-1+ p-2- p-3-")},
		{"a claim comes", func() { s.put(claimsKey+"c-2", pending) }, "c-1=Granted/p-1/7; c-2=Pending/p-2/8; shop/db: …"},
		{"a claim goes", func() { s.delete(claimsKey + "c-2") }, dbWith("p-1+ p-2- p-3-")},
		{"a pod goes", func() { s.delete(dbPods + "p-3") }, dbWith("p-1+ p-2-")},
		// Endpoints are for snapshots only.
		{"Cilium's values", func() {
			s.delete("cilium/state/endpointslices/v1/c2/shop/db-1")
			s.delete(configKey)
			s.put(dbPods+"p-2", ready)
		}, dbWith("p-1+ p-2+")},
		{"a value is damaged", func() { s.put(dbPods+"p-1", "nonsense") }, theClaim + "shop/db: undecided: its kvstore value pods/shop/db/p-1: …; " + theWeb},
		{"and goes", func() { s.delete(dbPods + "p-1") }, dbWith("p-2+")},
		{"a value is damaged again", func() { s.put(dbPods+"p-1", "nonsense") }, theClaim + "shop/db: undecided: …; " + theWeb},
		{"and mended", func() { s.put(dbPods+"p-1", complete()[dbPods+"p-1"]) }, dbWith("p-1+ p-2+")},
		{"the history is compacted", func() {
			if _, err := s.admin.Compact(t.Context(), s.revision()); err != nil {
				t.Fatal(err)
			}
			s.delete(dbPods + "p-2")
		}, dbWith("p-1+")},
		{"the marker is damaged", func() { s.put(markerKey, "nonsense") }, "invalid: its meshpdb has not finished publishing after a restart"},
		{"and mended", func() { s.put(markerKey, complete()[markerKey]) }, dbWith("p-1+")},
		{"the budget is deleted", func() { s.put(dbKey, `{"tombstone":true}`) }, theClaim + theWeb},
		{"the marker expires", func() { s.delete(markerKey) }, "invalid: its meshpdb has not finished publishing after a restart"},
	} {
		changes, heard := here.Changes(), here.times("shop")+here.times("")
		step.do()
		here.await(step.want, here.cached, "c2")
		select {
		case <-changes:
		case <-time.After(patience):
			t.Errorf("%s: Changes was not closed", step.name)
		}
		await(t, "told", func() string {
			if here.times("shop")+here.times("") == heard {
				return step.name + ": nobody was told"
			}
			return "told"
		})
	}
	if here.times("shop") == 0 {
		t.Error("changes of namespace shop were not told under its name")
	}
	// Without a marker its records are not complete: it may hold the budget.
	if held, read := here.Held("c2", "shop", "db"); held || read {
		t.Errorf("a deleted budget in an unmarked store: held %v, read %v", held, read)
	}
	s.put("cilium/state/meshpdb/v1/c2/claims/other/c-9", pending)
	await(t, "told", func() string {
		if here.times("other") == 0 {
			return "not told"
		}
		return "told"
	})
}

// TestViewOfUnreachable: the bounds that were known last stay known, and so
// does when the store was seen.
func TestViewOfUnreachable(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c2")
	s.fill(complete())
	here := newSite(t, nil)
	here.peer("c2", etcdFile(t, s.address, writeIdentity(t, remote()), nil))
	here.run()
	here.await(theClaim+theDB+theWeb, here.cached, "c2")
	s.kill()
	here.await("invalid: its kvstore …", here.cached, "c2")
	here.await("invalid: its kvstore …", here.fresh, "c2")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for what, got := range map[string]claim.Snapshot{"cached": here.Cached("c2", shop()), "fresh": here.Snapshot(ctx, "c2", shop())} {
		if b := boundsText(got.Budgets["shop/db"].Bounds); got.Invalid == "" || b != "min 2" {
			t.Errorf("%s: the last known bounds are %q, %s", what, b, got.Invalid)
		}
	}
	if held, read := here.Held("c2", "shop", "db"); !held || !read {
		t.Errorf("held %v, read %v", held, read)
	}
	for _, r := range here.Reachable() {
		if r.Cluster == "c2" && (r.Err == nil || r.Seen.IsZero() || r.Since.Before(r.Seen)) {
			t.Errorf("got %+v", r)
		}
	}

	// It comes back on the same address, empty, and is filled anew.
	s.start()
	here.await("invalid: no meshpdb publishes in its kvstore", here.cached, "c2")
	v := complete()
	v.record(incarnationKey, &wire.Incarnation{ID: "life-2"})
	v.record(markerKey, &wire.Marker{Incarnation: "life-2"})
	delete(v, claimsKey+"c-1")
	s.fill(v)
	here.await(theDB+theWeb, here.cached, "c2")
}

// TestViewOfSilentConnection: the connection is forgotten between the two ends
// and nobody is told. gRPC would learn of it after 13 s.
func TestViewOfSilentConnection(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c2")
	s.fill(complete())
	service := startForwarder(t, "127.0.0.1", s.address)
	here := newSite(t, nil)
	here.peer("c2", etcdFile(t, service.address, writeIdentity(t, remote()), nil))
	here.run()
	here.await(theClaim+theDB+theWeb, here.cached, "c2")
	service.silence()
	since := time.Now()
	v := complete()
	delete(v, claimsKey+"c-1")
	s.fill(v)
	here.await(theDB+theWeb, here.fresh, "c2")
	if took := time.Since(since); took > 9*time.Second {
		t.Errorf("connected anew after %s", took)
	}
	here.await(theDB+theWeb, here.cached, "c2")
}

// TestViewBetweenListAndWatch: a store that was listed is gone before the
// watch stands.
func TestViewBetweenListAndWatch(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c2")
	s.fill(complete())
	service := startForwarder(t, "127.0.0.1", s.address)
	here := newSite(t, nil)
	var cut sync.Once
	here.hear = func() {
		if here.cached("c2") == theClaim+theDB+theWeb {
			cut.Do(func() { service.lead("") })
		}
	}
	here.peer("c2", etcdFile(t, service.address, writeIdentity(t, remote()), nil))
	here.run()
	here.await("invalid: its kvstore …", here.cached, "c2")
	s.delete(dbPods + "p-3")
	service.lead(s.address)
	here.await(dbWith("p-1+ p-2+"), here.cached, "c2")
}

// TestViewOfAnotherStore: behind one address is now another etcd, and nothing
// but its content says so.
func TestViewOfAnotherStore(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		// other starts the etcd that takes the place of s.
		other func(t *testing.T, s *store) *store
		// before and after say how much longer the history of s is than the
		// other's, when that is filled and when it takes over.
		before, after int64
	}{
		{"another replica", func(t *testing.T, _ *store) *store { return startStore(t, "c2") }, -100, -100},
		{"emptied, with a shorter history", startTwin, 100, 50},
		{"emptied, with a longer history", startTwin, -100, -100},
		{"emptied, with a history that became longer after all was written", startTwin, 100, -100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := startStore(t, "c2")
			s.fill(complete())
			other := tt.other(t, s)
			v := complete()
			v.record(incarnationKey, &wire.Incarnation{ID: "life-2"})
			v.record(markerKey, &wire.Marker{Incarnation: "life-2"})
			delete(v, claimsKey+"c-1")
			delete(v, dbPods+"p-3")
			if tt.before > 0 {
				lengthen(t, s, other.revision()+tt.before)
			} else {
				lengthen(t, other, s.revision()-tt.before)
			}
			other.fill(v)
			if tt.after < 0 {
				lengthen(t, other, s.revision()-tt.after)
			}
			service := startForwarder(t, "127.0.0.1", s.address)
			here := newSite(t, nil)
			here.peer("c2", etcdFile(t, service.address, writeIdentity(t, remote()), nil))
			here.run()
			here.await(theClaim+theDB+theWeb, here.cached, "c2")
			service.lead(other.address)
			here.await("shop/db: db min 2 of 3 [c1 c2] [p-1+ p-2+]; "+theWeb, here.cached, "c2")
		})
	}
}

// TestViewOfQuickRestart: an etcd loses its data and is filled past its old
// revision while its peers' watches reconnect. They go on without an error
// and see the new content, but no word of what has vanished.
func TestViewOfQuickRestart(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c2")
	s.fill(complete())
	twin := startTwin(t, s)
	lengthen(t, twin, s.revision()+10)
	service := startForwarder(t, "127.0.0.1", s.address)
	here := newSite(t, nil)
	here.peer("c2", etcdFile(t, service.address, writeIdentity(t, remote()), nil))
	here.run()
	here.await(theClaim+theDB+theWeb, here.cached, "c2")
	service.lead(twin.address)
	v := complete()
	delete(v, claimsKey+"c-1")
	delete(v, dbPods+"p-3")
	v.record(incarnationKey, &wire.Incarnation{ID: "life-2"})
	v.record(markerKey, &wire.Marker{Incarnation: "life-2"})
	for key, value := range v {
		twin.put(key, value)
	}
	here.await("shop/db: db min 2 of 3 [c1 c2] [p-1+ p-2+]; "+theWeb, here.cached, "c2")
}

// TestViewSurvivesCompaction: the watch breaks off, and when it comes back the
// revision that it would go on from is gone.
func TestViewSurvivesCompaction(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c2")
	s.fill(complete())
	service := startForwarder(t, "127.0.0.1", s.address)
	here := newSite(t, nil)
	here.peer("c2", etcdFile(t, service.address, writeIdentity(t, remote()), nil))
	here.run()
	here.await(theClaim+theDB+theWeb, here.cached, "c2")
	service.lead("")
	s.delete(dbPods + "p-3")
	s.delete(claimsKey + "c-1")
	lengthen(t, s, s.revision()+10)
	if _, err := s.admin.Compact(t.Context(), s.revision()); err != nil {
		t.Fatal(err)
	}
	service.lead(s.address)
	here.await("shop/db: db min 2 of 3 [c1 c2] [p-1+ p-2+]; "+theWeb, here.cached, "c2")
}

// lengthen writes values of other programs until the store's revision is past one.
func lengthen(t *testing.T, s *store, revision int64) {
	t.Helper()
	for s.revision() <= revision {
		var puts []clientv3.Op
		for i := range 10 {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("cilium/state/nodes/v1/c2/n-%d", i), "{}"))
		}
		for _, put := range puts {
			if _, err := s.admin.Do(t.Context(), put); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestViewsStayYoung: the watch says how far it has come also where nothing
// happens, so that the age of a view is that of the view, not of a probe.
func TestViewsStayYoung(t *testing.T) {
	t.Parallel()
	_, here := viewed(t)
	awaitYounger(t, here)
	if heard := here.times("shop"); heard > len(complete()) {
		t.Errorf("%d changes were told of a store in which nothing happens", heard)
	}
}

// TestViewsStayYoungBesideALaggard: etcd tells of no progress to a stream of which one watch waits
// for a revision that is far away. Beside the view's stream that does no harm; within it, the view is listed anew.
func TestViewsStayYoungBesideALaggard(t *testing.T) {
	t.Parallel()
	for name, shared := range map[string]bool{"another stream": false, "its stream": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, here := viewed(t)
			client, err := mesh.ClientOfPeer(here.Mesh, "c2")
			if err != nil {
				t.Fatal(err)
			}
			sessions := func() int {
				n, err := mesh.SessionsOfPeer(here.Mesh, "c2")
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			awaitYounger(t, here) // by then no session is left from when the store was filled
			before, ctx := sessions(), t.Context()
			if shared {
				ctx = mesh.StreamOf(ctx, before)
			}
			client.Watch(ctx, wire.ClusterPrefix("c2"), clientv3.WithPrefix(), clientv3.WithRev(1<<40))
			awaitYounger(t, here)
			if anew := sessions() != before; anew != shared {
				t.Errorf("listed anew: %v, want %v", anew, shared)
			}
		})
	}
}

// awaitYounger waits until the view of c2 was in step at a later time than that of anything under way now.
func awaitYounger(t *testing.T, here *site) {
	t.Helper()
	first := here.Cached("c2", shop()).Seen.Add(2 * time.Second)
	await(t, "younger", func() string {
		if !here.Cached("c2", shop()).Seen.After(first) {
			return "as old as before"
		}
		return "younger"
	})
}

// viewed is a site that sees a complete peer, c2.
func viewed(t *testing.T) (*store, *site) {
	t.Helper()
	s := startStore(t, "c2")
	here := newSite(t, nil)
	here.peer("c2", etcdFile(t, s.address, writeIdentity(t, remote()), nil))
	here.run()
	s.fill(complete())
	here.await(theClaim+theDB+theWeb, here.cached, "c2")
	return s, here
}
