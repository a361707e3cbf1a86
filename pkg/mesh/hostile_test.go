package mesh_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshpdb/meshpdb/pkg/wire"
)

// These tests move much data, so they run one after the other.

// besideHostile is a mesh of c1 with an honest peer c3 and the peer c2, which each test spoils.
func besideHostile(t *testing.T) (hostile *store, here *site) {
	t.Helper()
	hostile = startStore(t, "c2")
	honest := startStore(t, "c3")
	here = newSite(t, nil)
	here.peer("c2", etcdFile(t, hostile.address, writeIdentity(t, remote()), nil))
	here.peer("c3", etcdFile(t, honest.address, writeIdentity(t, remote()), nil))
	here.run()
	hostile.fill(complete())
	honest.fill(completeOf("c3"))
	here.await(theClaim+theDB+theWeb, here.cached, "c2")
	here.await(theClaim+theDB+theWeb, here.cached, "c3")
	return hostile, here
}

// completeOf is complete as another cluster says it.
func completeOf(cluster string) values {
	v := values{}
	for key, value := range complete() {
		if !strings.Contains(key, "endpointslices/v1/c2/") {
			v[strings.ReplaceAll(key, "c2", cluster)] = value
		}
	}
	slice := values{}
	slice.slice("db-1", nil, endpoint("10.2.0.1", "rsT"), endpoint("10.2.0.2", "rsT"), endpoint("10.2.0.3", "rsT"))
	for key, value := range slice {
		v[strings.ReplaceAll(key, "c2", cluster)] = value
	}
	return v
}

// relist has c2 read by a new client, whose view begins with a list.
func relist(t *testing.T, hostile *store, here *site) {
	t.Helper()
	before := here.times("")
	here.peer("c2", etcdFile(t, hostile.address, writeIdentity(t, remote()), nil))
	await(t, "new", func() string {
		if here.times("") > before {
			return "new"
		}
		return "old"
	})
}

// wantHonest checks that the honest peer is read in the time that a decision has for it, and from its view.
func wantHonest(t *testing.T, here *site, when string) {
	t.Helper()
	await(t, when+": "+theClaim+theDB+theWeb, func() string { return when + ": " + here.within(2*time.Second, "c3") })
	await(t, when+": "+theClaim+theDB+theWeb, func() string { return when + ": " + here.cached("c3") })
}

// heap is what is in use after a collection, in MiB.
func heap() int {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int(stats.HeapInuse >> 20)
}

// heapLimit is what a hostile peer may make this process hold, in MiB: two views of the size allowed, and what is
// under way. The tests themselves hold some values of 10 MB.
const heapLimit = 500

// putMany writes records side by side in transactions, as fast as the store takes them.
func (s *store) putMany(n int, record func(i int) (key, value string)) {
	s.t.Helper()
	const together = 100
	for i := 0; i < n; {
		var ops []clientv3.Op
		for ; i < n && len(ops) < together; i++ {
			key, value := record(i)
			ops = append(ops, clientv3.OpPut(key, value))
		}
		if _, err := s.admin.Txn(s.t.Context()).Then(ops...).Commit(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// TestNonsenseHarmsWhatItIsAbout: what a peer writes harms what its key is about, by name, and nothing else, in the
// view that a watch feeds, in the one that a list begins, and in fresh reads.
func TestNonsenseHarmsWhatItIsAbout(t *testing.T) {
	hostile, here := besideHostile(t)
	huge, large := strings.Repeat("x", 10<<20), strings.Repeat("x", 1<<20)
	const beginning = "cilium/state/meshpdb/v1/c2/"
	undecided := func(words string) string {
		return theClaim + "shop/db: undecided: its kvstore value " + words + "; " + theWeb
	}
	for _, c := range []struct {
		name, want string
		values     values
	}{
		{"another cluster's records", theClaim + theDB + theWeb, values{
			"cilium/state/meshpdb/v1/c3/marker": "nonsense", "cilium/state/meshpdb/v1/c3/pods/shop/db/x": large,
			"cilium/state/meshpdb/v1/c1/claims/shop/c-9": `{"id":"c-9","uid":"p-2","pod":"x","state":"Granted","ticket":1}`,
		}},
		{"budgets that nobody asked about", theClaim + theDB + theWeb, values{
			beginning + "budgets/shop/other": "nonsense", beginning + "pods/shop/other/x": large, beginning + "claims/stage/x": "nonsense",
		}},
		{"kinds that nobody knows", theClaim + theDB + theWeb, values{
			beginning + "nonsense": large, beginning + "zones/shop/x": large, beginning + "pods/shop/db/x/y": "nonsense",
		}},
		{"a pod", undecided("pods/shop/db/x: decode *wire.Pod: invalid character 'o' in literal null (expecting 'u')"), values{beginning + "pods/shop/db/x": "nonsense"}},
		{"a huge pod", undecided("pods/shop/db/x: decode *wire.Pod: 10485760 bytes exceed 102400"), values{beginning + "pods/shop/db/x": huge}},
		{"deep nesting", undecided("pods/shop/db/x: decode *wire.Pod: …exceeded max depth"), values{beginning + "pods/shop/db/x": strings.Repeat(`{"a":`, 15000) + "1" + strings.Repeat("}", 15000)}},
		{"a claim with an absurd ticket", theClaim + "shop/db: undecided: its kvstore value claims/shop/x: decode *wire.Claim: ticket 18446744073709551615 is out of range; shop/web: undecided: …",
			values{beginning + "claims/shop/x": `{"id":"x","uid":"p-2","pod":"db-2","state":"Granted","ticket":18446744073709551615}`}},
		{"a claim with the largest ticket, of a later version", theClaim + "x=Granted/p-2/4611686018427387904; " + theDB + theWeb,
			values{beginning + "claims/shop/x": `{"id":"x","uid":"p-2","pod":"db-2","state":"Quantum","ticket":4611686018427387904,"seq":18446744073709551615,"v":9}`}},
		{"absurd counts", undecided("budgets/shop/db: decode *wire.Budget: expected 4611686018427387904 is out of range"),
			values{beginning + "budgets/shop/db": `{"service":"db","minAvailable":"2","expected":4611686018427387904,"view":[]}`}},
		{"waiters with absurd durations", theClaim + theDB + theWeb, values{
			beginning + "waiters/shop/db/x": `{"pods":[{"uid":"p","pod":"p","ticket":1,"waitedMillis":9223372036854775807,"everyMillis":-1}]}`}},
		{"words that a terminal obeys", theClaim + `shop/db: undecided: \x1b[2J\nall is well` + strings.Repeat("!", 100) + "…; " + theWeb,
			values{beginning + "budgets/shop/db": `{"service":"db","minAvailable":"2","undecided":"\u001b[2J\nall is well` + strings.Repeat("!", 50000) + `"}`}},
	} {
		for key, value := range c.values {
			hostile.put(key, value)
		}
		here.await(c.want, here.cached, "c2")
		if got := here.within(patience, "c2"); !says(got, c.want) {
			t.Errorf("%s: read afresh:\n got %s\nwant %s", c.name, got, c.want)
		}
		for budget, waiters := range here.Cached("c2", shop()).Waiters {
			t.Errorf("%s: %d wait for %s", c.name, len(waiters), budget)
		}
		wantHonest(t, here, c.name)
		// And by a list instead of a watch.
		relist(t, hostile, here)
		here.await(c.want, here.cached, "c2")
		for key := range c.values {
			hostile.delete(key)
		}
		for key, value := range complete() {
			hostile.put(key, value)
		}
		here.await(theClaim+theDB+theWeb, here.cached, "c2")
	}
}

// TestHugeValuesDoNotHideTheRest: a page of a list that does not fit into a message is cut.
func TestHugeValuesDoNotHideTheRest(t *testing.T) {
	hostile, here := besideHostile(t)
	huge := strings.Repeat("x", 10<<20)
	for i := range 4 {
		hostile.put(fmt.Sprint("cilium/state/meshpdb/v1/c2/pods/elsewhere/db/x-", i), huge)
	}
	relist(t, hostile, here)
	here.await(theClaim+theDB+theWeb, here.cached, "c2")
	wantHonest(t, here, "huge values")
	if now := heap(); now > heapLimit {
		t.Errorf("%d MiB are in use", now)
	}
	// One that no message can carry makes the whole cluster unreadable, and says so.
	hostile.put("cilium/state/meshpdb/v1/c2/pods/elsewhere/db/x", strings.Repeat("x", 20<<20))
	relist(t, hostile, here)
	here.await("invalid: its kvstore cannot be read: …larger than max…", here.cached, "c2")
	wantHonest(t, here, "a value that no message can carry")
}

// TestManyKeys: what one peer may make us hold is bounded, and it is named.
func TestManyKeys(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 100,000 records")
	}
	hostile, here := besideHostile(t)
	// 100,000 are no more than a very large cluster has.
	pod := strings.Replace(string(must(wire.Marshal(&wire.Pod{UID: "p-0000000", Name: "pod-0000000", IPs: []string{"10.2.0.9"}}))), "0000000", "%07d", 2)
	hostile.putMany(100_000, func(i int) (string, string) {
		return fmt.Sprintf("cilium/state/meshpdb/v1/c2/pods/stage/many/p-%07d", i), fmt.Sprintf(pod, i, i)
	})
	here.await(theClaim+theDB+theWeb, here.cached, "c2")
	wantHonest(t, here, "100,000 keys")
	// Under one budget they are more than a decision reads.
	asked := shop()
	asked.Namespace, asked.Budgets[0].Name = "stage", "many"
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if got := text(here.Snapshot(ctx, "c2", asked)); got != "invalid: its kvstore cannot be read: its kvstore holds more than 20000 keys of one kind" {
		t.Errorf("got %s", got)
	}
	// Records that are large, up to more than is held of one cluster.
	uid := strings.Repeat("u", 200)
	addresses := strings.Repeat(`"::",`, 18000)
	hostile.putMany(600, func(i int) (string, string) {
		return fmt.Sprintf("cilium/state/meshpdb/v1/c2/pods/stage/large/%s-%d", uid, i), fmt.Sprintf(`{"uid":"%s-%d","ips":[%s"::"]}`, uid, i, addresses)
	})
	const want = "invalid: its kvstore holds more than 128 MiB of records under cilium/state/meshpdb/v1/c2/: remove what does not belong there"
	here.await(want, here.cached, "c2")
	if now := heap(); now > heapLimit {
		t.Errorf("%d MiB are in use", now)
	}
	wantHonest(t, here, "more than is held")
	// What is read afresh for another budget of the peer is bounded in itself, so it is still read.
	if got := here.within(patience, "c2"); got != theClaim+theDB+theWeb {
		t.Errorf("read afresh: %s", got)
	}
	for _, r := range here.Reachable() {
		if r.Cluster == "c2" && (r.Err == nil || "invalid: "+r.Err.Error() != want) {
			t.Errorf("c2 is said to be %v", r.Err)
		}
	}
}
