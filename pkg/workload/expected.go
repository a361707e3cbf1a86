package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// Owners returns who asks for the given pods and how many each asks for,
// sorted. known are the owners as remembered: one that vanished keeps its last
// count until another one appears, one that was scaled to zero is believed.
// Bare pods have no owner; they ask for themselves.
//
// A *Problem means that the count cannot be known.
func (w *Workload) Owners(ctx context.Context, namespace string, pods []corev1.Pod, known []v1alpha1.OwnerStatus) ([]v1alpha1.OwnerStatus, error) {
	live := map[ownerKey]int32{}
	// Most pods of a budget have the same owner.
	asked := map[types.UID]bool{}
	for i := range pods {
		ref := metav1.GetControllerOfNoCopy(&pods[i])
		if ref == nil {
			if !IsTerminal(&pods[i]) {
				live[ownerKey{apiVersion: "v1", kind: podKind, name: pods[i].Name}] = 1
			}
			continue
		}
		if ref.UID != "" && asked[ref.UID] {
			continue
		}
		asked[ref.UID] = true
		key, count, found, err := w.root(ctx, namespace, ref)
		if err != nil {
			return nil, err
		}
		if found {
			live[key] = count
		}
	}
	vanished := map[ownerKey]int32{}
	appeared := false
	for key := range live {
		appeared = appeared || key.kind != podKind && !slices.ContainsFunc(known, func(o v1alpha1.OwnerStatus) bool {
			return keyOf(o) == key && !o.Vanished
		})
	}
	for _, o := range known {
		key := keyOf(o)
		if _, ok := live[key]; ok || o.Kind == podKind {
			continue
		}
		// Its pods are gone, but it may live on with a scale of zero or with pods yet to come.
		_, count, found, err := w.root(ctx, namespace, &metav1.OwnerReference{APIVersion: o.APIVersion, Kind: o.Kind, Name: o.Name})
		var problem *Problem
		switch {
		case errors.As(err, &problem):
			vanished[key] = o.ExpectedPods
		case err != nil:
			return nil, err
		case found:
			live[key] = count
			// It is back, though its pods are yet to come.
			appeared = appeared || o.Vanished
		default:
			vanished[key] = o.ExpectedPods
		}
	}
	owners := make([]v1alpha1.OwnerStatus, 0, len(live)+len(vanished))
	for key, count := range live {
		owners = append(owners, v1alpha1.OwnerStatus{APIVersion: key.apiVersion, Kind: key.kind, Name: key.name, ExpectedPods: count})
	}
	if !appeared {
		owners = withVanished(owners, vanished)
	}
	slices.SortFunc(owners, func(a, b v1alpha1.OwnerStatus) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return owners, nil
}

const podKind = "Pod"

// withVanished adds the owners that vanished. Pods that one of them left
// behind (deleted with --cascade=orphan) are those it asked for, not more.
func withVanished(owners []v1alpha1.OwnerStatus, vanished map[ownerKey]int32) []v1alpha1.OwnerStatus {
	var held int32
	for _, count := range vanished {
		held += count
	}
	owners = slices.DeleteFunc(owners, func(o v1alpha1.OwnerStatus) bool {
		if o.Kind != podKind || held == 0 {
			return false
		}
		held--
		return true
	})
	for key, count := range vanished {
		owners = append(owners, v1alpha1.OwnerStatus{APIVersion: key.apiVersion, Kind: key.kind, Name: key.name, ExpectedPods: count, Vanished: true})
	}
	return owners
}

// Expected sums what the owners ask for.
func Expected(owners []v1alpha1.OwnerStatus) int {
	sum := 0
	for _, o := range owners {
		sum += int(o.ExpectedPods)
	}
	return sum
}

type ownerKey struct{ apiVersion, kind, name string }

func keyOf(o v1alpha1.OwnerStatus) ownerKey {
	return ownerKey{apiVersion: o.APIVersion, kind: o.Kind, name: o.Name}
}

// root finds the owner whose scale counts: a Deployment behind a ReplicaSet,
// as Kubernetes' disruption controller does (pkg/controller/disruption).
func (w *Workload) root(ctx context.Context, namespace string, ref *metav1.OwnerReference) (ownerKey, int32, bool, error) {
	key := ownerKey{apiVersion: ref.APIVersion, kind: ref.Kind, name: ref.Name}
	name := types.NamespacedName{Namespace: namespace, Name: ref.Name}
	read := func(o client.Object) (bool, error) {
		err := w.Cached.Get(ctx, name, o)
		if apierrors.IsNotFound(err) || err == nil && ref.UID != "" && o.GetUID() != ref.UID {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read %s %s: %w", ref.Kind, name, err)
		}
		return true, nil
	}
	switch ref.APIVersion + " " + ref.Kind {
	case "apps/v1 ReplicaSet":
		var rs appsv1.ReplicaSet
		found, err := read(&rs)
		if err != nil || !found {
			return key, 0, found, err
		}
		if up := metav1.GetControllerOf(&rs); up != nil && up.Kind == "Deployment" {
			return w.root(ctx, namespace, up)
		}
		return key, replicas(rs.Spec.Replicas), true, nil
	case "apps/v1 Deployment":
		var d appsv1.Deployment
		found, err := read(&d)
		return key, replicas(d.Spec.Replicas), found, err
	case "apps/v1 StatefulSet":
		var s appsv1.StatefulSet
		found, err := read(&s)
		return key, replicas(s.Spec.Replicas), found, err
	case "apps/v1 DaemonSet":
		var d appsv1.DaemonSet
		found, err := read(&d)
		return key, d.Status.DesiredNumberScheduled, found, err
	case "v1 ReplicationController":
		var rc corev1.ReplicationController
		found, err := read(&rc)
		return key, replicas(rc.Spec.Replicas), found, err
	}
	return w.scale(ctx, namespace, ref)
}

// Watched reports whether informers tell of the scale of owners of a kind.
func Watched(apiVersion, kind string) bool {
	switch apiVersion + " " + kind {
	case "v1 Pod", "apps/v1 ReplicaSet", "apps/v1 Deployment", "apps/v1 StatefulSet", "apps/v1 DaemonSet", "v1 ReplicationController":
		return true
	}
	return false
}

func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// scale asks the scale subresource of any other kind of owner.
func (w *Workload) scale(ctx context.Context, namespace string, ref *metav1.OwnerReference) (ownerKey, int32, bool, error) {
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	key := ownerKey{apiVersion: ref.APIVersion, kind: ref.Kind, name: ref.Name}
	live, ok := w.Live.(client.Client)
	if !ok {
		return key, 0, false, &Problem{v1alpha1.ReasonOwnerUnknown, fmt.Sprintf("the scale of owner %s %s cannot be read", gvk.Kind, ref.Name)}
	}
	owner := &unstructured.Unstructured{}
	owner.SetGroupVersionKind(gvk)
	owner.SetNamespace(namespace)
	owner.SetName(ref.Name)
	// Of an owner whose kind is known by name alone, the client reads nothing that is typed.
	scale := &unstructured.Unstructured{}
	err := live.SubResource("scale").Get(ctx, owner, scale)
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || meta.IsNoMatchError(err) {
		// Gone, or without a scale: either way nobody can say how many pods there should be.
		return key, 0, false, &Problem{v1alpha1.ReasonOwnerUnknown, fmt.Sprintf("owner %s %s/%s tells no scale: meshpdb counts Deployments, ReplicaSets, StatefulSets, DaemonSets and kinds with a readable scale subresource", gvk.Kind, namespace, ref.Name)}
	}
	if err != nil {
		return key, 0, false, fmt.Errorf("read scale of %s %s/%s: %w", gvk.Kind, namespace, ref.Name, err)
	}
	// Absent is 0, as everywhere in JSON of this API.
	count, _, err := unstructured.NestedInt64(scale.Object, "spec", "replicas")
	if err != nil || count < 0 || count > math.MaxInt32 {
		return key, 0, false, &Problem{v1alpha1.ReasonOwnerUnknown, fmt.Sprintf("the scale of owner %s %s/%s tells no number of replicas", gvk.Kind, namespace, ref.Name)}
	}
	return key, int32(count), true, nil
}
