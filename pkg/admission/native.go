package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/decide"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// native refuses what the pod's native PodDisruptionBudgets would refuse anyway.
func (c *Config) native(ctx context.Context, pod *corev1.Pod, request decide.Request) (claim.Outcome, bool) {
	sentence := c.nativeRefusal(ctx, pod)
	return claim.Outcome{Cached: true, Budget: request.Budgets[0].Name, Sentence: sentence}, sentence != ""
}

// nativeRefusal says why the eviction API would refuse the pod by its native
// PodDisruptionBudgets; empty if it would not, as far as the informer knows. A
// claim would only hold budget for nothing then: nothing tells us that the API server refused
// (pkg/registry/core/pod/storage/eviction.go asks admission first).
func (c *Config) nativeRefusal(ctx context.Context, pod *corev1.Pod) string {
	if !workload.IsReady(pod) {
		// By its unhealthyPodEvictionPolicy a native budget may let it go.
		return ""
	}
	native, err := c.Facts.NativeBudgets(ctx, pod)
	if err != nil {
		// The API server asks them anyway.
		return ""
	}
	switch {
	case len(native) > 1:
		return fmt.Sprintf("%s has more than one PodDisruptionBudget (%s and %s), which the eviction API does not support", pod.Name, native[0].Name, native[1].Name)
	case len(native) == 1 && native[0].Status.ObservedGeneration >= native[0].Generation && native[0].Status.DisruptionsAllowed <= 0:
		s := native[0].Status
		return fmt.Sprintf("%s's PodDisruptionBudget %s in this cluster allows no disruption now: it needs %d healthy pods and has %d", pod.Name, native[0].Name, s.DesiredHealthy, s.CurrentHealthy)
	}
	return ""
}
