package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/e2e/scenario"
)

// backOffTime is how long a controller may sit in its back-off after budget has freed.
const backOffTime = 5 * time.Second

// pathRolloutEverywhere: a rollout in all clusters at once takes one pod at a
// time, completes, and no controller oversleeps free budget in its back-off.
func pathRolloutEverywhere(t *testing.T) {
	w := budgeted(t, "rows-everywhere", 3, maxUnavailable(1))
	since := time.Now()
	witness, err := w.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var sleepers sync.WaitGroup
	longest := make([]time.Duration, len(w.Clusters))
	for i, c := range w.Clusters {
		patchOwner(t, w, c, `{"spec":{"strategy":{"rollingUpdate":{"maxSurge":0,"maxUnavailable":1}},"template":{"metadata":{"labels":{"version":"new"}}}}}`)
		sleepers.Go(func() { longest[i] = overslept(ctx, w, c) })
	}
	for _, c := range w.Clusters {
		wantRolledOut(t, w, c)
	}
	cancel()
	sleepers.Wait()
	for i, c := range w.Clusters {
		t.Logf("%s: for %s at most budget was free and a ReplicaSet had more pods than it asks for", c.Name, longest[i].Round(100*time.Millisecond))
		if longest[i] > backOffTime {
			t.Errorf("%s: for %s budget was free and a ReplicaSet had more pods than it asks for, want %s at most", c.Name, longest[i], backOffTime)
		}
	}
	wantHeld(t, w, witness, since)
}

// overslept is the longest time in which a cluster's status said that a pod
// may go while a ReplicaSet wanted one to, until ctx ends.
func overslept(ctx context.Context, w *scenario.Workload, c *scenario.Cluster) (longest time.Duration) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	var begun time.Time
	for {
		select {
		case <-ctx.Done():
			return longest
		case <-tick.C:
		}
		b, err := w.GetBudget(ctx, c)
		if err != nil {
			continue
		}
		owes, err := surplus(ctx, w, c)
		switch {
		case err != nil:
		case b.Status.DisruptionsAllowed == 0 || !owes:
			begun = time.Time{}
		case begun.IsZero():
			begun = time.Now()
		default:
			longest = max(longest, time.Since(begun))
		}
	}
}

// surplus reports whether a ReplicaSet has more pods than it asks for, those that terminate left out.
func surplus(ctx context.Context, w *scenario.Workload, c *scenario.Cluster) (bool, error) {
	sets, err := c.Client.AppsV1().ReplicaSets(w.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list replicasets: %w", err)
	}
	pods, err := c.Client.CoreV1().Pods(w.Namespace).List(ctx, metav1.ListOptions{LabelSelector: w.Selector()})
	if err != nil {
		return false, fmt.Errorf("list pods: %w", err)
	}
	has := map[string]int32{}
	for _, p := range pods.Items {
		if owner := metav1.GetControllerOfNoCopy(&p); owner != nil && p.DeletionTimestamp == nil {
			has[string(owner.UID)]++
		}
	}
	for _, s := range sets.Items {
		if s.Spec.Replicas != nil && has[string(s.UID)] > *s.Spec.Replicas {
			return true, nil
		}
	}
	return false, nil
}
