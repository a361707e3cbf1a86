package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

// pathJob: the Job controller is never held, and its counts stay right: it
// takes its finalizer off a pod before it deletes it.
func pathJob(t *testing.T) {
	w := budgeted(t, "rows-job", 1, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	before := decided(t)
	exhaust(t, w, c2)
	template := w.Template()
	template.Annotations = map[string]string{sandbox.WorkingAnnotation: ""}
	template.Spec.RestartPolicy = corev1.RestartPolicyNever
	two := int32(2)
	jobs := c1.Client.BatchV1().Jobs(w.Namespace)
	_, err := jobs.Create(t.Context(), &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "work"}, Spec: batchv1.JobSpec{Parallelism: &two, Completions: &two, Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantJob(t, w, c1, func(s batchv1.JobStatus) bool { return s.Active == 2 && s.Ready != nil && *s.Ready == 2 })
	change := func(patch string) {
		t.Helper()
		if _, err := jobs.Patch(t.Context(), "work", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	change(`{"spec":{"parallelism":1}}`)
	wantJob(t, w, c1, func(s batchv1.JobStatus) bool { return s.Active == 1 && terminating(s) == 0 && s.Failed == 0 })
	change(`{"spec":{"suspend":true}}`)
	wantJob(t, w, c1, func(s batchv1.JobStatus) bool { return s.Active == 0 && terminating(s) == 0 && s.Failed == 0 })
	change(`{"spec":{"suspend":false,"parallelism":2}}`)
	wantJob(t, w, c1, func(s batchv1.JobStatus) bool { return s.Active == 2 && s.Ready != nil && *s.Ready == 2 })
	wantDecided(t, before, 2, paths.Job, "allowed", "Accounted")

	// One succeeds; the deadline ends the Job and its other pod.
	pods, err := c1.Client.CoreV1().Pods(w.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "job-name=work"})
	if err != nil || len(pods.Items) != 2 {
		t.Fatalf("%d pods, %v", len(pods.Items), err)
	}
	body := fmt.Sprintf(`{"metadata":{"annotations":{%q:null}}}`, sandbox.WorkingAnnotation)
	if _, err := c1.Client.CoreV1().Pods(w.Namespace).Patch(t.Context(), pods.Items[0].Name, types.MergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	wantJob(t, w, c1, func(s batchv1.JobStatus) bool { return s.Active == 1 && s.Succeeded == 1 })
	change(`{"spec":{"activeDeadlineSeconds":1}}`)
	wantJob(t, w, c1, func(s batchv1.JobStatus) bool {
		return s.Active == 0 && s.Succeeded == 1 && s.Failed == 1 && len(s.Conditions) > 0 && s.Conditions[len(s.Conditions)-1].Type == batchv1.JobFailed
	})
	wantDecided(t, before, 3, paths.Job, "allowed", "Accounted")
	eventually(t, 20*time.Second, "only what succeeded is left", func() error {
		list, err := c1.Client.CoreV1().Pods(w.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "job-name=work"})
		if err != nil {
			return err
		}
		for _, p := range list.Items {
			if p.Name != pods.Items[0].Name {
				err = errors.Join(err, fmt.Errorf("pod %s is there: finalizers %v", p.Name, p.Finalizers))
			}
		}
		return err
	})
}

func terminating(s batchv1.JobStatus) int32 {
	if s.Terminating == nil {
		return 0
	}
	return *s.Terminating
}

func wantJob(t *testing.T, w *scenario.Workload, c *scenario.Cluster, is func(batchv1.JobStatus) bool) {
	t.Helper()
	eventually(t, 60*time.Second, "the Job counts", func() error {
		job, err := c.Client.BatchV1().Jobs(w.Namespace).Get(t.Context(), "work", metav1.GetOptions{})
		if err == nil && !is(job.Status) {
			err = fmt.Errorf("status %+v", job.Status)
		}
		return err
	})
}

// pathCustomOwner: an owner of any kind with a scale subresource says how many
// pods there should be. When it is deleted, its pods go with it.
func pathCustomOwner(t *testing.T) {
	w := budgeted(t, "rows-custom", 1, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	before := decided(t)
	client, err := dynamic.NewForConfig(c1.Config)
	if err != nil {
		t.Fatal(err)
	}
	rings := defineRings(t, client).Namespace(w.Namespace)
	ring := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "rows.meshpdb.io/v1", "kind": "Ring", "metadata": map[string]any{"name": "ring"}, "spec": map[string]any{"replicas": int64(2)},
	}}
	eventually(t, 20*time.Second, "a Ring", func() error {
		made, err := rings.Create(t.Context(), ring, metav1.CreateOptions{})
		if err == nil {
			ring = made
		}
		return err
	})
	yes := true
	var pods []*corev1.Pod
	for _, name := range []string{"ring-0", "ring-1"} {
		pods = append(pods, bare(t, w, c1, name, func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "rows.meshpdb.io/v1", Kind: "Ring", Name: "ring", UID: ring.GetUID(), Controller: &yes, BlockOwnerDeletion: &yes}}
		}))
	}
	for _, p := range pods {
		awaitPod(t, c1, p, isReady)
	}
	wantCounted(t, w, 5, 5)
	restore := exhaust(t, w, c2)
	start := time.Now()
	wantRefusal(t, c1.Evict(t.Context(), w.Namespace, "ring-0"), time.Since(start), "maxUnavailable 1")
	restore()
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := c1.Evict(t.Context(), w.Namespace, "ring-0"); err != nil {
		t.Errorf("eviction: %v", err)
	}
	wantGone(t, c1, w.Namespace, "ring-0", string(pods[0].UID))
	// Two are wanted and one is there: nobody else may take another one.
	wantCounted(t, w, 5, 4)
	start = time.Now()
	wantRefusal(t, c1.Evict(t.Context(), w.Namespace, "ring-1"), time.Since(start), "maxUnavailable 1")
	if err := rings.Delete(t.Context(), "ring", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantGone(t, c1, w.Namespace, "ring-1", string(pods[1].UID))
	wantDecided(t, before, 1, paths.GarbageCollector, "allowed", "Accounted")
}

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// defineRings defines a kind whose objects do nothing but to have a scale.
func defineRings(t *testing.T, client dynamic.Interface) dynamic.NamespaceableResourceInterface {
	t.Helper()
	integer := map[string]any{"type": "integer"}
	_, err := client.Resource(definitions).Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "rings.rows.meshpdb.io"},
		"spec": map[string]any{
			"group": "rows.meshpdb.io", "scope": "Namespaced",
			"names": map[string]any{"plural": "rings", "singular": "ring", "kind": "Ring", "listKind": "RingList"},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{
					"spec":   map[string]any{"type": "object", "properties": map[string]any{"replicas": integer}},
					"status": map[string]any{"type": "object", "properties": map[string]any{"replicas": integer}},
				}}},
				"subresources": map[string]any{"status": map[string]any{}, "scale": map[string]any{"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
			}},
		},
	}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	return client.Resource(schema.GroupVersionResource{Group: "rows.meshpdb.io", Version: "v1", Resource: "rings"})
}
