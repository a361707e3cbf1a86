package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

// pathsOfNodes are what nodes, taints and the scheduler do to pods. Each has nodes of its own.
var pathsOfNodes = map[string]func(*testing.T){
	"taint":                  pathTaint,
	"taint of a failed node": pathFailedNode,
	"node deleted":           pathNodeDeleted,
	"preemption":             pathPreemption,
	"device tainted":         pathDeviceTaint,
	"killed by the kubelet":  pathKilledByKubelet,
}

const (
	taintManager       = "system:serviceaccount:kube-system:node-controller"
	deviceTaintManager = "system:serviceaccount:kube-system:device-taint-eviction-controller"
	scheduler          = "system:kube-scheduler"
	podGC              = "system:serviceaccount:kube-system:pod-garbage-collector"
)

// pathTaint: somebody wants a node empty that works. The taint manager is
// refused while the budget is spent, tries five times, and after the taint is
// gone nobody may finish what it began.
func pathTaint(t *testing.T) {
	w := pinned(t, "rows-taint", 2, 1, nil)
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	since, before := time.Now(), decided(t)
	witness, err := w.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	restore := exhaust(t, w, c2)
	pod := firstPod(t, w, c1)
	patchNode(t, c1, pod.Spec.NodeName, `{"spec":{"taints":[`+keepOut(w)+`,{"key":"maintenance","effect":"NoExecute"}]}}`)
	wantDecided(t, before, 5, paths.TaintEviction, "refused", "InsufficientPods")
	wantAudited(t, w, c1, since, taintManager, 429)
	wantStays(t, c1, w.Namespace, pod.Name, string(pod.UID))
	// The condition that it sets before it asks is no permission for anybody else.
	awaitPod(t, c1, &pod, func(p *corev1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == "DeletionByTaintManager" {
				return true
			}
		}
		return false
	})
	wantPodRefused(t, c1.Client, &pod, "maxUnavailable 1")

	patchNode(t, c1, pod.Spec.NodeName, `{"spec":{"taints":[`+keepOut(w)+`]}}`)
	// The taint manager's attempts end within two seconds, so its certificate asks here by hand, as one that lags would.
	manager := as(t, c1, taintManager, "system:masters")
	start := time.Now()
	err = manager.CoreV1().Pods(w.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{})
	wantRefusal(t, err, time.Since(start), "has no NoExecute taint any more")
	restore()
	if err := w.AwaitAllowed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	err = manager.CoreV1().Pods(w.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{})
	wantRefusal(t, err, time.Since(start), "has no NoExecute taint any more")
	wantDecided(t, before, 2, paths.TaintEviction, "refused", "Moot")
	wantStays(t, c1, w.Namespace, pod.Name, string(pod.UID))

	patchNode(t, c1, pod.Spec.NodeName, `{"spec":{"taints":[`+keepOut(w)+`,{"key":"maintenance","effect":"NoExecute"}]}}`)
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	wantDecided(t, before, 1, paths.TaintEviction, "allowed", "SufficientPods")
	if err := w.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantHeld(t, w, witness, since)
}

// pathFailedNode: what stands on a node that failed, or that an operator says has, goes whatever the budget says.
// Ready False is what a kubelet writes whose runtime is down, Unknown what the node lifecycle controller
// writes for one that does not answer; the sandbox's kubelets always do, so both are written by hand.
func pathFailedNode(t *testing.T) {
	w := pinned(t, "rows-failed-node", 2, 2, nil)
	c1, c2, c3 := mesh.clusters[0], mesh.clusters[1], mesh.clusters[2]
	since, before := time.Now(), decided(t)
	exhaust(t, w, c2)
	fail := map[*scenario.Cluster]func(node string){
		c1: func(node string) { failNode(t, c1, node, corev1.ConditionFalse, "KubeletNotReady") },
		c3: func(node string) { failNode(t, c3, node, corev1.ConditionUnknown, "NodeStatusUnknown") },
		c2: func(node string) {
			patchNode(t, c2, node, `{"spec":{"taints":[`+keepOut(w)+`,{"key":"node.kubernetes.io/out-of-service","value":"nodeshutdown","effect":"NoExecute"}]}}`)
		},
	}
	for c, fails := range fail {
		pod := firstPod(t, w, c)
		fails(pod.Spec.NodeName)
		wantGone(t, c, w.Namespace, pod.Name, string(pod.UID))
		wantAudited(t, w, c, since, taintManager, 200)
		deletions, err := sandboxCluster(t, c.Name).PodDeletions(w.Namespace, since)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range deletions {
			if d.User == taintManager && d.Code == 429 {
				t.Errorf("%s: the taint manager was refused", c.Name)
			}
		}
	}
	wantDecided(t, before, 3, paths.TaintEviction, "allowed", "Accounted")
}

// pathNodeDeleted: the pod garbage collector calls what stood on the node
// Failed and deletes it; the webhook's matchConditions keep it from asking.
func pathNodeDeleted(t *testing.T) {
	w := pinned(t, "rows-node-deleted", 2, 1, nil)
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	since := time.Now()
	exhaust(t, w, c2)
	pod := firstPod(t, w, c1)
	if err := c1.Client.CoreV1().Nodes().Delete(t.Context(), pod.Spec.NodeName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	wantAudited(t, w, c1, since, podGC, 200)
	deletions, err := sandboxCluster(t, "c1").PodDeletions(w.Namespace, since)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range deletions {
		if d.User == podGC && d.Code != 200 && d.Code != 404 {
			t.Errorf("the pod garbage collector was answered with %d", d.Code)
		}
	}
	successor := firstPod(t, w, c1)
	if successor.Spec.NodeName == pod.Spec.NodeName {
		t.Errorf("the successor is on the node that is gone")
	}
}

// pathPreemption: by default the scheduler is not held, and what it does is told of.
func pathPreemption(t *testing.T) {
	w := pinned(t, "rows-preemption", 1, 1, func(template *corev1.PodTemplateSpec) { ask(template, "600") })
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	before := decided(t)
	exhaust(t, w, c2)
	pod := firstPod(t, w, c1)
	urgent := preemptor(t, w, c1)
	wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
	awaitPod(t, c1, urgent, isReady)
	wantDecided(t, before, 1, paths.Preemption, "allowed", "Accounted")
	wantEvent(t, c1, w.Namespace, "MeshPodDisruptionBudget", "DisruptionAllowed", scheduler+" deletes "+pod.Name)
	wantCounted(t, w, 3, 1)
}

// pathKilledByKubelet: pods that a kubelet kills under pressure, or with its
// node, are dead before anybody is told. No kubelet of the sandbox does so: what it would write
// is written by hand. Nothing is asked and nothing held; it counts at once, and the
// StatefulSet controller clears away and replaces what is left.
func pathKilledByKubelet(t *testing.T) {
	w := setsBudgeted(t, "rows-killed", 1)
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	exhaust(t, w, c2)
	for what, status := range map[string]string{
		"node pressure": `"reason":"Evicted","message":"The node was low on resource: memory."`,
		"node shutdown": `"reason":"Terminated","message":"Pod was terminated in response to imminent node shutdown."`,
	} {
		t.Log(what)
		pod := firstPod(t, w, c1)
		// It is not replaced before the finalizer goes.
		finalize(t, c1, &pod, `["meshpdb.io/test"]`)
		setStatus(t, c1, &pod, `{"phase":"Failed",`+status+`,"conditions":[{"type":"DisruptionTarget","status":"True","reason":"TerminationByKubelet"},{"type":"Ready","status":"False","reason":"PodFailed"}]}`)
		wantCounted(t, w, 3, 1)
		finalize(t, c1, &pod, "null")
		wantGone(t, c1, w.Namespace, pod.Name, string(pod.UID))
		wantCounted(t, w, 3, 2)
	}
	if claimed := claims(t, w, c1); len(claimed) > 0 {
		t.Errorf("the ledger holds claims on %v, want none", claimed)
	}
}

// pinned is budgeted, maxUnavailable 1, on so many nodes of its own in each cluster, where nobody else's pods go.
func pinned(t *testing.T, namespace string, nodes int, replicas int32, change func(*corev1.PodTemplateSpec)) *scenario.Workload {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	for _, c := range mesh.clusters {
		for i := range nodes {
			name := fmt.Sprintf("%s-%s-%d", c.Name, namespace, i+1)
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, "rows": namespace}}}
			node.Spec.Taints = []corev1.Taint{{Key: "rows", Value: namespace, Effect: corev1.TaintEffectNoSchedule}}
			if _, err := c.Client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			// After the namespace, which is cleaned up before.
			t.Cleanup(func() {
				if err := c.Client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
					t.Error(err)
				}
			})
		}
	}
	second := int64(1)
	return ownedBy(t, namespace, replicas, func(meta metav1.ObjectMeta, template corev1.PodTemplateSpec) client.Object {
		template.Spec.NodeSelector = map[string]string{"rows": namespace}
		template.Spec.Tolerations = []corev1.Toleration{
			{Key: "rows", Operator: corev1.TolerationOpExists},
			// Instead of the 300 s that every pod gets.
			{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &second},
			{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &second},
		}
		if change != nil {
			change(&template)
		}
		return &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": meta.Name}}, Template: template,
		}}
	})
}

// keepOut is the taint of the nodes of pinned.
func keepOut(w *scenario.Workload) string {
	return fmt.Sprintf(`{"key":"rows","value":%q,"effect":"NoSchedule"}`, w.Namespace)
}

func patchNode(t *testing.T, c *scenario.Cluster, node, patch string) {
	t.Helper()
	if _, err := c.Client.CoreV1().Nodes().Patch(t.Context(), node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// failNode writes what is written of a node that has failed.
func failNode(t *testing.T, c *scenario.Cluster, node string, ready corev1.ConditionStatus, reason string) {
	t.Helper()
	patchNode(t, c, node, fmt.Sprintf(`{"metadata":{"annotations":{%q:""}}}`, sandbox.UnreadyAnnotation))
	status := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":%q,"reason":%q}]}}`, ready, reason)
	if _, err := c.Client.CoreV1().Nodes().Patch(t.Context(), node, types.StrategicMergePatchType, []byte(status), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}

// ask has the pods ask for CPUs, of which a node has 1000.
func ask(template *corev1.PodTemplateSpec, cpus string) {
	template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpus)}
}

// preemptor is a pod that nobody's budget covers, of higher priority, for which there is no room beside the others.
func preemptor(t *testing.T, w *scenario.Workload, c *scenario.Cluster) *corev1.Pod {
	t.Helper()
	class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "rows-urgent"}, Value: 1000}
	if _, err := c.Client.SchedulingV1().PriorityClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	var pod *corev1.Pod
	// The admission plugin learns of a class a moment later.
	eventually(t, 10*time.Second, "the preemptor is created", func() error {
		template := w.Template()
		ask(&template, "600")
		pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "urgent"}, Spec: template.Spec}
		pod.Spec.TopologySpreadConstraints = nil
		pod.Spec.PriorityClassName = class.Name
		pod.Spec.NodeSelector = map[string]string{"rows": w.Namespace}
		pod.Spec.Tolerations = []corev1.Toleration{{Key: "rows", Operator: corev1.TolerationOpExists}}
		err := c.API.Create(t.Context(), pod)
		if err != nil && !strings.Contains(err.Error(), "PriorityClass") {
			t.Fatal(err)
		}
		return err
	})
	return pod
}
