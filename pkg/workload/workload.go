package workload

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

// Workload is the own cluster's pods, services, owners and budgets.
type Workload struct {
	// Cached reads services, owners and budgets from informers. What it returns
	// may be the informers' own: read it only.
	Cached client.Reader
	// Live reads from the API server, by quorum.
	Live client.Reader
	// Running are the pods as a watch shows them.
	Running PodReader
	// Coverage finds the budgets of a pod.
	Coverage *Coverage
}

// PodReader reads pods from memory; Pods is one. An error means that they are
// not known, nil that there is none.
type PodReader interface {
	// SawEnd reports whether the watch has shown the pod with this UID terminating or deleted. That is
	// never taken back; false means nothing: only the last ones are remembered.
	SawEnd(uid string) bool
	Get(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Select(ctx context.Context, namespace string, selector map[string]string) ([]corev1.Pod, error)
}

// Problem says why a budget cannot be decided in this cluster. Its reason is
// that of the condition Enforced.
type Problem struct {
	Reason  string
	Message string
}

func (p *Problem) Error() string { return p.Message }

// Pod reads a pod afresh; nil if there is none.
func (w *Workload) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	var pod corev1.Pod
	err := w.Live.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &pod)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read pod %s/%s: %w", namespace, name, err)
	}
	return &pod, nil
}

// CachedPod reads a pod from memory; nil if there is none. It has only what
// decisions need.
func (w *Workload) CachedPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod, err := w.Running.Get(ctx, namespace, name)
	if err != nil {
		return nil, fmt.Errorf("read pod %s/%s: %w", namespace, name, err)
	}
	return pod, nil
}

// Ended reports whether, by a quorum read, the pod with this UID is terminating
// or gone (R9, R10).
func (w *Workload) Ended(ctx context.Context, namespace, name, uid string) (bool, error) {
	pod, err := w.Pod(ctx, namespace, name)
	if err != nil {
		return false, err
	}
	return pod == nil || string(pod.UID) != uid || pod.DeletionTimestamp != nil, nil
}

// BudgetsOf returns the budgets that cover the pod, by name. What they hold is
// the informer's: read it only.
func (w *Workload) BudgetsOf(_ context.Context, pod *corev1.Pod) ([]v1alpha1.MeshPodDisruptionBudget, error) {
	if err := w.Coverage.Synced(); err != nil {
		return nil, err
	}
	found := w.Coverage.Of(pod.Namespace, pod.Labels)
	if len(found) == 0 {
		return nil, nil
	}
	covering := make([]v1alpha1.MeshPodDisruptionBudget, len(found))
	for i, b := range found {
		covering[i] = *b
	}
	return covering, nil
}

// Service returns the Service that the budget names; a *Problem if it cannot
// select pods.
func (w *Workload) Service(ctx context.Context, b *v1alpha1.MeshPodDisruptionBudget) (*corev1.Service, error) {
	var service corev1.Service
	err := w.Cached.Get(ctx, types.NamespacedName{Namespace: b.Namespace, Name: b.Spec.Service}, &service)
	switch {
	case apierrors.IsNotFound(err):
		return nil, &Problem{v1alpha1.ReasonServiceNotFound, fmt.Sprintf("service %s/%s does not exist in this cluster", b.Namespace, b.Spec.Service)}
	case err != nil:
		return nil, fmt.Errorf("read service: %w", err)
	case len(service.Spec.Selector) == 0:
		return nil, &Problem{v1alpha1.ReasonServiceHasNoSelector, fmt.Sprintf("service %s/%s has no selector: meshpdb covers the pods that a Service selects", b.Namespace, b.Spec.Service)}
	}
	return &service, nil
}

// StandIn takes what Service returned, and puts in the place of a Service that
// was deleted the selector that it had: grants elsewhere have counted on its
// pods, which must not become free for all.
func StandIn(b *v1alpha1.MeshPodDisruptionBudget, service *corev1.Service, err error) (*corev1.Service, error) {
	var problem *Problem
	if errors.As(err, &problem) && problem.Reason == v1alpha1.ReasonServiceNotFound && len(b.Status.Selector) > 0 {
		service = &corev1.Service{}
		service.Namespace, service.Name = b.Namespace, b.Spec.Service
		service.Spec.Selector = b.Status.Selector
		return service, nil
	}
	return service, err
}

// Pods returns the pods that the Service selects, mirror pods left out.
func (w *Workload) Pods(ctx context.Context, service *corev1.Service) ([]corev1.Pod, error) {
	pods, err := w.Running.Select(ctx, service.Namespace, service.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("select pods of service %s/%s: %w", service.Namespace, service.Name, err)
	}
	return withoutMirrors(pods), nil
}

// LivePods is Pods by a quorum list.
func (w *Workload) LivePods(ctx context.Context, service *corev1.Service) ([]corev1.Pod, error) {
	var list corev1.PodList
	err := w.Live.List(ctx, &list, client.InNamespace(service.Namespace),
		client.MatchingLabelsSelector{Selector: labels.SelectorFromSet(service.Spec.Selector)})
	if err != nil {
		return nil, fmt.Errorf("list pods of service %s/%s: %w", service.Namespace, service.Name, err)
	}
	return withoutMirrors(list.Items), nil
}

func withoutMirrors(pods []corev1.Pod) []corev1.Pod {
	return slices.DeleteFunc(pods, func(p corev1.Pod) bool { return IsMirror(&p) })
}

// IsMirror reports whether the pod is the API's image of a static pod, which
// no request can disrupt.
func IsMirror(pod *corev1.Pod) bool {
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return mirror
}

// IsTerminal reports whether the pod has ended by itself. PodGC leaves
// Ready=True on such pods, so readiness alone does not tell.
func IsTerminal(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// IsReady reports the pod's Ready condition.
func IsReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// Availability is why a pod does not count as available, or wire.Available.
// minReadySeconds is ignored, as PodDisruptionBudgets do.
func Availability(pod *corev1.Pod) wire.Unavailability {
	switch {
	case pod.DeletionTimestamp != nil:
		return wire.Terminating
	case IsTerminal(pod):
		return wire.Terminal
	case !IsReady(pod):
		return wire.NotReady
	default:
		return wire.Available
	}
}

// Record is what the mesh is told of a pod.
func Record(pod *corev1.Pod) wire.Pod {
	record := wire.Pod{UID: string(pod.UID), Name: pod.Name, Unavailable: Availability(pod)}
	for _, ip := range pod.Status.PodIPs {
		record.IPs = append(record.IPs, ip.IP)
	}
	return record
}

// IsGlobal reports whether Cilium treats the Service as global, by the same
// rules as Cilium's pkg/annotation.
func IsGlobal(service *corev1.Service) bool {
	global, _ := annotation(service, "service.cilium.io/global", "io.cilium/global-service")
	return strings.EqualFold(global, "true")
}

// IsExported reports whether Cilium exports the Service's endpoints to peers.
func IsExported(service *corev1.Service) bool {
	shared, set := annotation(service, "service.cilium.io/shared", "io.cilium/shared-service")
	return IsGlobal(service) && (!set || strings.EqualFold(shared, "true"))
}

// annotation returns the value of the first of the names that is set.
func annotation(service *corev1.Service, names ...string) (string, bool) {
	for _, name := range names {
		if value, set := service.Annotations[name]; set {
			return value, true
		}
	}
	return "", false
}

// Bounds returns the bound of a spec.
func Bounds(spec *v1alpha1.MeshPodDisruptionBudgetSpec) []budget.Bound {
	var all []budget.Bound
	for _, b := range []struct {
		kind  budget.BoundKind
		value *intstr.IntOrString
	}{{budget.MinAvailable, spec.MinAvailable}, {budget.MaxUnavailable, spec.MaxUnavailable}} {
		if b.value == nil {
			continue
		}
		value, percent := b.value.IntValue(), b.value.Type == intstr.String
		if percent {
			// CEL has admitted nothing but a percentage.
			fmt.Sscanf(b.value.StrVal, "%d%%", &value)
		}
		all = append(all, budget.Bound{Kind: b.kind, Value: value, Percent: percent})
	}
	return all
}

// Selects reports whether the Service selects pods with these labels.
func Selects(service *corev1.Service, podLabels map[string]string) bool {
	return len(service.Spec.Selector) > 0 && labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(podLabels))
}
