package scenario

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// NativeShares divides a number of pods that may be unavailable among native
// PodDisruptionBudgets, one in each cluster: of 10 pods and three clusters,
// 4, 3 and 3. It is the native way to hold one bound over several clusters.
func (w *Workload) NativeShares(ctx context.Context, maxUnavailable int) error {
	for i, share := range shares(maxUnavailable, len(w.Clusters)) {
		if err := w.nativeBudget(ctx, w.Clusters[i], intstr.FromInt(share)); err != nil {
			return err
		}
	}
	return nil
}

// shares divides a total as evenly as it goes.
func shares(total, n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = total / n
		if i < total%n {
			all[i]++
		}
	}
	return all
}

// AwaitNative waits until every native budget counts all pods.
func (w *Workload) AwaitNative(ctx context.Context) error {
	return w.eventually(ctx, time.Minute, "the native budget to count", func(ctx context.Context, c *Cluster) error {
		b, err := c.Client.PolicyV1().PodDisruptionBudgets(w.Namespace).Get(ctx, w.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if b.Status.ObservedGeneration != b.Generation || b.Status.CurrentHealthy != w.Replicas {
			return fmt.Errorf("%d of %d pods are healthy", b.Status.CurrentHealthy, w.Replicas)
		}
		return nil
	})
}
