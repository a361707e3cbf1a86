package faults

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// TestGrantOutlivesLosses: right after a grant in c1, its controllers, its
// kvstore and both at once are lost. A native PodDisruptionBudget keeps the
// granted pod alive and Ready, so nothing but the claim tells the mesh that the
// one disruption is given away. No cluster may give it away again.
func TestGrantOutlivesLosses(t *testing.T) {
	settle(t)
	w := own(t, "losses", maxUnavailable(1))
	watch(t, w, 1)
	c1 := *w
	c1.Clusters = mesh.clusters[:1]
	must(t, c1.NativeBudget(t.Context(), intstr.FromInt32(0)))
	pods, err := w.Available(t.Context(), cluster(1))
	must(t, err)
	victim := pods[0]
	must(t, waitFor(t.Context(), "a grant in c1 that the native budget stops", func() error {
		askFor(t.Context(), cluster(1), victim)
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
	must(t, cluster(1).Client.PolicyV1().PodDisruptionBudgets(w.Namespace).Delete(t.Context(), w.Name, metav1.DeleteOptions{}))
	must(t, waitFor(t.Context(), "the granted pod to be evicted", func() error { return askFor(t.Context(), cluster(1), victim).err }))
	granted(t, w, cluster(2))
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
