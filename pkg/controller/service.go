package controller

import (
	"context"
	"fmt"
	"regexp"

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
	spec, asked, problem := specOf(&service)
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
	if problem != nil {
		// What the annotation asked for before stays in force.
		r.warn(&service, "InvalidBudget", "the annotation does not make a valid budget: %v", problem)
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

// specOf reads the annotations; false if there is none. The problem names the
// annotation and what it may say.
func specOf(service *corev1.Service) (spec v1alpha1.MeshPodDisruptionBudgetSpec, asked bool, problem error) {
	spec.Service = service.Name
	for _, bound := range []struct {
		annotation string
		field      **intstr.IntOrString
	}{{v1alpha1.MaxUnavailableAnnotation, &spec.MaxUnavailable}, {v1alpha1.MinAvailableAnnotation, &spec.MinAvailable}} {
		text, ok := service.Annotations[bound.annotation]
		if !ok {
			continue
		}
		asked = true
		value, err := parseAmount(text)
		if err != nil {
			return spec, true, fmt.Errorf("%s: %w", bound.annotation, err)
		}
		*bound.field = &value
	}
	return spec, asked, nil
}

// amount is what the API accepts as a bound, as text.
var amount = regexp.MustCompile(`^([0-9]{1,9}|(100|[0-9]{1,2})%)$`)

// parseAmount reads a number of pods or a percentage. What is longer than
// either is not even quoted: an annotation may hold 256 KiB, an Event takes 1. It
// does not leave numbers to intstr.Parse, which cuts them to 32 bits: 4294967297 pods would be one.
func parseAmount(text string) (intstr.IntOrString, error) {
	const want = "must be a number of pods, 0 or more, or a percentage from 0% to 100%"
	switch {
	case len(text) > 20:
		return intstr.IntOrString{}, fmt.Errorf("%d characters: %s", len(text), want)
	case !amount.MatchString(text):
		return intstr.IntOrString{}, fmt.Errorf("%q: %s", text, want)
	}
	return intstr.Parse(text), nil
}

func (r *Services) warn(service *corev1.Service, reason, note string, args ...any) {
	r.Recorder.Eventf(service, nil, corev1.EventTypeWarning, reason, "MakeBudget", note, args...)
}
