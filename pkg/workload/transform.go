package workload

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// lastApplied is where kubectl apply keeps a second copy of an object.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// CacheOptions say where informers begin ([NewInformer]) and what they keep: of
// owners and services only what is read here and by the controllers. None
// of them is ever written back. Their readers are handed the informers' own
// objects, and only read them. Budgets and ledgers are written back, so they
// stay whole.
func CacheOptions() cache.Options {
	return cache.Options{DefaultTransform: cache.TransformStripManagedFields(), ByObject: kept(), NewInformer: NewInformer}
}

func kept() map[client.Object]cache.ByObject {
	shared := true
	options := map[client.Object]cache.ByObject{}
	for _, o := range []client.Object{
		&corev1.Service{}, &appsv1.ReplicaSet{}, &appsv1.Deployment{}, &appsv1.StatefulSet{}, &appsv1.DaemonSet{}, &corev1.ReplicationController{},
		&corev1.Node{},
	} {
		options[o] = cache.ByObject{Transform: strip, UnsafeDisableDeepCopy: &shared}
	}
	return options
}

// strip reduces an object to what is read of it.
func strip(o any) (any, error) {
	switch o := o.(type) {
	case *corev1.Service:
		return &corev1.Service{ObjectMeta: identity(&o.ObjectMeta, true), Spec: corev1.ServiceSpec{Selector: o.Spec.Selector}}, nil
	case *appsv1.ReplicaSet:
		return &appsv1.ReplicaSet{ObjectMeta: identity(&o.ObjectMeta, false), Spec: appsv1.ReplicaSetSpec{Replicas: o.Spec.Replicas, Template: labelsOf(&o.Spec.Template)}}, nil
	case *appsv1.Deployment:
		return &appsv1.Deployment{ObjectMeta: identity(&o.ObjectMeta, false), Spec: appsv1.DeploymentSpec{Replicas: o.Spec.Replicas, Template: labelsOf(&o.Spec.Template)}}, nil
	case *appsv1.StatefulSet:
		return stripStatefulSet(o), nil
	case *appsv1.DaemonSet:
		return stripDaemonSet(o), nil
	case *corev1.Node:
		return stripNode(o), nil
	case *corev1.ReplicationController:
		spec := corev1.ReplicationControllerSpec{Replicas: o.Spec.Replicas}
		if o.Spec.Template != nil {
			template := labelsOf(o.Spec.Template)
			spec.Template = &template
		}
		return &corev1.ReplicationController{ObjectMeta: identity(&o.ObjectMeta, false), Spec: spec}, nil
	}
	return o, nil
}

// stripStatefulSet keeps what tells its scale, and whether a rolling update is unfinished.
func stripStatefulSet(o *appsv1.StatefulSet) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{
		ObjectMeta: identity(&o.ObjectMeta, false),
		Spec: appsv1.StatefulSetSpec{
			Replicas: o.Spec.Replicas, Template: labelsOf(&o.Spec.Template),
			UpdateStrategy: o.Spec.UpdateStrategy, PodManagementPolicy: o.Spec.PodManagementPolicy, Ordinals: o.Spec.Ordinals,
		},
		Status: appsv1.StatefulSetStatus{
			ObservedGeneration: o.Status.ObservedGeneration, CurrentRevision: o.Status.CurrentRevision, UpdateRevision: o.Status.UpdateRevision,
			Replicas: o.Status.Replicas, ReadyReplicas: o.Status.ReadyReplicas, UpdatedReplicas: o.Status.UpdatedReplicas,
		},
	}
}

// stripDaemonSet keeps what tells its scale, and whether a rolling update is unfinished.
func stripDaemonSet(o *appsv1.DaemonSet) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{
		ObjectMeta: identity(&o.ObjectMeta, false),
		Spec:       appsv1.DaemonSetSpec{Template: labelsOf(&o.Spec.Template), UpdateStrategy: o.Spec.UpdateStrategy},
		Status: appsv1.DaemonSetStatus{
			ObservedGeneration: o.Status.ObservedGeneration, DesiredNumberScheduled: o.Status.DesiredNumberScheduled,
			UpdatedNumberScheduled: o.Status.UpdatedNumberScheduled, NumberReady: o.Status.NumberReady,
		},
	}
}

// stripNode keeps what tells whether pods are to leave a node.
func stripNode(o *corev1.Node) *corev1.Node {
	n := &corev1.Node{ObjectMeta: identity(&o.ObjectMeta, false), Spec: corev1.NodeSpec{Taints: o.Spec.Taints, Unschedulable: o.Spec.Unschedulable}}
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.NodeReady {
			n.Status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	return n
}

// labelsOf keeps the labels that an owner gives its pods.
func labelsOf(template *corev1.PodTemplateSpec) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: template.Labels}}
}

// PodLabels returns the labels that an owner gives its pods.
func PodLabels(o client.Object) map[string]string {
	switch o := o.(type) {
	case *appsv1.ReplicaSet:
		return o.Spec.Template.Labels
	case *appsv1.Deployment:
		return o.Spec.Template.Labels
	case *appsv1.StatefulSet:
		return o.Spec.Template.Labels
	case *appsv1.DaemonSet:
		return o.Spec.Template.Labels
	case *corev1.ReplicationController:
		if o.Spec.Template != nil {
			return o.Spec.Template.Labels
		}
	}
	return nil
}

// identity is what names an object, its generation and its controller, and
// either all annotations or the one that tells when it was kicked.
func identity(m *metav1.ObjectMeta, annotations bool) metav1.ObjectMeta {
	kept := metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, Generation: m.Generation,
		DeletionTimestamp: m.DeletionTimestamp,
	}
	if ref := metav1.GetControllerOf(m); ref != nil {
		kept.OwnerReferences = []metav1.OwnerReference{*ref}
	}
	if !annotations {
		if at, kicked := m.Annotations[v1alpha1.KickedAtAnnotation]; kicked {
			kept.Annotations = map[string]string{v1alpha1.KickedAtAnnotation: at}
		}
		return kept
	}
	for name, value := range m.Annotations {
		if name == lastApplied {
			continue
		}
		if kept.Annotations == nil {
			kept.Annotations = map[string]string{}
		}
		kept.Annotations[name] = value
	}
	return kept
}
