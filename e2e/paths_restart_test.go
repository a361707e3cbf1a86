package e2e

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

// Paths that are looked at with controllers started anew, or with none: these
// tests run alone.

// TestPreemptionIsEnforced: with --preemption=Enforce the scheduler is held,
// comes back every 10 s instead of many times a second, and gets its room when budget frees.
func TestPreemptionIsEnforced(t *testing.T) {
	w := pinned(t, "rows-enforce", 1, 1, func(template *corev1.PodTemplateSpec) { ask(template, "600") })
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	restart(t, c1, "--preemption=Enforce")
	t.Cleanup(func() { restart(t, c1) })
	since, before := time.Now(), decided(t)
	witness, err := w.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	restore := exhaust(t, w, c2)
	pod := firstPod(t, w, c1)
	urgent := preemptor(t, w, c1)
	wantDecided(t, before, 1, paths.Preemption, "refused", "InsufficientPods")
	const watched = 20 * time.Second
	pass(t, watched)
	wantStays(t, c1, w.Namespace, pod.Name, string(pod.UID))
	deletions, err := sandboxCluster(t, "c1").PodDeletions(w.Namespace, since)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, d := range deletions {
		if d.User == scheduler && d.Code == 429 {
			refused++
		}
	}
	t.Logf("the scheduler was refused %d times in %s", refused, watched)
	if refused < 2 || refused > 1+int(watched/(5*time.Second)) {
		t.Errorf("the scheduler was refused %d times in %s, want it to come back, and less often than every 5 s", refused, watched)
	}
	restore()
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	awaitPod(t, c1, urgent, isReady)
	wantDecided(t, before, 1, paths.Preemption, "allowed", "SufficientPods")
	wantHeld(t, w, witness, since)
}

// restart starts the controllers of a cluster anew, one after the other.
func restart(t *testing.T, c *scenario.Cluster, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, controller := range sandboxCluster(t, c.Name).Controllers {
		if err := controller.Restart(ctx, args...); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNobodyWaitsForMeshpdbToEnd: while no controller of a cluster runs, the
// webhook's matchConditions still let go what disrupts nothing, the kubelet's last
// deletion of each pod above all; and what would disrupt something is refused.
func TestNobodyWaitsForMeshpdbToEnd(t *testing.T) {
	w := budgeted(t, "rows-down", 1, maxUnavailable(1))
	c1 := mesh.clusters[0]
	failed := bare(t, w, c1, "failed", nil)
	awaitPod(t, c1, failed, isReady)
	setStatus(t, c1, failed, `{"phase":"Failed"}`)
	wantCounted(t, w, 3, 3)
	pod := firstPod(t, w, c1)
	pods := c1.Client.CoreV1().Pods(w.Namespace)
	if err := pods.Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllers := sandboxCluster(t, "c1").Controllers
	for _, controller := range controllers {
		controller.Kill()
	}
	t.Cleanup(func() { restart(t, c1) })
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	unbound := bare(t, w, c1, "unbound", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"rows": "nowhere"} })
	for _, p := range []*corev1.Pod{failed, unbound} {
		if err := pods.Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("deletion of pod %s: %v", p.Name, err)
		}
		wantGone(t, c1, w.Namespace, p.Name, string(p.UID))
	}
	successor := firstPod(t, w, c1)
	if err := pods.Delete(t.Context(), successor.Name, metav1.DeleteOptions{}); !apierrors.IsInternalError(err) {
		t.Errorf("deletion of an available pod while nobody can be asked: %v", err)
	}
	wantStays(t, c1, w.Namespace, successor.Name, string(successor.UID))
	for _, controller := range controllers {
		if err := controller.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	wantClaims(t, w, c1)
}
