package workload

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Node reads a node afresh; nil if there is none.
func (w *Workload) Node(ctx context.Context, name string) (*corev1.Node, error) {
	return live(ctx, w.Live, types.NamespacedName{Name: name}, &corev1.Node{})
}

// DaemonSet reads a DaemonSet afresh; nil if there is none.
func (w *Workload) DaemonSet(ctx context.Context, namespace, name string) (*appsv1.DaemonSet, error) {
	return live(ctx, w.Live, types.NamespacedName{Namespace: namespace, Name: name}, &appsv1.DaemonSet{})
}

func live[O client.Object](ctx context.Context, from client.Reader, key types.NamespacedName, object O) (O, error) {
	var none O
	err := from.Get(ctx, key, object)
	if apierrors.IsNotFound(err) {
		return none, nil
	}
	if err != nil {
		return none, fmt.Errorf("read %s: %w", key.Name, err)
	}
	return object, nil
}

// Terminating reports whether a namespace is, as the informer shows it.
func (w *Workload) Terminating(ctx context.Context, namespace string) bool {
	var n corev1.Namespace
	return w.Cached.Get(ctx, types.NamespacedName{Name: namespace}, &n) == nil && n.DeletionTimestamp != nil
}

// NativeBudgets returns the PodDisruptionBudgets that select a pod, as the
// informer shows them. An invalid selector selects nothing, as in the eviction API.
func (w *Workload) NativeBudgets(ctx context.Context, pod *corev1.Pod) ([]policyv1.PodDisruptionBudget, error) {
	var all policyv1.PodDisruptionBudgetList
	if err := w.Cached.List(ctx, &all, client.InNamespace(pod.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list poddisruptionbudgets: %w", err)
	}
	var covering []policyv1.PodDisruptionBudget
	for _, b := range all.Items {
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) {
			covering = append(covering, b)
		}
	}
	return covering, nil
}
