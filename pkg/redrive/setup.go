package redrive

import (
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// Setup adds the driver to a manager, whose leader alone runs it. pods are
// those that the driver's Workload reads.
func Setup(mgr ctrl.Manager, d *Driver, pods *workload.Pods) error {
	if err := d.Taints.Follow(context.Background(), mgr.GetCache()); err != nil {
		return err
	}
	ofOwner := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		return requests(d.Workload.Coverage.Of(o.GetNamespace(), workload.PodLabels(o)))
	})
	changed := builder.WithPredicates(predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return !e.IsInInitialList },
		UpdateFunc: func(e event.UpdateEvent) bool { return matters(e.ObjectOld, e.ObjectNew) },
		DeleteFunc: func(event.DeleteEvent) bool { return false },
	})
	err := ctrl.NewControllerManagedBy(mgr).
		Named("redrive").
		For(&v1alpha1.MeshPodDisruptionBudget{}, builder.WithPredicates(predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool { return matters(e.ObjectOld, e.ObjectNew) }})).
		Watches(&appsv1.ReplicaSet{}, ofOwner, changed).
		Watches(&corev1.ReplicationController{}, ofOwner, changed).
		Watches(&appsv1.StatefulSet{}, ofOwner, changed).
		Watches(&appsv1.DaemonSet{}, ofOwner, changed).
		WatchesRawSource(taintSource{d, pods}).
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Complete(d)
	if err != nil {
		return fmt.Errorf("set up redrive controller: %w", err)
	}
	return nil
}

// matters reports whether an object changed in what is looked at. What owners
// do to their pods shows in their status, so pods need not be followed.
func matters(before, after client.Object) bool {
	if before.GetGeneration() != after.GetGeneration() {
		return true
	}
	switch after := after.(type) {
	case *v1alpha1.MeshPodDisruptionBudget:
		a, b := before.(*v1alpha1.MeshPodDisruptionBudget).Status, after.Status
		return a.DisruptionsAllowed != b.DisruptionsAllowed || a.CurrentHealthy != b.CurrentHealthy || a.DesiredHealthy != b.DesiredHealthy || a.WaitingDisruptions != b.WaitingDisruptions || !equality.Semantic.DeepEqual(a.Waiting, b.Waiting) ||
			!equality.Semantic.DeepEqual(a.Selector, b.Selector)
	case *appsv1.StatefulSet:
		return !equality.Semantic.DeepEqual(before.(*appsv1.StatefulSet).Status, after.Status)
	case *appsv1.DaemonSet:
		return !equality.Semantic.DeepEqual(before.(*appsv1.DaemonSet).Status, after.Status)
	}
	return false
}

// taintSource has the budgets looked at that cover pods on a node whose taints change.
type taintSource struct {
	driver *Driver
	pods   *workload.Pods
}

var _ source.SyncingSource = taintSource{}

// Start implements source.Source.
func (s taintSource) Start(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	s.driver.Taints.OnChange(func(node string) {
		s.pods.OnNode(node, func(namespace string, labels map[string]string) {
			for _, request := range requests(s.driver.Workload.Coverage.Of(namespace, labels)) {
				queue.Add(request)
			}
		})
	})
	return nil
}

// WaitForSync implements source.SyncingSource.
func (s taintSource) WaitForSync(ctx context.Context) error {
	if err := s.pods.WaitForSync(ctx); err != nil {
		return err
	}
	if !toolscache.WaitForCacheSync(ctx.Done(), func() bool { return errors.Join(s.driver.Taints.Synced(), s.driver.Workload.Coverage.Synced()) == nil }) {
		return fmt.Errorf("list nodes: %w", context.Cause(ctx))
	}
	return nil
}

func requests(budgets []*v1alpha1.MeshPodDisruptionBudget) []reconcile.Request {
	all := make([]reconcile.Request, 0, len(budgets))
	for _, b := range budgets {
		all = append(all, reconcile.Request{NamespacedName: keyOf(b)})
	}
	return all
}
