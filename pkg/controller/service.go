package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// Services turns annotated global Services into budgets that they own.
type Services struct {
	Client   client.Client
	Recorder events.EventRecorder
}

// Reconcile brings the budget of one Service in line with its annotations.
func (r *Services) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var service corev1.Service
	if err := r.Client.Get(ctx, request.NamespacedName, &service); err != nil {
		// The garbage collector takes the budget along.
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	var b v1alpha1.MeshPodDisruptionBudget
	err := r.Client.Get(ctx, request.NamespacedName, &b)
	if err != nil && !apierrors.IsNotFound(err) {
		return ctrl.Result{}, fmt.Errorf("read budget: %w", err)
	}
	exists := err == nil
	owned := exists && metav1.IsControlledBy(&b, &service)
	spec, asked := specOf(&service)
	switch {
	case !asked && owned:
		return ctrl.Result{}, client.IgnoreNotFound(r.Client.Delete(ctx, &b))
	case !asked:
		return ctrl.Result{}, nil
	case exists && !owned:
		r.warn(&service, "BudgetExists", "budget %s exists and was not made from this service's annotation: remove one of them", b.Name)
		return ctrl.Result{}, nil
	case !workload.IsGlobal(&service):
		r.warn(&service, "ServiceNotGlobal", "annotation %s or %s needs a global service: set service.cilium.io/global to \"true\"", v1alpha1.MaxUnavailableAnnotation, v1alpha1.MinAvailableAnnotation)
		return ctrl.Result{}, nil
	}
	return ctrl.Result{}, r.apply(ctx, &service, &b, exists, spec)
}

func (r *Services) apply(ctx context.Context, service *corev1.Service, b *v1alpha1.MeshPodDisruptionBudget, exists bool, spec v1alpha1.MeshPodDisruptionBudgetSpec) error {
	var err error
	switch {
	case !exists:
		b.ObjectMeta = metav1.ObjectMeta{
			Namespace: service.Namespace, Name: service.Name,
			OwnerReferences: []metav1.OwnerReference{ownerReference(service)},
		}
		b.Spec = spec
		err = r.Client.Create(ctx, b)
	case !sameBound(b.Spec.MaxUnavailable, spec.MaxUnavailable) || !sameBound(b.Spec.MinAvailable, spec.MinAvailable):
		b.Spec.MaxUnavailable, b.Spec.MinAvailable = spec.MaxUnavailable, spec.MinAvailable
		err = r.Client.Update(ctx, b)
	}
	if apierrors.IsInvalid(err) {
		// The API server's words name the field and the fix; trying again would not help.
		r.warn(service, "InvalidBudget", "the annotation does not make a valid budget: %v", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("write budget of service %s: %w", service.Name, err)
	}
	return nil
}

// ownerReference does not block the Service's deletion: that would take a
// permission on its finalizers.
func ownerReference(service *corev1.Service) metav1.OwnerReference {
	reference := metav1.NewControllerRef(service, corev1.SchemeGroupVersion.WithKind("Service"))
	reference.BlockOwnerDeletion = nil
	return *reference
}

func sameBound(a, b *intstr.IntOrString) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

// specOf reads the annotations; false if there is none.
func specOf(service *corev1.Service) (v1alpha1.MeshPodDisruptionBudgetSpec, bool) {
	spec := v1alpha1.MeshPodDisruptionBudgetSpec{Service: service.Name}
	maximum, hasMaximum := service.Annotations[v1alpha1.MaxUnavailableAnnotation]
	minimum, hasMinimum := service.Annotations[v1alpha1.MinAvailableAnnotation]
	if hasMaximum {
		value := intstr.Parse(maximum)
		spec.MaxUnavailable = &value
	}
	if hasMinimum {
		value := intstr.Parse(minimum)
		spec.MinAvailable = &value
	}
	return spec, hasMaximum || hasMinimum
}

func (r *Services) warn(service *corev1.Service, reason, note string, args ...any) {
	r.Recorder.Eventf(service, nil, corev1.EventTypeWarning, reason, "MakeBudget", note, args...)
}
