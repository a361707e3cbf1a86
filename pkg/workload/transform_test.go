package workload

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// Owners and Services that informers have stripped answer as whole ones do.
func TestStrippedObjectsAnswerAlike(t *testing.T) {
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "large"}}}}
	db := service("db", "db")
	db.Annotations = map[string]string{"service.cilium.io/global": "true", lastApplied: strings.Repeat("x", 1000), v1alpha1.MaxUnavailableAnnotation: "1"}
	db.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
	db.Spec.Ports = []corev1.ServicePort{{Port: 80}}
	web, webSet := deployment("web", count(5)), replicaSet("web-1", "web", count(4))
	web.Spec.Template, webSet.Spec.Template, web.Generation = template, template, 7
	objects := []client.Object{
		db, web, webSet, budgetOf("b", "db"),
		&appsv1.StatefulSet{ObjectMeta: named("set", "set"), Spec: appsv1.StatefulSetSpec{Replicas: count(3), Template: template}},
		&appsv1.DaemonSet{ObjectMeta: named("ds", "ds"), Spec: appsv1.DaemonSetSpec{Template: template}, Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 7}},
		&corev1.ReplicationController{ObjectMeta: named("rc", "rc"), Spec: corev1.ReplicationControllerSpec{Replicas: count(2), Template: &template}},
	}
	var stripped []client.Object
	for _, o := range objects {
		s, err := strip(o.DeepCopyObject())
		if err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprintf("%+v", s); strings.Contains(text, "large") || strings.Contains(text, "kubectl") || strings.Contains(text, "xxx") {
			t.Errorf("%T keeps what nobody reads: %s", o, text)
		}
		if again := s.(client.Object); again.GetUID() != o.GetUID() || again.GetGeneration() != o.GetGeneration() || again.GetResourceVersion() != o.GetResourceVersion() {
			t.Errorf("%T: got %+v", o, s)
		}
		switch o.(type) {
		case *corev1.Service, *v1alpha1.MeshPodDisruptionBudget:
		default:
			if PodLabels(o)["app"] != "x" || PodLabels(s.(client.Object))["app"] != "x" {
				t.Errorf("%T: its pods' labels are lost", o)
			}
		}
		stripped = append(stripped, s.(client.Object))
	}
	pods := []corev1.Pod{
		podOf("a", "apps/v1", "ReplicaSet", "web-1"), podOf("b", "apps/v1", "StatefulSet", "set"),
		podOf("c", "apps/v1", "DaemonSet", "ds"), podOf("d", "v1", "ReplicationController", "rc"),
	}
	const want = "DaemonSet/ds=7 Deployment/web=5 ReplicationController/rc=2 StatefulSet/set=3"
	w := newWorkload(t, stripped...)
	if owners, err := w.Owners(t.Context(), "n", pods, nil); err != nil || spelled(owners) != want {
		t.Errorf("got %s %v", spelled(owners), err)
	}
	s, err := w.Service(t.Context(), budgetOf("b", "db"))
	if err != nil || !IsExported(s) || !Selects(s, map[string]string{"app": "db"}) || s.Annotations[v1alpha1.MaxUnavailableAnnotation] != "1" {
		t.Errorf("got %+v %v", s, err)
	}
}

// Budgets are written back: nothing may be taken off them.
func TestCacheOptionsLeaveBudgetsWhole(t *testing.T) {
	for o, options := range CacheOptions().ByObject {
		switch o.(type) {
		case *v1alpha1.MeshPodDisruptionBudget, *v1alpha1.DisruptionLedger:
			t.Errorf("%T is stripped", o)
		}
		if options.Transform == nil || options.UnsafeDisableDeepCopy == nil || !*options.UnsafeDisableDeepCopy {
			t.Errorf("%T is kept whole, or copied at each look", o)
		}
	}
	b := budgetOf("b", "db")
	b.Annotations = map[string]string{lastApplied: "x"}
	if kept, err := strip(b.DeepCopy()); err != nil || !reflect.DeepEqual(kept, b) {
		t.Errorf("got %+v %v", kept, err)
	}
}
