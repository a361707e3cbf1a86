package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/history"
)

// TestPeerKVStoreDies kills the ClusterMesh kvstore of c3. What an absolute
// minAvailable can prove without c3 goes on; all else is refused in time, with
// the cluster's name; and when the kvstore returns EMPTY the bound still holds.
func TestPeerKVStoreDies(t *testing.T) {
	absolute := budgeted(t, "kvstore-min", 3, minAvailable(4))
	relative := budgeted(t, "kvstore-max", 3, maxUnavailable(1))
	c1, c3 := mesh.clusters[0], mesh.clusters[2]
	instance := sandboxCluster(t, "c3").Instances[0]

	witness, err := absolute.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	relativeWitness, err := relative.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := instance.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}

	ofAbsolute, ofRelative := scenario.NewTally(), scenario.NewTally()
	// 6 pods are left to count: two may go, in the clusters that can be read.
	for _, c := range mesh.clusters[:2] {
		if took, err := evictInto(t, ofAbsolute, absolute, c); err != nil {
			t.Errorf("evict in %s, provably safe without c3: %v (after %s)", c.Name, err, took)
		}
	}
	took, err := evictInto(t, ofAbsolute, absolute, c1)
	wantRefusal(t, err, took, "c3", "minAvailable 4")
	took, err = evictInto(t, ofRelative, relative, c1)
	wantRefusal(t, err, took, "c3", "maxUnavailable 1")
	took, err = evictInto(t, ofRelative, relative, c3)
	wantRefusal(t, err, took, "c3")

	// An eager race while the kvstore comes back empty and is filled again.
	ctx, cancel := context.WithCancel(t.Context())
	timer := time.AfterFunc(40*time.Second, cancel)
	defer timer.Stop()
	defer cancel()
	if err := instance.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	tally := scenario.NewTally()
	done := make(chan struct{})
	go func() {
		defer close(done)
		relative.EvictEagerly(ctx, 1, 100*time.Millisecond, tally)
	}()
	absolute.EvictEagerly(ctx, 1, 100*time.Millisecond, ofAbsolute)
	<-done
	judge(t, witness, 5)
	judge(t, relativeWitness, 1)
	wantVerdict(t, history.Held, witness, history.Bound{MinAvailable: "4"}, ofAbsolute)
	wantVerdict(t, history.Held, relativeWitness, history.Bound{MaxUnavailable: "1"}, ofRelative, tally)
	if tally.Granted() == 0 {
		t.Error("after the kvstore's return nothing was granted under maxUnavailable")
	}
	for _, err := range tally.Failures() {
		t.Errorf("an eviction was answered with what kubectl drain gives up on: %v", err)
	}
}

// TestControllersDieAfterGrant kills all controllers of c1 right after they
// granted. Nobody may forget that grant; later, grants flow again.
func TestControllersDieAfterGrant(t *testing.T) {
	w := budgeted(t, "controller-dies", 3, maxUnavailable(1))
	witness, err := w.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c1 := sandboxCluster(t, "c1")
	byHand := scenario.NewTally()
	if _, err := evictInto(t, byHand, w, mesh.clusters[0]); err != nil {
		t.Fatal(err)
	}
	for _, controller := range c1.Controllers {
		controller.Kill()
	}
	for _, c := range mesh.clusters[1:] {
		took, err := evictInto(t, byHand, w, c)
		wantRefusal(t, err, took, "c1")
	}
	// Long enough for the marker of c1's kvstore to expire and its pod to be replaced.
	tally := scenario.NewTally()
	others := *w
	others.Clusters = mesh.clusters[1:]
	ctx, cancel := context.WithCancel(t.Context())
	timer := time.AfterFunc(20*time.Second, cancel)
	defer timer.Stop()
	others.EvictEagerly(ctx, 2, 50*time.Millisecond, tally)
	cancel()
	if tally.Granted() > 0 {
		t.Errorf("%d evictions were granted while the grant of c1 could not be followed up", tally.Granted())
	}
	for _, controller := range c1.Controllers {
		if err := controller.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, time.Minute, "grants flow again", func() error {
		_, err := evictInto(t, byHand, w, mesh.clusters[1])
		return err
	})
	judge(t, witness, 1)
	wantVerdict(t, history.Held, witness, history.Bound{MaxUnavailable: "1"}, byHand, tally)
}

// judge ends a witness and checks its testimony.
func judge(t *testing.T, witness *scenario.Witness, allowed int) {
	t.Helper()
	testimony, err := witness.Stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("worst unavailable %d of %d, allowed %d", testimony.WorstUnavailable, testimony.Expected, allowed)
	if testimony.WorstUnavailable > allowed || testimony.WorstUnavailable == 0 {
		t.Errorf("worst unavailable: got %d, want 1 to %d", testimony.WorstUnavailable, allowed)
	}
}
