package e2e

import (
	"context"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/history"
)

// TestPoliteDrainsFinishBesideAnEagerEvictor: kubectl drain asks every 5 s, an
// eager evictor in another cluster 80 times a second; they share a budget of
// one pod. Left to chance, a drain would find the budget free at one try in
// fifty. It must finish, the eager one must not stand still, and nobody's
// waiting may keep the budget unused for long.
func TestPoliteDrainsFinishBesideAnEagerEvictor(t *testing.T) {
	if err := mesh.SetRTT(20 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mesh.SetRTT(0); err != nil {
			t.Error(err)
		}
	})
	w := budgeted(t, "fairness", 3, maxUnavailable(1))
	witness, err := w.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	eager := *w
	eager.Clusters = w.Clusters[2:]
	tally := scenario.NewTally()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var evictor, drains sync.WaitGroup
	evictor.Go(func() { eager.EvictEagerly(ctx, 4, 50*time.Millisecond, tally) })
	drained := scenario.NewTally()
	for _, c := range w.Clusters[:2] {
		drains.Go(func() { drainNodes(t, w, c, 2, drained) })
	}
	drains.Wait()
	took := time.Since(started)
	cancel()
	evictor.Wait()
	testimony, err := witness.Stop()
	if err != nil {
		t.Fatal(err)
	}
	gap := wantVerdict(t, history.Held, witness, history.Bound{MaxUnavailable: "1"}, tally, drained).Idle
	t.Logf("drains took %s; the eager evictor had %d granted and %d refused meanwhile; budget lay unused for at most %s",
		took.Round(time.Second), tally.Granted(), tally.Refused(), gap.Length().Round(time.Millisecond))
	if testimony.WorstUnavailable != 1 {
		t.Errorf("worst unavailable: got %d, want 1", testimony.WorstUnavailable)
	}
	if gap.Length() > 2*time.Second {
		t.Errorf("budget was free for %s while somebody asked and nobody was granted", gap.Length())
	}
	if tally.Granted() == 0 {
		t.Error("the eager evictor was granted nothing: the drains had no rival")
	}
	for _, err := range tally.Failures() {
		t.Errorf("an eviction was answered with what kubectl drain gives up on: %v", err)
	}
}

// drainNodes drains so many nodes of a cluster that run the workload, one after
// the other, with the real kubectl. The tally takes in what kubectl was answered.
func drainNodes(t *testing.T, w *scenario.Workload, c *scenario.Cluster, n int, tally *scenario.Tally) {
	cluster, err := mesh.Cluster(c.Name)
	if err != nil {
		t.Error(err)
		return
	}
	var drained []string
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, node := range drained {
			if _, err := cluster.Kubectl(ctx, "uncordon", node); err != nil {
				t.Error(err)
			}
		}
	})
	for range n {
		pods, err := c.Client.CoreV1().Pods(w.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: w.Selector()})
		if err != nil {
			t.Errorf("list pods of %s: %v", c.Name, err)
			return
		}
		if len(pods.Items) == 0 {
			t.Errorf("%s has no pods of the workload", c.Name)
			return
		}
		node := pods.Items[0].Spec.NodeName
		drained = append(drained, node)
		start := time.Now()
		drain := scenario.KubectlDrain{Kubectl: cluster.KubectlCommand, Node: node, Selector: w.Selector(), Timeout: 4 * time.Minute}
		lines, err := drain.Run(t.Context())
		tally.RecordDrain(c.Name, lines)
		if err != nil {
			t.Errorf("%v\n%v", err, lines)
			return
		}
		t.Logf("%s: node %s was drained in %s", c.Name, node, time.Since(start).Round(time.Second))
	}
}
