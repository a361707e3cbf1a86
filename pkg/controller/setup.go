package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
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

// Kicks carries what changed in the views of the mesh to the
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

// Kick asks for a look at a namespace's budgets, at one of them by
// "namespace/name", or at all by "". It never blocks.
func (k *Kicks) Kick(subject string) {
	k.mu.Lock()
	k.waiting[subject] = true
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// kickDelay gathers what changes in the views together: one decision elsewhere is
// a handful of changes, and none of them is worth a reconcile of its own.
const kickDelay = 150 * time.Millisecond

// Run forwards kicks until ctx ends.
func (k *Kicks) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(kickDelay):
		}
		k.mu.Lock()
		waiting := k.waiting
		k.waiting = map[string]bool{}
		k.mu.Unlock()
		for subject := range waiting {
			marker := &v1alpha1.MeshPodDisruptionBudget{}
			marker.Namespace, marker.Name, _ = strings.Cut(subject, "/")
			select {
			case <-ctx.Done():
				return nil
			case k.events <- event.GenericEvent{Object: marker}:
			}
		}
	}
}

// Sources are what the reconcilers follow besides informers.
type Sources struct {
	// Kicks may be shared by nobody else.
	Kicks *Kicks
	Pods  *workload.Pods
}

// Setup adds both reconcilers to a manager.
func Setup(mgr ctrl.Manager, budgets *Budgets, services *Services, sources Sources) error {
	coverage := budgets.Workload.Coverage
	// Those whose pods it asks for by its template, and those whose status names it: labels may be put on pods later.
	ofOwner := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return requests(append(namesOf(coverage.Of(o.GetNamespace(), workload.PodLabels(o))), budgets.ownedBy(ctx, o)...))
	})
	ofNamespace := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		return requests(coverage.In(o.GetName()))
	})
	kicked := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		if o.GetName() != "" {
			return requests(coverage.Named(o.GetNamespace(), o.GetName()))
		}
		return requests(coverage.In(o.GetNamespace()))
	})
	ofService := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		return requests(coverage.Naming(o.GetNamespace(), o.GetName()))
	})
	// All budgets are looked at when they are listed; what is listed beside them is no news.
	news := predicate.Funcs{CreateFunc: func(e event.CreateEvent) bool { return !e.IsInInitialList }}
	scaled := predicate.GenerationChangedPredicate{}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("budget").
		For(&v1alpha1.MeshPodDisruptionBudget{}).
		Watches(&corev1.Service{}, ofService, builder.WithPredicates(news)).
		// Somebody may take off the label that the webhooks select.
		Watches(&corev1.Namespace{}, ofNamespace, builder.WithPredicates(news, predicate.LabelChangedPredicate{})).
		Watches(&appsv1.Deployment{}, ofOwner, builder.WithPredicates(news, scaled)).
		Watches(&appsv1.StatefulSet{}, ofOwner, builder.WithPredicates(news, scaled)).
		Watches(&appsv1.ReplicaSet{}, ofOwner, builder.WithPredicates(news, scaled)).
		Watches(&appsv1.DaemonSet{}, ofOwner, builder.WithPredicates(news)).
		Watches(&corev1.ReplicationController{}, ofOwner, builder.WithPredicates(news, scaled)).
		WatchesRawSource(podSource{sources.Pods, coverage}).
		WatchesRawSource(source.Channel(sources.Kicks.events, kicked)).
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

// podSource has the budgets reconciled that cover a pod that changes. It tells
// nothing of the pods that are there at its start: all budgets are looked at
// then. A budget that Coverage does not have yet is about to come itself.
type podSource struct {
	pods     *workload.Pods
	coverage *workload.Coverage
}

var _ source.SyncingSource = podSource{}

// Start implements source.Source.
func (s podSource) Start(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	s.pods.OnChange(func(namespace string, labels map[string]string) {
		for _, request := range requests(namesOf(s.coverage.Of(namespace, labels))) {
			queue.Add(request)
		}
	})
	return nil
}

// WaitForSync implements source.SyncingSource.
func (s podSource) WaitForSync(ctx context.Context) error { return s.pods.WaitForSync(ctx) }

// ownedBy returns the budgets whose status names an owner of this kind and name.
func (r *Budgets) ownedBy(ctx context.Context, o client.Object) []types.NamespacedName {
	var all v1alpha1.MeshPodDisruptionBudgetList
	if err := r.Client.List(ctx, &all, client.InNamespace(o.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error(err, "list budgets")
		return nil
	}
	kind := o.GetObjectKind().GroupVersionKind().Kind
	var names []types.NamespacedName
	for i := range all.Items {
		b := &all.Items[i]
		if slices.ContainsFunc(b.Status.Owners, func(w v1alpha1.OwnerStatus) bool { return w.Name == o.GetName() && (kind == "" || w.Kind == kind) }) {
			names = append(names, client.ObjectKeyFromObject(b))
		}
	}
	return names
}

func namesOf(budgets []*v1alpha1.MeshPodDisruptionBudget) []types.NamespacedName {
	names := make([]types.NamespacedName, 0, len(budgets))
	for _, b := range budgets {
		names = append(names, client.ObjectKeyFromObject(b))
	}
	return names
}

func requests(names []types.NamespacedName) []reconcile.Request {
	all := make([]reconcile.Request, 0, len(names))
	for _, name := range names {
		all = append(all, reconcile.Request{NamespacedName: name})
	}
	return all
}
