package controller

import (
	"context"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
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

// Kicks carries namespaces whose views have changed from the mesh to the
// reconciler. The zero value is not usable; see NewKicks.
type Kicks struct {
	mu      sync.Mutex
	waiting map[string]bool
	wake    chan struct{}
	events  chan event.GenericEvent
}

// NewKicks returns a Kicks; Run must be running for it to have an effect.
func NewKicks() *Kicks {
	return &Kicks{waiting: map[string]bool{}, wake: make(chan struct{}, 1), events: make(chan event.GenericEvent)}
}

// Kick asks for a look at a namespace's budgets, "" for all. It never blocks.
func (k *Kicks) Kick(namespace string) {
	k.mu.Lock()
	k.waiting[namespace] = true
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run forwards kicks until ctx ends.
func (k *Kicks) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		}
		k.mu.Lock()
		waiting := k.waiting
		k.waiting = map[string]bool{}
		k.mu.Unlock()
		for namespace := range waiting {
			marker := &v1alpha1.MeshPodDisruptionBudget{}
			marker.Namespace = namespace
			select {
			case <-ctx.Done():
				return nil
			case k.events <- event.GenericEvent{Object: marker}:
			}
		}
	}
}

// Setup adds both reconcilers to a manager. kicks may be shared by nobody else.
func Setup(mgr ctrl.Manager, budgets *Budgets, services *Services, kicks *Kicks) error {
	inNamespace := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return budgets.requests(ctx, o.GetNamespace(), func(*v1alpha1.MeshPodDisruptionBudget) bool { return true })
	})
	ofPod := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return budgets.requests(ctx, o.GetNamespace(), func(b *v1alpha1.MeshPodDisruptionBudget) bool {
			service, err := budgets.Workload.Selection(ctx, b)
			return err == nil && workload.Selects(service, o.GetLabels())
		})
	})
	ofService := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return budgets.requests(ctx, o.GetNamespace(), func(b *v1alpha1.MeshPodDisruptionBudget) bool { return b.Spec.Service == o.GetName() })
	})
	scaled := builder.WithPredicates(predicate.GenerationChangedPredicate{})
	err := ctrl.NewControllerManagedBy(mgr).
		Named("budget").
		For(&v1alpha1.MeshPodDisruptionBudget{}).
		Watches(&corev1.Pod{}, ofPod).
		Watches(&corev1.Service{}, ofService).
		Watches(&appsv1.Deployment{}, inNamespace, scaled).
		Watches(&appsv1.StatefulSet{}, inNamespace, scaled).
		Watches(&appsv1.ReplicaSet{}, inNamespace, scaled).
		Watches(&appsv1.DaemonSet{}, inNamespace).
		Watches(&corev1.ReplicationController{}, inNamespace, scaled).
		WatchesRawSource(source.Channel(kicks.events, inNamespace)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Complete(budgets)
	if err != nil {
		return fmt.Errorf("set up budget controller: %w", err)
	}
	err = ctrl.NewControllerManagedBy(mgr).
		Named("service").
		For(&corev1.Service{}).
		Owns(&v1alpha1.MeshPodDisruptionBudget{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Complete(services)
	if err != nil {
		return fmt.Errorf("set up service controller: %w", err)
	}
	return nil
}

// requests lists the budgets of a namespace ("" for all) that match.
func (r *Budgets) requests(ctx context.Context, namespace string, match func(*v1alpha1.MeshPodDisruptionBudget) bool) []reconcile.Request {
	var all v1alpha1.MeshPodDisruptionBudgetList
	if err := r.Client.List(ctx, &all, client.InNamespace(namespace)); err != nil {
		r.Log.Error(err, "list budgets")
		return nil
	}
	var requests []reconcile.Request
	for i := range all.Items {
		if match(&all.Items[i]) {
			requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: all.Items[i].Namespace, Name: all.Items[i].Name}})
		}
	}
	return requests
}
