package sandbox

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"slices"
	"text/template"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// UnreadyAnnotation makes a pod unready while it has the annotation, with any value. Removed, the pod is Ready again
// after a time drawn from Options.PodStart. A pod created with it does not become Ready. A node that has it keeps the
// conditions that somebody else writes, while its lease is still renewed.
const UnreadyAnnotation = "sandbox.meshpdb.io/unready"

// WorkingAnnotation keeps a Job's pod running, which would else succeed as soon as it is Ready.
const WorkingAnnotation = "sandbox.meshpdb.io/working"

// unreadyReason marks the Ready condition that UnreadyAnnotation caused, so that an unreadiness written by a test
// or by the node lifecycle controller is not undone.
const unreadyReason = "HeldUnready"

//go:embed stages/node.yaml
var nodeStages string

//go:embed stages/pod.yaml
var podStages string

// kwokConfig is kwok's configuration file: the life of nodes and pods.
//
// In kwok's Stage the jitter is not added to the delay but is the upper bound of it, and a jitter below the delay
// wins; so Range.Min and Range.Max can be passed as they are. A change of the pod during the delay draws it anew.
func kwokConfig(o Options) ([]byte, error) {
	stages, err := template.New("kwok.yaml").Delims("[[", "]]").Option("missingkey=error").Parse(nodeStages + "---\n" + podStages)
	if err != nil {
		return nil, fmt.Errorf("make kwok configuration: %w", err)
	}
	out := bytes.NewBuffer(nil)
	err = stages.Execute(out, map[string]any{
		"StartMin": o.PodStart.Min.Milliseconds(), "StartMax": o.PodStart.Max.Milliseconds(),
		"StopMin": o.PodStop.Min.Milliseconds(), "StopMax": o.PodStop.Max.Milliseconds(),
		"Unready": UnreadyAnnotation, "Reason": unreadyReason, "Working": WorkingAnnotation,
	})
	if err != nil {
		return nil, fmt.Errorf("make kwok configuration: %w", err)
	}
	return out.Bytes(), nil
}

// touchedAnnotation is when SyncPods touched a pod.
const touchedAnnotation = "sandbox.meshpdb.io/touched"

// SyncPods has the kubelets look again at the pods that are neither Ready nor gone. A real kubelet tries again what the
// API server failed at. kwok gives a pod up for good when the answer is an internal error, as it is when etcd dies under a
// write; a change of the pod makes it look again, and begins its delay anew. Whoever broke an API server or its etcd calls
// it once after mending.
func (c *Cluster) SyncPods(ctx context.Context) error {
	pods, err := c.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("sync pods of %s: %w", c.Name, err)
	}
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, touchedAnnotation, time.Now().Format(time.RFC3339Nano))
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil && podReady(&p) {
			continue
		}
		_, err := c.Client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("sync pod %s/%s of %s: %w", p.Namespace, p.Name, c.Name, err)
		}
	}
	return nil
}

func podReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
