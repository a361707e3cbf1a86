package faults

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// TestGrantOutlivesLosses: right after a grant in c1, its controllers, its
// kvstore and both at once are lost. The API server keeps the granted pod alive
// and Ready, by a precondition that it looks at after admission, so nothing but
// the claim tells the mesh that the one disruption is given away. No cluster may give it away again.
func TestGrantOutlivesLosses(t *testing.T) {
	settle(t)
	w := own(t, "losses", maxUnavailable(1))
	watch(t, w, 1)
	pods, err := w.Available(t.Context(), cluster(1))
	must(t, err)
	victim := pods[0]
	must(t, waitFor(t.Context(), "a grant in c1 that comes to nothing", func() error {
		if err := evictVersion(t.Context(), victim, "1"); !apierrors.IsConflict(err) {
			return fmt.Errorf("want a conflict, got %w", err)
		}
		return holdsGrant(t, w)
	}))
	instance := part(1).Instances[0]
	for _, loss := range []struct {
		name            string
		controller, kvs bool
	}{
		{"the controllers", true, false}, {"the kvstore", false, true}, {"controllers and kvstore", true, true},
	} {
		if loss.controller {
			killControllers(1)
		}
		if loss.kvs {
			must(t, instance.Kill(t.Context()))
		}
		never(t, w, time.Second, mesh.clusters[1:]...)
		if loss.kvs {
			must(t, instance.Start(t.Context()))
		}
		never(t, w, time.Second, mesh.clusters[1:]...)
		must(t, startControllers(t.Context(), 1))
		// Once all can be read again, it is the claim that holds the others up.
		sentence := refused(t, w, cluster(2), "c1 2/3, 1 in flight")
		never(t, w, time.Second, mesh.clusters[1:]...)
		must(t, holdsGrant(t, w))
		row(t, "after a grant in c1, "+loss.name+" are lost; maxUnavailable 1", "everywhere: "+said(sentence), recovery{})
	}

	// The grant is still good for its own pod, and with that pod's return the budget is free.
	must(t, waitFor(t.Context(), "the granted pod to be evicted", func() error { return askFor(t.Context(), cluster(1), victim).err }))
	granted(t, w, cluster(2))
}

// evictVersion evicts a pod of c1 as it was at a version.
func evictVersion(ctx context.Context, pod corev1.Pod, version string) error {
	return cluster(1).Client.PolicyV1().Evictions(pod.Namespace).Evict(ctx, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}},
	})
}

// holdsGrant is nil while c1's ledger holds exactly one claim of the namespace, granted.
func holdsGrant(t *testing.T, w *scenario.Workload) error {
	t.Helper()
	var l v1alpha1.DisruptionLedger
	if err := cluster(1).API.Get(t.Context(), client.ObjectKey{Name: w.Namespace}, &l); err != nil {
		return err
	}
	if len(l.Claims) != 1 || l.Claims[0].State != "Granted" {
		return fmt.Errorf("the ledger holds %+v", l.Claims)
	}
	return nil
}
