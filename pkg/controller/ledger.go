package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// Ledgers deletes the ledgers of namespaces that are gone. A ledger is not in
// its namespace, which therefore does not take it along.
type Ledgers struct {
	Client client.Client
	// Live reads from the API server, by quorum.
	Live client.Reader
}

// Reconcile deletes one ledger if nothing can depend on it any more: its
// namespace is gone and it holds no claim. A claim that is appended meanwhile
// changes its version, and then it stays.
func (r *Ledgers) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var ledger v1alpha1.DisruptionLedger
	if err := r.Client.Get(ctx, request.NamespacedName, &ledger); err != nil || len(ledger.Claims) > 0 {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	name := types.NamespacedName{Name: ledger.Name}
	if r.Client.Get(ctx, name, &corev1.Namespace{}) == nil {
		// When the informer hears that it is gone, the ledger is looked at again.
		return ctrl.Result{}, nil
	}
	err := r.Live.Get(ctx, name, &corev1.Namespace{})
	if err == nil {
		return ctrl.Result{}, nil
	}
	if !apierrors.IsNotFound(err) {
		return ctrl.Result{}, fmt.Errorf("read namespace: %w", err)
	}
	asRead := client.Preconditions{UID: &ledger.UID, ResourceVersion: &ledger.ResourceVersion}
	if err := r.Client.Delete(ctx, &ledger, asRead); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return ctrl.Result{}, fmt.Errorf("delete ledger: %w", err)
	}
	return ctrl.Result{}, nil
}

// SetupLedgers adds the reconciler to a manager.
func SetupLedgers(mgr ctrl.Manager, ledgers *Ledgers) error {
	// A ledger matters when its last claim goes, a namespace when it goes itself.
	empty := predicate.NewPredicateFuncs(func(o client.Object) bool {
		l, ok := o.(*v1alpha1.DisruptionLedger)
		return ok && len(l.Claims) == 0
	})
	gone := predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false }, UpdateFunc: func(event.UpdateEvent) bool { return false },
		DeleteFunc: func(event.DeleteEvent) bool { return true }, GenericFunc: func(event.GenericEvent) bool { return false },
	}
	ofNamespace := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []ctrl.Request {
		return []ctrl.Request{{NamespacedName: types.NamespacedName{Name: o.GetName()}}}
	})
	err := ctrl.NewControllerManagedBy(mgr).
		Named("ledger").
		For(&v1alpha1.DisruptionLedger{}, builder.WithPredicates(empty)).
		Watches(&corev1.Namespace{}, ofNamespace, builder.WithPredicates(gone)).
		Complete(ledgers)
	if err != nil {
		return fmt.Errorf("set up ledger controller: %w", err)
	}
	return nil
}
