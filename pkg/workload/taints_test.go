package workload

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

func tainted(status corev1.ConditionStatus, taints ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionTrue}, {Type: corev1.NodeReady, Status: status}},
	}}
	for _, t := range taints {
		key, effect, _ := strings.Cut(t, ":")
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffect(effect)})
	}
	return n
}

func TestEvicting(t *testing.T) {
	going := tainted(corev1.ConditionTrue, "a:NoExecute")
	going.DeletionTimestamp = &metav1.Time{}
	for name, c := range map[string]struct {
		node *corev1.Node
		want string
	}{
		"none":                {tainted(corev1.ConditionTrue), ""},
		"those that evict":    {tainted(corev1.ConditionTrue, "a:NoExecute", "b:NoSchedule", "c:PreferNoSchedule", "d:NoExecute"), "a d"},
		"of a failed node":    {tainted(corev1.ConditionUnknown, "a:NoExecute"), ""},
		"of a broken node":    {tainted(corev1.ConditionFalse, "a:NoExecute"), ""},
		"of no condition":     {&corev1.Node{Spec: tainted("", "a:NoExecute").Spec}, ""},
		"of a node that goes": {going, ""},
		"beside a failure's":  {tainted(corev1.ConditionTrue, corev1.TaintNodeNotReady+":NoExecute", corev1.TaintNodeUnreachable+":NoExecute", corev1.TaintNodeOutOfService+":NoExecute", "a:NoExecute"), "a"},
	} {
		var keys []string
		for _, taint := range Evicting(c.node) {
			keys = append(keys, taint.Key)
		}
		if got := strings.Join(keys, " "); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		s, err := strip(c.node)
		if err != nil || !equality.Semantic.DeepEqual(Evicting(s.(*corev1.Node)), Evicting(c.node)) {
			t.Errorf("%s, stripped: got %+v %v", name, s, err)
		}
	}
}

// Listeners are told of what changes in the index, and of nothing else that happens to nodes.
func TestTaintsFollowNodes(t *testing.T) {
	informers := &informertest.FakeInformers{Scheme: newScheme(t)}
	index := NewTaints()
	if index.Synced() == nil {
		t.Error("it follows nothing yet")
	}
	if err := index.Follow(t.Context(), informers); err != nil {
		t.Fatal(err)
	}
	if err := index.Synced(); err != nil {
		t.Error(err)
	}
	var told []string
	index.OnChange(func(node string) { told = append(told, fmt.Sprintf("%s:%d", node, len(index.Of(node)))) })
	nodes, err := informers.FakeInformerFor(t.Context(), &corev1.Node{})
	if err != nil {
		t.Fatal(err)
	}
	before := tainted(corev1.ConditionTrue)
	nodes.Add(before)
	for _, after := range []*corev1.Node{
		tainted(corev1.ConditionTrue, "a:NoExecute"),
		tainted(corev1.ConditionTrue, "a:NoExecute", "b:NoSchedule"),
		tainted(corev1.ConditionUnknown, "a:NoExecute"),
		tainted(corev1.ConditionTrue, "a:NoExecute", "b:NoExecute"),
	} {
		nodes.Update(before, after)
		before = after
	}
	nodes.Delete(before)
	if want := []string{"n1:1", "n1:0", "n1:2", "n1:0"}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	if len(index.nodes) > 0 {
		t.Errorf("it still holds %v", index.nodes)
	}
}

func TestTolerationsAreKept(t *testing.T) {
	minute, negative := int64(60), int64(-1)
	all := []corev1.Toleration{
		{Key: "a", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &minute},
		{Key: "b", Operator: corev1.TolerationOpEqual, Value: "v"},
		{Key: "c", Effect: corev1.TaintEffectNoSchedule},
		{Operator: corev1.TolerationOpExists, TolerationSeconds: &negative},
		{},
	}
	want := slices.Delete(slices.Clone(all), 2, 3)
	for i := range want {
		want[i].Effect = corev1.TaintEffectNoExecute
	}
	pod := fullPod()
	pod.Spec.Tolerations = all
	r := compact(pod)
	if got := r.pod().Spec.Tolerations; !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if other := compact(fullPod()); r.same(other) || other.pod().Spec.Tolerations != nil {
		t.Error("a pod without tolerations looks the same")
	}
}

func TestPodsOnANode(t *testing.T) {
	elsewhere, unbound := labelled("p2", "db"), labelled("p3", "db")
	elsewhere.Spec.NodeName = "n2"
	a, b := labelled("p0", "db"), labelled("p1", "web")
	a.Spec.NodeName, b.Spec.NodeName = "n1", "n1"
	p := listedPods(t, a, b, elsewhere, unbound)
	var found []string
	p.OnNode("n1", func(namespace string, labels map[string]string) { found = append(found, namespace+"/"+labels["app"]) })
	if slices.Sort(found); !slices.Equal(found, []string{"n/db", "n/web"}) {
		t.Errorf("got %v", found)
	}
}

// What tells that an owner has not finished is kept of it.
func TestStrippedOwnersKeepTheirProgress(t *testing.T) {
	partition := int32(2)
	set := &appsv1.StatefulSet{ObjectMeta: named("set", "set"), Spec: appsv1.StatefulSetSpec{
		Replicas: count(3), PodManagementPolicy: appsv1.ParallelPodManagement, Ordinals: &appsv1.StatefulSetOrdinals{Start: 1},
		UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: &partition}},
	}, Status: appsv1.StatefulSetStatus{ObservedGeneration: 1, CurrentRevision: "a", UpdateRevision: "b", Replicas: 2, ReadyReplicas: 3, UpdatedReplicas: 4}}
	daemons := &appsv1.DaemonSet{ObjectMeta: named("ds", "ds"), Spec: appsv1.DaemonSetSpec{UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}},
		Status: appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: 2, UpdatedNumberScheduled: 3, NumberReady: 4}}
	if got := stripStatefulSet(set); !equality.Semantic.DeepEqual(got.Spec, set.Spec) || !equality.Semantic.DeepEqual(got.Status, set.Status) {
		t.Errorf("got %+v", got)
	}
	set.Annotations = map[string]string{v1alpha1.KickedAtAnnotation: "x", lastApplied: "y"}
	if got := stripStatefulSet(set).Annotations; len(got) != 1 || got[v1alpha1.KickedAtAnnotation] != "x" {
		t.Errorf("annotations %v", got)
	}
	if got := stripDaemonSet(daemons); !equality.Semantic.DeepEqual(got.Spec, daemons.Spec) || !equality.Semantic.DeepEqual(got.Status, daemons.Status) {
		t.Errorf("got %+v", got)
	}
}
