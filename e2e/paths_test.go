package e2e

import (
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// TestPaths: what people ask for is enforced, what Kubernetes' own controllers
// do is let through, and dry-runs reserve nothing.
func TestPaths(t *testing.T) {
	w := budgeted(t, "paths", 1, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	dryRun := []string{metav1.DryRunAll}

	pod := firstPod(t, w, c1)
	for name, eviction := range map[string]*policyv1.Eviction{
		"query": {ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: pod.Name}},
		"body":  {ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: pod.Name}, DeleteOptions: &metav1.DeleteOptions{DryRun: dryRun}},
	} {
		request := c1.Client.CoreV1().RESTClient().Post().Namespace(w.Namespace).Resource("pods").Name(pod.Name).SubResource("eviction").Body(eviction)
		if name == "query" {
			request.Param("dryRun", metav1.DryRunAll)
		}
		if err := request.Do(t.Context()).Error(); err != nil {
			t.Errorf("dry-run by %s: %v", name, err)
		}
	}
	if err := c1.Client.CoreV1().Pods(w.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{DryRun: dryRun}); err != nil {
		t.Errorf("dry-run of a deletion: %v", err)
	}
	var ledger v1alpha1.DisruptionLedger
	if err := c1.API.Get(t.Context(), types.NamespacedName{Name: w.Namespace}, &ledger); !apierrors.IsNotFound(err) {
		t.Errorf("after dry-runs the ledger holds %v (%v), want none", ledger.Claims, err)
	}

	// A wrong UID is the API server's to refuse, and costs no budget.
	wrong := types.UID("00000000-1111-2222-3333-444444444444")
	err := c1.Client.PolicyV1().Evictions(w.Namespace).Evict(t.Context(), &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: w.Namespace, Name: pod.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}},
	})
	if !apierrors.IsConflict(err) {
		t.Errorf("eviction with another UID: got %v, want a conflict", err)
	}

	// A person's deletion takes the budget; the next one is refused, in every cluster.
	if err := c1.Client.CoreV1().Pods(w.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatalf("deletion: %v", err)
	}
	start := time.Now()
	err = c2.Client.CoreV1().Pods(w.Namespace).Delete(t.Context(), firstPod(t, w, c2).Name, metav1.DeleteOptions{})
	wantRefusal(t, err, time.Since(start), "maxUnavailable 1")
	// --force is no way around.
	grace := int64(0)
	err = c2.Client.CoreV1().Pods(w.Namespace).Delete(t.Context(), firstPod(t, w, c2).Name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
	wantRefusal(t, err, time.Since(start), "maxUnavailable 1")

	// The ReplicaSet controller scales down, budget or not; the pods are accounted by readiness.
	if err := w.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	scale, err := c2.Client.AppsV1().Deployments(w.Namespace).GetScale(t.Context(), w.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scale.Spec.Replicas = 0
	if _, err := c2.Client.AppsV1().Deployments(w.Namespace).UpdateScale(t.Context(), w.Name, scale, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the pods of c2 go", func() error {
		list, err := c2.Client.CoreV1().Pods(w.Namespace).List(t.Context(), metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = apierrors.NewConflict(policyv1.Resource("pods"), list.Items[0].Name, nil)
		}
		return err
	})
	eventually(t, 30*time.Second, "the scale is believed, zero included", func() error {
		_, err := evict(t, w, c1)
		return err
	})
}
