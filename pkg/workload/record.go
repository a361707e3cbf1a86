package workload

import (
	"maps"
	"slices"
	"strings"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// record is what decisions need of a pod: about 400 bytes, where a corev1.Pod
// takes several thousand. What many pods have in common they share.
type record struct {
	namespace unique.Handle[string]
	node      unique.Handle[string]
	phase     unique.Handle[string]
	owner     unique.Handle[owner]
	// tolerations of NoExecute taints; most pods have the same ones.
	tolerations unique.Handle[string]
	name        string
	uid         string
	version     string
	// labels in one string, a zero byte after each key and each value: the
	// collector has nothing to follow, and no map is kept.
	labels string
	// ips are separated by commas.
	ips string
	// deleted is the deletionTimestamp in seconds, 0 if there is none.
	deleted       int64
	ready, mirror bool
	// glass: somebody wants the pod to go in spite of its budgets.
	glass bool
}

// owner is a pod's controller; the zero value is none.
type owner struct{ apiVersion, kind, name, uid string }

func compact(pod *corev1.Pod) *record {
	r := &record{
		namespace: unique.Make(pod.Namespace), node: unique.Make(pod.Spec.NodeName), phase: unique.Make(string(pod.Status.Phase)),
		name: pod.Name, uid: string(pod.UID), version: pod.ResourceVersion,
		labels: joinLabels(pod.Labels), ready: IsReady(pod), mirror: IsMirror(pod), glass: pod.Annotations[v1alpha1.BreakGlassAnnotation] != "",
		tolerations: unique.Make(joinTolerations(pod.Spec.Tolerations)),
	}
	var controller owner
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		controller = owner{apiVersion: ref.APIVersion, kind: ref.Kind, name: ref.Name, uid: string(ref.UID)}
	}
	r.owner = unique.Make(controller)
	addresses := make([]string, 0, len(pod.Status.PodIPs))
	for _, ip := range pod.Status.PodIPs {
		addresses = append(addresses, ip.IP)
	}
	r.ips = strings.Join(addresses, ",")
	if pod.DeletionTimestamp != nil {
		r.deleted = pod.DeletionTimestamp.Unix()
	}
	return r
}

// pod is the corev1.Pod of a record, with nothing else in it.
func (r *record) pod() *corev1.Pod {
	pod := &corev1.Pod{}
	r.fill(pod)
	pod.Labels = splitLabels(r.labels)
	pod.Spec.Tolerations = splitTolerations(r.tolerations.Value())
	return pod
}

// fill puts into a pod what the record holds, except for the labels and the tolerations.
func (r *record) fill(pod *corev1.Pod) {
	pod.ObjectMeta = metav1.ObjectMeta{Namespace: r.namespace.Value(), Name: r.name, UID: types.UID(r.uid), ResourceVersion: r.version}
	pod.Spec.NodeName = r.node.Value()
	pod.Status.Phase = corev1.PodPhase(r.phase.Value())
	if r.ready {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	if r.mirror {
		pod.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: ""}
	}
	if r.glass {
		// Whether is known here, why is not.
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[v1alpha1.BreakGlassAnnotation] = ""
	}
	if o := r.owner.Value(); o != (owner{}) {
		controls := true
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: o.apiVersion, Kind: o.kind, Name: o.name, UID: types.UID(o.uid), Controller: &controls}}
	}
	if r.ips != "" {
		for ip := range strings.SplitSeq(r.ips, ",") {
			pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: ip})
		}
		pod.Status.PodIP = pod.Status.PodIPs[0].IP
	}
	if r.deleted != 0 {
		pod.DeletionTimestamp = &metav1.Time{Time: time.Unix(r.deleted, 0)}
	}
}

// same reports whether nothing that matters differs. Most updates of a pod are
// like that.
func (r *record) same(other *record) bool {
	a, b := *r, *other
	a.version, b.version = "", ""
	return a == b
}

// matches reports whether the record has all pairs of a selector.
func (r *record) matches(selector map[string]string) bool {
	found := 0
	for key, value := range eachLabel(r.labels) {
		if want, selected := selector[key]; selected && want == value {
			found++
		}
	}
	return found == len(selector)
}

func (r *record) label(key string) (string, bool) {
	for k, v := range eachLabel(r.labels) {
		if k == key {
			return v, true
		}
	}
	return "", false
}

func joinLabels(labels map[string]string) string {
	var size int
	for k, v := range labels {
		size += len(k) + len(v) + 2
	}
	var b strings.Builder
	b.Grow(size)
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		b.WriteString(k)
		b.WriteByte(0)
		b.WriteString(labels[k])
		b.WriteByte(0)
	}
	return b.String()
}

// eachLabel yields the pairs of joined labels.
func eachLabel(joined string) func(yield func(key, value string) bool) {
	return func(yield func(string, string) bool) {
		for len(joined) > 0 {
			key, rest, _ := strings.Cut(joined, "\x00")
			value, after, _ := strings.Cut(rest, "\x00")
			if !yield(key, value) {
				return
			}
			joined = after
		}
	}
}

func splitLabels(joined string) map[string]string {
	if joined == "" {
		return nil
	}
	labels := make(map[string]string, strings.Count(joined, "\x00")/2)
	for key, value := range eachLabel(joined) {
		labels[key] = value
	}
	return labels
}

// A record stands in for its pod in client-go's stores and lists.

// GetObjectKind implements runtime.Object.
func (r *record) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object. Records never change.
func (r *record) DeepCopyObject() runtime.Object { return r }

// recordList is a list of pods as records.
type recordList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []*record
}

// DeepCopyObject implements runtime.Object.
func (l *recordList) DeepCopyObject() runtime.Object { return l }
