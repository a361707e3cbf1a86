package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/history"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

// pathsOfPeople are evictions and deletions that somebody asks for.
// TestKubectlDrain has kubectl drain itself.
var pathsOfPeople = map[string]func(*testing.T){
	"kubectl delete":              pathKubectlDelete,
	"kubectl drain by deletion":   pathDrainByDeletion,
	"deletecollection":            pathDeleteCollection,
	"dry-runs":                    pathDryRuns,
	"one pod asked for often":     pathRepeated,
	"one pod asked for at a time": pathParallel,
	"same name, other pod":        pathSameName,
	"pods that are nobody's loss": pathHarmless,
	"bare pods":                   pathBare,
	"failed, ready still":         pathFailedReady,
	"not ready":                   pathUnready,
	"suspended":                   pathSuspended,
	"break-glass":                 pathBreakGlass,
	"native budgets":              pathNativeBudget,
}

var spentWords = []string{"(TooManyRequests)", "Cannot evict pod as it would violate the pod's disruption budget", "maxUnavailable 1"}

// A person's deletion is held, --force or not, and goes when the budget lets it.
func pathKubectlDelete(t *testing.T) {
	w := budgeted(t, "rows-delete", 1, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	before := decided(t)
	restore := exhaust(t, w, c2)
	pod := firstPod(t, w, c1)
	wantWords(t, kubectlFails(t, c1, "-n", w.Namespace, "delete", "pod", pod.Name), spentWords...)
	wantWords(t, kubectlFails(t, c1, "-n", w.Namespace, "delete", "pod", pod.Name, "--force", "--grace-period=0"), spentWords...)
	wantDecided(t, before, 2, paths.Deletion, "refused", "InsufficientPods")
	wantStays(t, c1, w.Namespace, pod.Name, string(pod.UID))
	wantClaims(t, w, c1)

	restore()
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	out := kubectl(t, c1, "-n", w.Namespace, "delete", "pod", pod.Name)
	wantWords(t, out, fmt.Sprintf("pod %q deleted", pod.Name))
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	// With grace period 0 the API server asks twice or three times for one deletion.
	pod = firstPod(t, w, c1)
	out = kubectl(t, c1, "-n", w.Namespace, "delete", "pod", pod.Name, "--force", "--grace-period=0")
	wantWords(t, out, "force deleted")
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	wantDecided(t, before, 2, paths.Deletion, "allowed", "SufficientPods")
	// One deletion is one disruption: it is forgotten when its pod is gone and replaced.
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	wantClaims(t, w, c1)
}

// kubectl drain --disable-eviction deletes, and gives up at the first refusal.
func pathDrainByDeletion(t *testing.T) {
	w := budgeted(t, "rows-drain", 1, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	before := decided(t)
	restore := exhaust(t, w, c2)
	pod := firstPod(t, w, c1)
	node := nodeOf(t, w, c1, pod.Name)
	drain := []string{"drain", node, "--disable-eviction", "--ignore-daemonsets", "--pod-selector=rows=drain", "--timeout=60s"}
	wantWords(t, kubectlFails(t, c1, drain...), "Cannot evict pod as it would violate the pod's disruption budget", "maxUnavailable 1")
	wantDecided(t, before, 1, paths.Deletion, "refused", "InsufficientPods")
	wantStays(t, c1, w.Namespace, pod.Name, string(pod.UID))
	restore()
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	wantWords(t, kubectl(t, c1, drain...), "node/"+node+" drained")
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	wantDecided(t, before, 1, paths.Deletion, "allowed", "SufficientPods")
}

// A collection's pods are asked for one after the other, in the order of
// names. The first refusal ends the call, after what went before.
func pathDeleteCollection(t *testing.T) {
	w := budgeted(t, "rows-collection", 3, maxUnavailable(1))
	c1 := mesh.clusters[0]
	before := decided(t)
	witness, err := w.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pods, err := w.Available(t.Context(), c1)
	if err != nil || len(pods) != 3 {
		t.Fatalf("%d pods, %v", len(pods), err)
	}
	start := time.Now()
	err = c1.Client.CoreV1().Pods(w.Namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: w.Selector()})
	wantRefusal(t, err, time.Since(start), "maxUnavailable 1", pods[1].Name)
	wantClaims(t, w, c1, pods[0].Name)
	for _, p := range pods[1:] {
		wantStays(t, c1, w.Namespace, p.Name, string(p.UID))
	}
	wantDecided(t, before, 1, paths.Deletion, "allowed", "SufficientPods")
	wantDecided(t, before, 1, paths.Deletion, "refused", "InsufficientPods")
	wantGone(t, c1, w.Namespace, pods[0].Name, string(pods[0].UID))
	if err := w.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	judge(t, witness, 1)
}

// Dry-runs are answered as the real request would be, and reserve nothing.
func pathDryRuns(t *testing.T) {
	w := budgeted(t, "rows-dry-run", 1, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	pod := firstPod(t, w, c1)
	all := []string{metav1.DryRunAll}
	requests := map[string]func() error{
		"eviction, in the query": func() error {
			return c1.Client.CoreV1().RESTClient().Post().Namespace(w.Namespace).Resource("pods").Name(pod.Name).SubResource("eviction").Param("dryRun", metav1.DryRunAll).
				Body(&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: pod.Name}}).Do(t.Context()).Error()
		},
		"eviction, in the body": func() error {
			return c1.Client.PolicyV1().Evictions(w.Namespace).Evict(t.Context(), &policyv1.Eviction{
				ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: pod.Name}, DeleteOptions: &metav1.DeleteOptions{DryRun: all},
			})
		},
		"deletion": func() error {
			return c1.Client.CoreV1().Pods(w.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{DryRun: all})
		},
		"deletion, grace period 0": func() error {
			return c1.Client.CoreV1().Pods(w.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{DryRun: all, GracePeriodSeconds: new(int64)})
		},
		"collection": func() error {
			return c1.Client.CoreV1().Pods(w.Namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{DryRun: all}, metav1.ListOptions{LabelSelector: w.Selector()})
		},
	}
	for name, request := range requests {
		if err := request(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantWords(t, kubectl(t, c1, "-n", w.Namespace, "delete", "pod", pod.Name, "--dry-run=server"), "(server dry run)")
	wantStays(t, c1, w.Namespace, pod.Name, string(pod.UID))
	if claimed := claims(t, w, c1); len(claimed) > 0 {
		t.Errorf("after dry-runs the ledger holds claims on %v, want none", claimed)
	}
	exhaust(t, w, c2)
	for name, request := range requests {
		start := time.Now()
		err := request()
		t.Log(name)
		wantRefusal(t, err, time.Since(start), "maxUnavailable 1")
	}
}

// Whoever asks again for what he got gets it again, and it stays one disruption.
func pathRepeated(t *testing.T) {
	w := budgeted(t, "rows-repeated", 1, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	before := decided(t)
	pod := firstPod(t, w, c1)
	// Another UID is the API server's to refuse, and costs no budget.
	wrong := types.UID("00000000-1111-2222-3333-444444444444")
	err := c1.Client.PolicyV1().Evictions(w.Namespace).Evict(t.Context(), &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: w.Namespace, Name: pod.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}},
	})
	if !apierrors.IsConflict(err) {
		t.Errorf("eviction with another UID: got %v, want a conflict", err)
	}
	wantClaims(t, w, c1)

	// A finalizer of ours keeps the pod, so that it can be asked for while it terminates.
	finalize(t, c1, &pod, `["meshpdb.io/test"]`)
	for range 3 {
		if err := c1.Evict(t.Context(), w.Namespace, pod.Name); err != nil {
			t.Errorf("eviction: %v", err)
		}
		if err := c1.Client.CoreV1().Pods(w.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("deletion: %v", err)
		}
		if err := c1.Client.CoreV1().Pods(w.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			t.Errorf("forced deletion: %v", err)
		}
	}
	wantDecided(t, before, 1, paths.Eviction, "allowed", "SufficientPods")
	other := firstPod(t, w, c2)
	start := time.Now()
	err = c2.Evict(t.Context(), w.Namespace, other.Name)
	wantRefusal(t, err, time.Since(start), "maxUnavailable 1")
	finalize(t, c1, &pod, "null")
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	for what, err := range map[string]error{
		"eviction": c1.Evict(t.Context(), w.Namespace, pod.Name),
		"deletion": c1.Client.CoreV1().Pods(w.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{}),
	} {
		if !apierrors.IsNotFound(err) {
			t.Errorf("%s of a pod that is gone: %v", what, err)
		}
	}
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
}

// Many who ask for one pod at the same time cause one disruption, and nobody is told what a drain gives up on.
func pathParallel(t *testing.T) {
	w := budgeted(t, "rows-parallel", 1, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	witness, err := w.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pod := firstPod(t, w, c1)
	tally := scenario.NewTally()
	var callers sync.WaitGroup
	for i := range 12 {
		callers.Go(func() {
			start := time.Now()
			var err error
			if i%3 == 0 {
				err = c1.Client.CoreV1().Pods(w.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{})
			} else {
				err = c1.Evict(t.Context(), w.Namespace, pod.Name)
			}
			tally.Record(c1.Name, pod.Name, time.Since(start), err)
		})
	}
	callers.Wait()
	if tally.Granted() == 0 {
		t.Error("nobody got the pod")
	}
	for _, err := range tally.Failures() {
		t.Errorf("one was answered with what kubectl drain gives up on: %v", err)
	}
	t.Logf("%d of 12 were allowed, %d refused", tally.Granted(), tally.Refused())
	took, err := evictInto(t, tally, w, c2)
	wantRefusal(t, err, took, "maxUnavailable 1")
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	judge(t, witness, 1)
	wantVerdict(t, history.Held, witness, history.Bound{MaxUnavailable: "1"}, tally)
}

// A pod that has the name of one that was evicted is another pod: nothing was granted for it.
func pathSameName(t *testing.T) {
	w := setsBudgeted(t, "rows-same-name", 1)
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	first := firstPod(t, w, c1)
	if err := c1.Evict(t.Context(), w.Namespace, first.Name); err != nil {
		t.Fatal(err)
	}
	wantGone(t, c1, w.Namespace, first.Name, string(first.UID))
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	exhaust(t, w, c2)
	second := firstPod(t, w, c1)
	if second.Name != first.Name || second.UID == first.UID {
		t.Fatalf("%s was followed by %s", first.Name, second.Name)
	}
	start := time.Now()
	wantRefusal(t, c1.Evict(t.Context(), w.Namespace, second.Name), time.Since(start), "maxUnavailable 1")
	// Who means the first one gets neither.
	err := c1.Client.PolicyV1().Evictions(w.Namespace).Evict(t.Context(), &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: w.Namespace, Name: first.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &first.UID}},
	})
	if !apierrors.IsConflict(err) {
		t.Errorf("eviction of the first one: got %v, want a conflict", err)
	}
	wantStays(t, c1, w.Namespace, second.Name, string(second.UID))
}

func finalize(t *testing.T, c *scenario.Cluster, pod *corev1.Pod, finalizers string) {
	t.Helper()
	body := fmt.Sprintf(`{"metadata":{"finalizers":%s}}`, finalizers)
	if _, err := c.Client.CoreV1().Pods(pod.Namespace).Patch(t.Context(), pod.Name, types.MergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// nodeOf gives the pod a label that drain --pod-selector finds, and sees that its node is uncordoned again.
func nodeOf(t *testing.T, w *scenario.Workload, c *scenario.Cluster, pod string) string {
	t.Helper()
	body := `{"metadata":{"labels":{"rows":"` + strings.TrimPrefix(w.Namespace, "rows-") + `"}}}`
	labelled, err := c.Client.CoreV1().Pods(w.Namespace).Patch(t.Context(), pod, types.MergePatchType, []byte(body), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	uncordonAfter(t, c, labelled.Spec.NodeName)
	return labelled.Spec.NodeName
}
