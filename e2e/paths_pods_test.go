package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

// Kinds of pods, and states in which a request finds them.

// pathHarmless: pods that have ended, were never started or are mirrors are
// nobody's loss. They go although the budget is spent, and nothing is claimed.
func pathHarmless(t *testing.T) {
	w := budgeted(t, "rows-harmless", 1, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	exhaust(t, w, c2)
	for name, make := range map[string]func(*corev1.Pod){
		// Failed, and Ready still, as the pod garbage collector leaves them.
		"failed":  nil,
		"unbound": func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"rows": "nowhere"} },
		"pending": func(p *corev1.Pod) { p.Annotations = map[string]string{sandbox.UnreadyAnnotation: ""} },
		"mirror": func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			p.Spec.NodeName = "c1-node-1"
		},
	} {
		for _, how := range []string{"eviction", "deletion"} {
			pod := bare(t, w, c1, name+"-"+how, make)
			switch name {
			case "failed":
				awaitPod(t, c1, pod, isReady)
				setStatus(t, c1, pod, `{"phase":"Failed"}`)
			case "pending":
				awaitPod(t, c1, pod, func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })
			case "mirror":
				awaitPod(t, c1, pod, isReady)
			}
			var err error
			if how == "eviction" {
				err = c1.Evict(t.Context(), w.Namespace, pod.Name)
			} else {
				err = c1.Client.CoreV1().Pods(w.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{})
			}
			if err != nil {
				t.Errorf("%s of a pod that is %s: %v", how, name, err)
				continue
			}
			wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
		}
	}
	if claimed := claims(t, w, c1); len(claimed) > 0 {
		t.Errorf("the ledger holds claims on %v, want none", claimed)
	}
}

// pathBare: a pod that nobody owns asks for itself, and counts as every other does.
func pathBare(t *testing.T) {
	w := budgeted(t, "rows-bare", 1, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	pod := bare(t, w, c1, "bare", nil)
	awaitPod(t, c1, pod, isReady)
	wantCounted(t, w, 4, 4)
	restore := exhaust(t, w, c2)
	start := time.Now()
	wantRefusal(t, c1.Evict(t.Context(), w.Namespace, pod.Name), time.Since(start), "maxUnavailable 1")
	restore()
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	wantWords(t, kubectl(t, c1, "-n", w.Namespace, "delete", "pod", "bare"), "deleted")
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	// Nobody asks for it any more.
	wantCounted(t, w, 3, 3)
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
}

// pathFailedReady: a Failed pod that says Ready=True still, as the pod garbage collector leaves it, counts as missing.
func pathFailedReady(t *testing.T) {
	w := setsBudgeted(t, "rows-failed", 1)
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	// The StatefulSet cannot replace it before the finalizer goes.
	pod := firstPod(t, w, c1)
	finalize(t, c1, &pod, `["meshpdb.io/test"]`)
	setStatus(t, c1, &pod, `{"phase":"Failed"}`)
	wantCounted(t, w, 3, 2)
	other := firstPod(t, w, c2)
	start := time.Now()
	wantRefusal(t, c2.Evict(t.Context(), w.Namespace, other.Name), time.Since(start), "maxUnavailable 1")
	finalize(t, c1, &pod, "null")
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
}

// pathUnready: a running pod that is not ready goes while the budget is met
// without it, or always if the budget says so.
func pathUnready(t *testing.T) {
	w := budgeted(t, "rows-unready", 1, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	before := decided(t)
	pod := firstPod(t, w, c1)
	annotatePod(t, c1, &pod, `""`)
	if err := w.AwaitAllowed(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := c1.Evict(t.Context(), w.Namespace, pod.Name); err != nil {
		t.Errorf("the budget is met without the pod: %v", err)
	}
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}

	pod, other := firstPod(t, w, c1), firstPod(t, w, c2)
	annotatePod(t, c1, &pod, `""`)
	annotatePod(t, c2, &other, `""`)
	wantCounted(t, w, 3, 1)
	start := time.Now()
	wantRefusal(t, c1.Evict(t.Context(), w.Namespace, pod.Name), time.Since(start), "maxUnavailable 1")
	wantWords(t, kubectlFails(t, c1, "-n", w.Namespace, "delete", "pod", pod.Name), spentWords...)
	always := `{"spec":{"unhealthyPodEvictionPolicy":"AlwaysAllow"}}`
	changeBudget(t, w, c1, always)
	// It is the policy of one cluster; the other one has its own.
	start = time.Now()
	wantRefusal(t, c2.Evict(t.Context(), w.Namespace, other.Name), time.Since(start), "maxUnavailable 1")
	if err := c1.Evict(t.Context(), w.Namespace, pod.Name); err != nil {
		t.Errorf("unhealthyPodEvictionPolicy is AlwaysAllow: %v", err)
	}
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	wantDecided(t, before, 1, paths.Eviction, "allowed", "Waived")
	annotatePod(t, c2, &other, "null")
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
}

// setsBudgeted is budgeted with a StatefulSet in each cluster, whose pods keep their names.
func setsBudgeted(t *testing.T, namespace string, replicas int32) *scenario.Workload {
	t.Helper()
	return ownedBy(t, namespace, replicas, func(meta metav1.ObjectMeta, template corev1.PodTemplateSpec) client.Object {
		return &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: meta.Name, PodManagementPolicy: appsv1.ParallelPodManagement,
			Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: template,
		}}
	})
}

// ownedBy is budgeted, maxUnavailable 1, with owners of another kind.
func ownedBy(t *testing.T, namespace string, replicas int32, owner func(metav1.ObjectMeta, corev1.PodTemplateSpec) client.Object) *scenario.Workload {
	t.Helper()
	w := &scenario.Workload{Clusters: mesh.clusters, Namespace: namespace, Name: "db", Replicas: replicas, Owner: owner}
	if err := w.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, w) })
	if err := w.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.Budget(t.Context(), maxUnavailable(1)); err != nil {
		t.Fatal(err)
	}
	if err := w.AwaitBudget(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// bare makes a covered pod that nobody owns.
func bare(t *testing.T, w *scenario.Workload, c *scenario.Cluster, name string, change func(*corev1.Pod)) *corev1.Pod {
	t.Helper()
	template := w.Template()
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Namespace, pod.Name = w.Namespace, name
	if change != nil {
		change(pod)
	}
	if err := c.API.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

func awaitPod(t *testing.T, c *scenario.Cluster, pod *corev1.Pod, is func(*corev1.Pod) bool) {
	t.Helper()
	eventually(t, 30*time.Second, "pod "+pod.Name, func() error {
		got, err := c.Client.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
		if err == nil && !is(got) {
			err = fmt.Errorf("it is %s on node %q", got.Status.Phase, got.Spec.NodeName)
		}
		return err
	})
}

// setStatus writes a part of a pod's status, as kubelets do.
func setStatus(t *testing.T, c *scenario.Cluster, pod *corev1.Pod, status string) {
	t.Helper()
	kubelet := as(t, c, "system:node:kwok", "system:nodes")
	_, err := kubelet.CoreV1().Pods(pod.Namespace).Patch(t.Context(), pod.Name, types.StrategicMergePatchType, []byte(`{"status":`+status+`}`), metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}
}

// wantCounted waits until every cluster says how many pods there should be, and are.
func wantCounted(t *testing.T, w *scenario.Workload, expected, healthy int32) {
	t.Helper()
	for _, c := range w.Clusters {
		eventually(t, 30*time.Second, "the status in "+c.Name, func() error {
			b, err := w.GetBudget(t.Context(), c)
			if err == nil && (b.Status.ExpectedPods != expected || b.Status.CurrentHealthy != healthy) {
				err = fmt.Errorf("%d of %d, want %d of %d", b.Status.CurrentHealthy, b.Status.ExpectedPods, healthy, expected)
			}
			return err
		})
	}
}

// changeBudget changes the budget in one cluster and waits until it is observed.
func changeBudget(t *testing.T, w *scenario.Workload, c *scenario.Cluster, patch string) {
	t.Helper()
	b, err := w.GetBudget(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.API.Patch(t.Context(), b, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the budget is observed", func() error {
		now, err := w.GetBudget(t.Context(), c)
		if err == nil && now.Status.ObservedGeneration != b.Generation {
			err = fmt.Errorf("generation %d of %d", now.Status.ObservedGeneration, b.Generation)
		}
		return err
	})
}

// uncordonAfter uncordons a node with the test.
func uncordonAfter(t *testing.T, c *scenario.Cluster, node string) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if _, err := c.Client.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, []byte(`{"spec":{"unschedulable":null}}`), metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	})
}
