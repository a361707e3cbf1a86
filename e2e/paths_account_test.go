package e2e

import (
	"context"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

// pathsAlone change a cluster for everybody, so nothing runs beside them.
var pathsAlone = map[string]func(*testing.T){
	"one account for all": pathOneAccount,
}

const (
	controllerManager    = "system:kube-controller-manager"
	replicaSetController = "system:serviceaccount:kube-system:replicaset-controller"
)

// pathOneAccount: without --use-service-account-credentials all controllers of
// kube-controller-manager are one user, of which nobody is held. A rollout that its
// ReplicaSet controller was refused goes as soon as it asks as that user, and nothing but who asks has changed.
func pathOneAccount(t *testing.T) {
	w := budgeted(t, "rows-account", 1, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	exhaust(t, w, c2)
	pod := firstPod(t, w, c1)
	since, before := time.Now(), decided(t)
	patchOwner(t, w, c1, `{"spec":{"strategy":{"rollingUpdate":{"maxSurge":0,"maxUnavailable":1}},"template":{"metadata":{"labels":{"version":"new"}}}}}`)
	wantAudited(t, w, c1, since, replicaSetController, 429)
	wantDecided(t, before, 1, paths.ReplicaSet, "refused", "InsufficientPods")

	oneAccount(t, c1)
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	wantAudited(t, w, c1, since, controllerManager, 200)
	wantDecided(t, before, 1, paths.ControlPlane, "allowed", "Accounted")
	wantEvent(t, c1, w.Namespace, "MeshPodDisruptionBudget", "DisruptionAllowed", controllerManager+" deletes "+pod.Name)
	// The budget is not asked: nothing is claimed of it, and it is spent still.
	wantClaims(t, w, c1)
	wantRolledOut(t, w, c1)
	wantCounted(t, w, 3, 2)
	deletions, err := sandboxCluster(t, c1.Name).PodDeletions(w.Namespace, since)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range deletions {
		if d.User == controllerManager && d.Code != 200 && d.Code != 404 {
			t.Errorf("kube-controller-manager was answered with %d", d.Code)
		}
		if d.User == replicaSetController && d.Code != 429 {
			t.Errorf("the ReplicaSet controller was answered with %d while the budget was spent", d.Code)
		}
	}
	for key := range decided(t) {
		if path, verdict, _ := split(key); path == string(paths.ControlPlane) && verdict != "allowed" {
			t.Errorf("the metric tells of %s", key)
		}
	}
}

// oneAccount has a cluster's kube-controller-manager use its own account only, until the
// test ends. That account may do what the controllers' accounts may, as it must where it is set up so.
func oneAccount(t *testing.T, c *scenario.Cluster) {
	t.Helper()
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "rows-one-account"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: controllerManager}},
	}
	bindings, part := c.Client.RbacV1().ClusterRoleBindings(), sandboxCluster(t, c.Name).ControllerManager
	if _, err := bindings.Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Before the namespace goes, which the controllers have to empty then by their own accounts.
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := part.Restart(ctx); err != nil {
			t.Error(err)
		}
		if err := bindings.Delete(ctx, binding.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	if err := part.Restart(t.Context(), "--use-service-account-credentials=false"); err != nil {
		t.Fatal(err)
	}
}
