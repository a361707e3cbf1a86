package scenario

import (
	"context"

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
