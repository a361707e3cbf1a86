package e2e

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

// What people do about a budget that is in the way, and what lies beside it.

// pathSuspended: where the budget is suspended everything goes, and the others count it.
func pathSuspended(t *testing.T) {
	w := budgeted(t, "rows-suspend", 2, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	before := decided(t)
	changeBudget(t, w, c1, `{"spec":{"suspend":true}}`)
	wantCondition(t, w, c1, v1alpha1.ConditionEnforced, metav1.ConditionFalse, v1alpha1.ReasonSuspended, "")
	pods, err := w.Available(t.Context(), c1)
	if err != nil || len(pods) != 2 {
		t.Fatalf("%d pods, %v", len(pods), err)
	}
	// They stay while they terminate, so that the claims can be looked at.
	for i := range pods {
		finalize(t, c1, &pods[i], `["meshpdb.io/test"]`)
	}
	if err := c1.Evict(t.Context(), w.Namespace, pods[0].Name); err != nil {
		t.Errorf("eviction: %v", err)
	}
	wantWords(t, kubectl(t, c1, "-n", w.Namespace, "delete", "pod", pods[1].Name, "--wait=false"), "deleted")
	wantDecided(t, before, 1, paths.Eviction, "allowed", "Waived")
	wantDecided(t, before, 1, paths.Deletion, "allowed", "Waived")
	other := firstPod(t, w, c2)
	start := time.Now()
	wantRefusal(t, c2.Evict(t.Context(), w.Namespace, other.Name), time.Since(start), "maxUnavailable 1")
	eventually(t, 20*time.Second, "the others count them", func() error {
		b, err := w.GetBudget(t.Context(), c2)
		if err == nil && b.Status.DisruptionsInFlight < 2 {
			err = fmt.Errorf("%d are in flight", b.Status.DisruptionsInFlight)
		}
		return err
	})
	for i := range pods {
		finalize(t, c1, &pods[i], "null")
		wantGone(t, c1, w.Namespace, pods[i].Name, string(pods[i].UID))
	}
	if err := w.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Taken back, it holds again.
	changeBudget(t, w, c1, `{"spec":{"suspend":false}}`)
	wantCondition(t, w, c1, v1alpha1.ConditionEnforced, metav1.ConditionTrue, v1alpha1.ReasonEnforced, "")
	exhaust(t, w, c2)
	pod := firstPod(t, w, c1)
	start = time.Now()
	wantRefusal(t, c1.Evict(t.Context(), w.Namespace, pod.Name), time.Since(start), "maxUnavailable 1")
}

// pathBreakGlass: a pod goes in spite of its budget if it says why, and if who
// asks may do the verb. Neither suffices alone. It is counted, and stands in the API server's audit log.
func pathBreakGlass(t *testing.T) {
	w := budgeted(t, "rows-glass", 2, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	since, before := time.Now(), decided(t)
	with := operator(t, w, c1, "rows-glass-with", rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"meshpoddisruptionbudgets"}, Verbs: []string{v1alpha1.BreakGlassVerb}})
	without := operator(t, w, c1, "rows-glass-without")
	admin := c1.Client
	exhaust(t, w, c2)
	pods, err := w.Available(t.Context(), c1)
	if err != nil || len(pods) != 2 {
		t.Fatalf("%d pods, %v", len(pods), err)
	}
	for name, client := range map[string]kubernetes.Interface{"who may": with, "who may not": without, "an administrator": admin} {
		t.Log("no annotation, " + name)
		wantPodRefused(t, client, &pods[0], "maxUnavailable 1")
	}
	for i := range pods {
		wish(t, c1, &pods[i], `"fire in the data centre"`)
	}
	wantPodRefused(t, without, &pods[0], "rows-glass-without may not break the glass: that needs the verb break-glass on meshpoddisruptionbudgets.meshpdb.io "+w.Namespace+"/db")
	if err := evictBy(t, with, &pods[0]); err != nil {
		t.Errorf("eviction in spite of the budget: %v", err)
	}
	// All verbs are among an administrator's.
	if err := admin.CoreV1().Pods(w.Namespace).Delete(t.Context(), pods[1].Name, metav1.DeleteOptions{}); err != nil {
		t.Errorf("deletion in spite of the budget: %v", err)
	}
	wantDecided(t, before, 1, paths.Eviction, "allowed", "GlassBroken")
	wantDecided(t, before, 1, paths.Deletion, "allowed", "GlassBroken")
	wantEvent(t, c1, w.Namespace, "MeshPodDisruptionBudget", "DisruptionAllowed", "rows-glass-with broke the glass for "+pods[0].Name+" (fire in the data centre), although")
	eventually(t, 10*time.Second, "the audit log tells of it", func() error {
		deletions, err := sandboxCluster(t, "c1").PodDeletions(w.Namespace, since)
		if err != nil {
			return err
		}
		for _, d := range deletions {
			if d.Name == pods[1].Name && d.Annotations["deletions.meshpdb.io/break-glass"] != "" {
				wantWords(t, d.Annotations["deletions.meshpdb.io/break-glass"], "broke the glass for "+pods[1].Name+" (fire in the data centre), although")
				return nil
			}
		}
		return fmt.Errorf("%d deletions, none of them so annotated", len(deletions))
	})
	other := firstPod(t, w, mesh.clusters[2])
	start := time.Now()
	wantRefusal(t, mesh.clusters[2].Evict(t.Context(), w.Namespace, other.Name), time.Since(start), "maxUnavailable 1")
	for i := range pods {
		wantGone(t, c1, w.Namespace, pods[i].Name, string(pods[i].UID))
	}
}

// pathNativeBudget: what a native budget of the same pod would refuse is refused before anything is claimed.
func pathNativeBudget(t *testing.T) {
	w := budgeted(t, "rows-native", 1, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	before := decided(t)
	if err := w.NativeBudget(t.Context(), intstr.FromInt32(0)); err != nil {
		t.Fatal(err)
	}
	pod := firstPod(t, w, c1)
	eventually(t, 20*time.Second, "the native budget is looked at", func() error {
		b, err := c1.Client.PolicyV1().PodDisruptionBudgets(w.Namespace).Get(t.Context(), w.Name, metav1.GetOptions{})
		if err == nil && (b.Status.ObservedGeneration != b.Generation || b.Status.CurrentHealthy != 1) {
			err = fmt.Errorf("status %+v", b.Status)
		}
		return err
	})
	eventually(t, 10*time.Second, "its refusal", func() error {
		err := c1.Evict(t.Context(), w.Namespace, pod.Name)
		if !apierrors.IsTooManyRequests(err) {
			t.Fatalf("got %v, want a refusal", err)
		}
		if claimed := claims(t, w, c1); len(claimed) > 0 {
			t.Fatalf("the ledger holds claims on %v, want none", claimed)
		}
		if decided(t)["eviction refused NativeBudget"] == before["eviction refused NativeBudget"] {
			return fmt.Errorf("it was the API server's own: %w", err)
		}
		wantRefusal(t, err, 0, pod.Name+"'s PodDisruptionBudget db in this cluster allows no disruption now")
		return nil
	})
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Error(err)
	}
	// A DELETE does not ask native budgets; and without one the pod can be evicted.
	if err := c1.Client.CoreV1().Pods(w.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
		t.Errorf("deletion: %v", err)
	}
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := c2.Client.PolicyV1().PodDisruptionBudgets(w.Namespace).Delete(t.Context(), w.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "an eviction without the native budget", func() error {
		_, err := evict(t, w, c2)
		return err
	})
}

// operator is somebody who may delete and evict pods of the namespace, and what else the rules say.
func operator(t *testing.T, w *scenario.Workload, c *scenario.Cluster, user string, rules ...rbacv1.PolicyRule) kubernetes.Interface {
	t.Helper()
	rules = append(rules,
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "delete"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/eviction"}, Verbs: []string{"create"}},
	)
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules}
	if _, err := c.Client.RbacV1().Roles(w.Namespace).Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}
	if _, err := c.Client.RbacV1().RoleBindings(w.Namespace).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	client := as(t, c, user)
	eventually(t, 10*time.Second, "the role is known", func() error {
		_, err := client.CoreV1().Pods(w.Namespace).List(t.Context(), metav1.ListOptions{})
		return err
	})
	return client
}

// wish says on a pod that it is to go, and why.
func wish(t *testing.T, c *scenario.Cluster, pod *corev1.Pod, why string) {
	t.Helper()
	body := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, v1alpha1.BreakGlassAnnotation, why)
	if _, err := c.Client.CoreV1().Pods(pod.Namespace).Patch(t.Context(), pod.Name, types.MergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

func evictBy(t *testing.T, client kubernetes.Interface, pod *corev1.Pod) error {
	t.Helper()
	return (&scenario.Cluster{Client: client}).Evict(t.Context(), pod.Namespace, pod.Name)
}

// wantPodRefused asks for the pod's eviction and for its deletion.
func wantPodRefused(t *testing.T, client kubernetes.Interface, pod *corev1.Pod, words ...string) {
	t.Helper()
	start := time.Now()
	wantRefusal(t, evictBy(t, client, pod), time.Since(start), words...)
	start = time.Now()
	wantRefusal(t, client.CoreV1().Pods(pod.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{}), time.Since(start), words...)
}
