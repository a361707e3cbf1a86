package e2e

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

// pathsOfControllers are deletions by kube-controller-manager.
var pathsOfControllers = map[string]func(*testing.T){
	"rollout":                pathRollout,
	"rollouts everywhere":    pathRolloutEverywhere,
	"rollout that is broken": pathBrokenRollout,
	"scaling down":           pathScaleDown,
	"statefulset":            pathStatefulSet,
	"daemonset":              pathDaemonSet,
	"owner deleted":          pathOwnerDeleted,
	"namespace deleted":      pathNamespaceDeleted,
	"job":                    pathJob,
	"custom owner":           pathCustomOwner,
	"replicationcontroller":  pathReplicationController,
}

// pathRollout: a rollout under a spent budget is refused the first old pod, and
// says so. It goes on as new pods stand in for old ones, beyond the scale, and nobody is ever missed.
func pathRollout(t *testing.T) {
	w := budgeted(t, "rows-rollout", 3, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	since, before := time.Now(), decided(t)
	witness, err := w.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	restore := exhaust(t, w, c2)
	patchOwner(t, w, c1, `{"spec":{"strategy":{"rollingUpdate":{"maxSurge":0,"maxUnavailable":1}},"template":{"metadata":{"labels":{"version":"new"}}}}}`)
	wantDecided(t, before, 1, paths.ReplicaSet, "refused", "InsufficientPods")
	wantEvent(t, c1, w.Namespace, "ReplicaSet", "FailedDelete", "Cannot evict pod as it would violate the pod's disruption budget")
	restore()
	wantRolledOut(t, w, c1)
	wantDecided(t, before, 3, paths.ReplicaSet, "allowed", "SufficientPods")
	wantHeld(t, w, witness, since)
}

// pathBrokenRollout: new pods that never become ready are replaced at any time, else
// nobody could repair the rollout that made them.
func pathBrokenRollout(t *testing.T) {
	w := budgeted(t, "rows-broken", 2, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	before := decided(t)
	restore := exhaust(t, w, c2)
	patchOwner(t, w, c1, `{"spec":{"template":{"metadata":{"annotations":{"rows":"broken"}}}}}`)
	var broken corev1.Pod
	eventually(t, 60*time.Second, "a new pod runs", func() error {
		pods, err := w.Available(t.Context(), c1)
		for _, p := range pods {
			if p.Annotations["rows"] == "broken" {
				broken = p
				return nil
			}
		}
		return fmt.Errorf("none of %d: %w", len(pods), err)
	})
	annotatePod(t, c1, &broken, `""`)
	awaitPod(t, c1, &broken, func(p *corev1.Pod) bool { return !isReady(p) })
	patchOwner(t, w, c1, `{"spec":{"template":{"metadata":{"annotations":{"rows":null}}}}}`)
	wantGone(t, c1, w.Namespace, broken.Name, string(broken.UID))
	wantDecided(t, before, 1, paths.ReplicaSet, "allowed", "Waived")
	restore()
	wantRolledOut(t, w, c1)
}

// pathScaleDown: under a number of pods that must stay, a smaller scale waits
// for the budget; relative to the scale it is believed, zero included.
func pathScaleDown(t *testing.T) {
	w := budgeted(t, "rows-scale", 2, minAvailable(5))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	before := decided(t)
	restore := exhaust(t, w, c2)
	pods, err := w.Available(t.Context(), c1)
	if err != nil {
		t.Fatal(err)
	}
	patchOwner(t, w, c1, `{"spec":{"replicas":1}}`)
	wantDecided(t, before, 1, paths.ReplicaSet, "refused", "InsufficientPods")
	for _, p := range pods {
		wantStays(t, c1, w.Namespace, p.Name, string(p.UID))
	}
	restore()
	eventually(t, 60*time.Second, "one pod goes", func() error { return podsLeft(t, w, c1, 1) })
	patchOwner(t, w, c1, `{"spec":{"replicas":2}}`)
	if err := w.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range mesh.clusters {
		changeBudget(t, w, c, `{"spec":{"minAvailable":null,"maxUnavailable":1}}`)
	}
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	patchOwner(t, w, c1, `{"spec":{"replicas":0}}`)
	eventually(t, 60*time.Second, "the pods of c1 go", func() error { return podsLeft(t, w, c1, 0) })
	wantCounted(t, w, 4, 4)
}

// pathStatefulSet: a rolling update stands still under a spent budget, and completes when it frees.
func pathStatefulSet(t *testing.T) {
	w := setsBudgeted(t, "rows-statefulset", 2)
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	since, before := time.Now(), decided(t)
	witness, err := w.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	restore := exhaust(t, w, c2)
	rollOut(t, w, c1)
	wantDecided(t, before, 1, paths.StatefulSet, "refused", "InsufficientPods")
	wantEvent(t, c1, w.Namespace, "StatefulSet", "FailedDelete", "Cannot evict pod as it would violate the pod's disruption budget")
	wantOld(t, w, c1, 2)
	restore()
	wantRolledOut(t, w, c1)
	wantDecided(t, before, 2, paths.StatefulSet, "allowed", "SufficientPods")
	wantHeld(t, w, witness, since)
	// A pod that is not ready may be replaced at any time.
	exhaust(t, w, c2)
	last, err := c1.Client.CoreV1().Pods(w.Namespace).Get(t.Context(), w.Name+"-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	annotatePod(t, c1, last, `""`)
	awaitPod(t, c1, last, func(p *corev1.Pod) bool { return !isReady(p) })
	patchOwner(t, w, c1, `{"spec":{"template":{"metadata":{"annotations":{"rows":"again"}}}}}`)
	wantGone(t, c1, w.Namespace, last.Name, string(last.UID))
	wantDecided(t, before, 1, paths.StatefulSet, "allowed", "Waived")
}

// pathDaemonSet: a rolling update is held; a pod on a node that the DaemonSet
// selects no longer goes at once.
func pathDaemonSet(t *testing.T) {
	const label = "rows-daemon"
	for _, c := range mesh.clusters {
		for i := range 2 {
			labelNode(t, c, fmt.Sprintf("%s-node-%d", c.Name, i+1), label, `"yes"`)
		}
	}
	w := ownedBy(t, "rows-daemonset", 2, func(meta metav1.ObjectMeta, template corev1.PodTemplateSpec) client.Object {
		template.Spec.NodeSelector = map[string]string{label: "yes"}
		template.Spec.TopologySpreadConstraints = nil
		return &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: template}}
	})
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	since, before := time.Now(), decided(t)
	witness, err := w.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	restore := exhaust(t, w, c2)
	rollOut(t, w, c1)
	wantDecided(t, before, 1, paths.DaemonSet, "refused", "InsufficientPods")
	wantEvent(t, c1, w.Namespace, "DaemonSet", "FailedDelete", "Cannot evict pod as it would violate the pod's disruption budget")
	wantOld(t, w, c1, 2)
	restore()
	wantRolledOut(t, w, c1)
	wantDecided(t, before, 2, paths.DaemonSet, "allowed", "SufficientPods")
	wantHeld(t, w, witness, since)

	exhaust(t, w, c2)
	labelNode(t, c1, "c1-node-2", label, "null")
	eventually(t, 30*time.Second, "the pod leaves the node", func() error { return podsLeft(t, w, c1, 1) })
	wantDecided(t, before, 1, paths.DaemonSet, "allowed", "Accounted")
	wantCounted(t, w, 5, 4)
}

// pathOwnerDeleted: the garbage collector is never held, whichever way the owner goes.
func pathOwnerDeleted(t *testing.T) {
	w := budgeted(t, "rows-owner", 2, maxUnavailable(1))
	before := decided(t)
	exhaust(t, w, mesh.clusters[2])
	for i, how := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground} {
		c := mesh.clusters[i]
		if err := c.Client.AppsV1().Deployments(w.Namespace).Delete(t.Context(), w.Name, metav1.DeleteOptions{PropagationPolicy: &how}); err != nil {
			t.Fatal(err)
		}
		eventually(t, 40*time.Second, "the pods go, "+string(how), func() error { return podsLeft(t, w, c, 0) })
		eventually(t, 20*time.Second, "the Deployment goes, "+string(how), func() error {
			list, err := c.Client.AppsV1().Deployments(w.Namespace).List(t.Context(), metav1.ListOptions{})
			if err == nil && len(list.Items) > 0 {
				err = fmt.Errorf("it is there")
			}
			return err
		})
	}
	wantDecided(t, before, 4, paths.GarbageCollector, "allowed", "Accounted")
	wantEvent(t, mesh.clusters[0], w.Namespace, "MeshPodDisruptionBudget", "DisruptionAllowed", "system:serviceaccount:kube-system:generic-garbage-collector deletes")
}

// pathNamespaceDeleted: a namespace goes although its budget is spent, with all that is in it.
func pathNamespaceDeleted(t *testing.T) {
	w := budgeted(t, "rows-namespace", 2, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	before := decided(t)
	exhaust(t, w, c2)
	wantWords(t, kubectl(t, c1, "delete", "namespace", w.Namespace, "--timeout=60s"), "deleted")
	wantDecided(t, before, 2, paths.Namespace, "allowed", "Accounted")
	eventually(t, 20*time.Second, "its ledger is empty", func() error {
		if claimed := claims(t, w, c1); len(claimed) > 0 {
			return fmt.Errorf("it holds claims on %v", claimed)
		}
		return nil
	})
	// Its pods were asked for, and are missing: the others hold what they have.
	other := firstPod(t, w, mesh.clusters[2])
	start := time.Now()
	wantRefusal(t, mesh.clusters[2].Evict(t.Context(), w.Namespace, other.Name), time.Since(start))
}

// pathReplicationController goes by the path of ReplicaSets.
func pathReplicationController(t *testing.T) {
	replicas := int32(1)
	w := ownedBy(t, "rows-rc", replicas, func(meta metav1.ObjectMeta, template corev1.PodTemplateSpec) client.Object {
		return &corev1.ReplicationController{ObjectMeta: meta, Spec: corev1.ReplicationControllerSpec{Replicas: &replicas, Selector: template.Labels, Template: &template}}
	})
	for _, c := range mesh.clusters {
		changeBudget(t, w, c, `{"spec":{"minAvailable":2,"maxUnavailable":null}}`)
	}
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	since := time.Now()
	restore := exhaust(t, w, c2)
	patchOwner(t, w, c1, `{"spec":{"replicas":0}}`)
	wantAudited(t, w, c1, since, "system:serviceaccount:kube-system:replication-controller", 429)
	restore()
	eventually(t, 60*time.Second, "the pod goes", func() error { return podsLeft(t, w, c1, 0) })
}

// wantAudited waits until the API server has answered the deletion of a pod by a user with a status.
func wantAudited(t *testing.T, w *scenario.Workload, c *scenario.Cluster, since time.Time, user string, code int) {
	t.Helper()
	eventually(t, 20*time.Second, fmt.Sprintf("a deletion by %s is answered with %d", user, code), func() error {
		deletions, err := sandboxCluster(t, c.Name).PodDeletions(w.Namespace, since)
		if err != nil {
			return err
		}
		for _, d := range deletions {
			if d.User == user && d.Code == code {
				return nil
			}
		}
		return fmt.Errorf("not among %+v", deletions)
	})
}

// rollOut changes the pods' template.
func rollOut(t *testing.T, w *scenario.Workload, c *scenario.Cluster) {
	t.Helper()
	patchOwner(t, w, c, `{"spec":{"template":{"metadata":{"labels":{"version":"new"}}}}}`)
}

// wantRolledOut waits until all pods are available and of the template as it is.
func wantRolledOut(t *testing.T, w *scenario.Workload, c *scenario.Cluster) {
	t.Helper()
	eventually(t, 2*time.Minute, "the rollout in "+c.Name+" completes", func() error {
		template, err := templateOf(t, w, c)
		if err != nil {
			return err
		}
		pods, err := w.Available(t.Context(), c)
		if err != nil {
			return err
		}
		current := 0
		for _, p := range pods {
			if p.Labels["version"] == template.Labels["version"] && p.Annotations["rows"] == template.Annotations["rows"] {
				current++
			}
		}
		if current != int(w.Replicas) {
			return fmt.Errorf("%d of %d pods are current", current, w.Replicas)
		}
		return podsLeft(t, w, c, int(w.Replicas))
	})
}

// wantOld checks that so many pods are there that were there before a rollout.
func wantOld(t *testing.T, w *scenario.Workload, c *scenario.Cluster, n int) {
	t.Helper()
	pods, err := w.Available(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		if p.Labels["version"] == "" {
			n--
		}
	}
	if n != 0 {
		t.Errorf("%d of the pods before the rollout are gone", n)
	}
}

// podsLeft checks how many of the workload's pods a cluster has, those that terminate included.
func podsLeft(t *testing.T, w *scenario.Workload, c *scenario.Cluster, want int) error {
	t.Helper()
	list, err := c.Client.CoreV1().Pods(w.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: w.Selector()})
	if err == nil && len(list.Items) != want {
		err = fmt.Errorf("%d pods, want %d", len(list.Items), want)
	}
	return err
}

func ownerOf(w *scenario.Workload) client.Object {
	meta := metav1.ObjectMeta{Namespace: w.Namespace, Name: w.Name}
	if w.Owner != nil {
		return w.Owner(meta, w.Template())
	}
	return &appsv1.Deployment{ObjectMeta: meta}
}

func patchOwner(t *testing.T, w *scenario.Workload, c *scenario.Cluster, patch string) {
	t.Helper()
	if err := c.API.Patch(t.Context(), ownerOf(w), client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		t.Fatal(err)
	}
}

func templateOf(t *testing.T, w *scenario.Workload, c *scenario.Cluster) (corev1.PodTemplateSpec, error) {
	t.Helper()
	owner := ownerOf(w)
	err := c.API.Get(t.Context(), client.ObjectKeyFromObject(owner), owner)
	switch o := owner.(type) {
	case *appsv1.Deployment:
		return o.Spec.Template, err
	case *appsv1.StatefulSet:
		return o.Spec.Template, err
	case *appsv1.DaemonSet:
		return o.Spec.Template, err
	}
	return corev1.PodTemplateSpec{}, fmt.Errorf("%T has no template", owner)
}

func labelNode(t *testing.T, c *scenario.Cluster, node, label, value string) {
	t.Helper()
	body := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, label, value)
	if _, err := c.Client.CoreV1().Nodes().Patch(t.Context(), node, types.MergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}
