package mesh_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// waiting returns what a view tells of those who wait for shop/db, with times to the second.
func waiting(s claim.Snapshot, now time.Time) string {
	var all []string
	for _, w := range s.Waiters["shop/db"] {
		all = append(all, fmt.Sprintf("%s/%s/%s/%d since %s last %s every %s", w.Cluster, w.UID, w.Pod, w.Ticket,
			now.Sub(w.First).Truncate(10*time.Second), now.Sub(w.Last).Truncate(10*time.Second), w.Every))
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}

// TestOwnWaiters: what a replica tells of waiters stands on a lease.
func TestOwnWaiters(t *testing.T) {
	t.Parallel()
	s := startStore(t, "c1")
	own := ownSite(t, s).Own()
	key := func(replica string) string { return ownPrefix + "waiters/shop/db/" + replica }
	now := time.Now()
	waiters := []claim.Waiter{{UID: "p-1", Pod: "db-1", Ticket: 4, First: now.Add(-25 * time.Second), Last: now.Add(-3 * time.Second), Every: 5 * time.Second}}
	if err := own.WriteWaiters(t.Context(), s.address, "shop", "db", "r1", waiters); err != nil {
		t.Fatal(err)
	}
	if got := s.get(key("r1")); !strings.HasPrefix(got, `{"pods":[{"uid":"p-1","pod":"db-1","ticket":4,"waitedMillis":25`) {
		t.Errorf("got %s", got)
	}
	response, err := s.admin.Get(t.Context(), key("r1"))
	if err != nil || response.Kvs[0].Lease == 0 {
		t.Errorf("it does not stand on a lease: %v, %v", response, err)
	}
	ttl, err := s.admin.TimeToLive(t.Context(), clientv3.LeaseID(response.Kvs[0].Lease))
	if err != nil || ttl.GrantedTTL != 30 {
		t.Errorf("lease %+v, %v", ttl, err)
	}
	// Who has waited for days is told of as well.
	waiters[0].First = now.Add(-72 * time.Hour)
	if err := own.WriteWaiters(t.Context(), s.address, "shop", "db", "r1", waiters); err != nil || !strings.Contains(s.get(key("r1")), `"waitedMillis":86400000`) {
		t.Errorf("got %s, %v", s.get(key("r1")), err)
	}
	if err := own.WriteWaiters(t.Context(), s.address, "shop", "db", "r1", nil); err != nil || s.get(key("r1")) != "" {
		t.Errorf("not deleted: %q, %v", s.get(key("r1")), err)
	}
	for _, bad := range []error{
		own.WriteWaiters(t.Context(), "127.0.0.1:1", "shop", "db", "r1", waiters),
		own.WriteWaiters(t.Context(), s.address, "shop", "db", "r1", []claim.Waiter{{Pod: "no uid"}}),
	} {
		if bad == nil {
			t.Error("written to an unknown instance, or without a UID")
		}
	}
}

func TestViewsTellWhoWaits(t *testing.T) {
	t.Parallel()
	s, here := viewed(t)
	told := func() string { return waiting(here.Cached("c2", shop()), time.Now()) }
	put := func(replica string, waiters ...wire.Waiter) {
		s.put("cilium/state/meshpdb/v1/c2/waiters/shop/db/"+replica, string(must(wire.Marshal(&wire.Waiters{Pods: waiters}))))
	}
	// What comes later is told later, so this one ends what the start had to tell. It is put until
	// it is told, for a list takes the place of the events before it.
	other := func() {
		t.Helper()
		before := here.times("other")
		await(t, "told", func() string {
			s.put("cilium/state/meshpdb/v1/c2/claims/other/c-9", string(must(wire.Marshal(&wire.Claim{ID: "c-9", UID: "p", State: wire.Pending}))))
			if here.times("other") == before {
				return "not told"
			}
			return "told"
		})
	}
	other()
	heard := here.times("shop") + here.times("")
	put("r1", wire.Waiter{UID: "p-1", Pod: "db-1", Ticket: 4, WaitedMillis: 20500, LastMillis: 10100, EveryMillis: 5000})
	const first = "c2/p-1/db-1/4 since 20s last 10s every 5s"
	await(t, first, told)
	put("r2", wire.Waiter{UID: "p-2", Pod: "db-2", Ticket: 5, WaitedMillis: 60500, EveryMillis: 70})
	await(t, first+"; c2/p-2/db-2/5 since 1m0s last 0s every 70ms", told)
	// What cannot be read is nothing that a budget could depend on.
	s.put("cilium/state/meshpdb/v1/c2/waiters/shop/db/r2", "nonsense")
	await(t, first, told)
	here.await(theClaim+theDB+theWeb, here.cached, "c2")
	s.delete("cilium/state/meshpdb/v1/c2/waiters/shop/db/r1")
	await(t, "", told)
	s.put("cilium/state/meshpdb/v1/c2/later/x", "a kind of a later version")
	other()
	if told := here.times("shop") + here.times("") - heard; told != 0 {
		t.Errorf("%d reconciles were woken by records that nothing rests on", told)
	}
	if s := here.Snapshot(t.Context(), "c2", shop()); s.Waiters != nil || !s.Seen.IsZero() {
		t.Errorf("a fresh read tells of waiters: %+v", s)
	}
	if s := here.Cached("c2", shop()); s.Seen.IsZero() || time.Since(s.Seen) > patience {
		t.Errorf("the view was seen at %s", s.Seen)
	}
}
