package controller

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// label puts the label on a budget's namespace that the webhooks select,
// unless the namespace is protected.
func (r *Budgets) label(ctx context.Context, namespace string) error {
	if slices.Contains(r.Protected, namespace) {
		return nil
	}
	return r.setLabel(ctx, namespace, true)
}

// unlabel takes the label off once the namespace holds no budget.
func (r *Budgets) unlabel(ctx context.Context, namespace string) error {
	var left v1alpha1.MeshPodDisruptionBudgetList
	if err := r.Client.List(ctx, &left, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list budgets: %w", err)
	}
	if slices.ContainsFunc(left.Items, func(b v1alpha1.MeshPodDisruptionBudget) bool { return b.DeletionTimestamp == nil }) {
		return nil
	}
	return r.setLabel(ctx, namespace, false)
}

func (r *Budgets) setLabel(ctx context.Context, name string, present bool) error {
	var namespace corev1.Namespace
	if err := r.Client.Get(ctx, types.NamespacedName{Name: name}, &namespace); err != nil {
		return client.IgnoreNotFound(err)
	}
	if (namespace.Labels[v1alpha1.NamespaceLabel] == v1alpha1.NamespaceLabelValue) == present || namespace.DeletionTimestamp != nil {
		return nil
	}
	value := "null"
	if present {
		value = fmt.Sprintf("%q", v1alpha1.NamespaceLabelValue)
	}
	body := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, v1alpha1.NamespaceLabel, value)
	if err := r.Client.Patch(ctx, &namespace, client.RawPatch(types.MergePatchType, []byte(body))); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("label namespace %s: %w", name, err)
	}
	return nil
}
