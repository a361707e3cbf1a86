package workload

import (
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

func TestFacts(t *testing.T) {
	node, set := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}, &appsv1.DaemonSet{ObjectMeta: named("agent", "ds")}
	alive, going := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "going", Finalizers: []string{"kubernetes"}}}
	now := metav1.Now()
	going.DeletionTimestamp = &now
	w, ctx := newWorkload(t, node, set, alive, going), t.Context()
	if n, err := w.Node(ctx, "node1"); err != nil || n == nil || n.Name != "node1" {
		t.Errorf("node: %v, %v", n, err)
	}
	if n, err := w.Node(ctx, "gone"); err != nil || n != nil {
		t.Errorf("a node that is gone: %v, %v", n, err)
	}
	if s, err := w.DaemonSet(ctx, "n", "agent"); err != nil || s == nil || s.UID != "ds" {
		t.Errorf("daemonset: %v, %v", s, err)
	}
	if s, err := w.DaemonSet(ctx, "n", "gone"); err != nil || s != nil {
		t.Errorf("a daemonset that is gone: %v, %v", s, err)
	}
	for name, want := range map[string]bool{"n": false, "going": true, "unknown": false} {
		if got := w.Terminating(ctx, name); got != want {
			t.Errorf("namespace %s terminates: %t", name, got)
		}
	}
	w.Live, w.Cached = broken(t), broken(t)
	_, nodeErr := w.Node(ctx, "node1")
	_, setErr := w.DaemonSet(ctx, "n", "agent")
	_, nativeErr := w.NativeBudgets(ctx, labelled("db-0", "db"))
	if nodeErr == nil || setErr == nil || nativeErr == nil || w.Terminating(ctx, "going") {
		t.Errorf("what cannot be read: %v, %v, %v", nodeErr, setErr, nativeErr)
	}
}

func TestNativeBudgets(t *testing.T) {
	native := func(name string, selector *metav1.LabelSelector) *policyv1.PodDisruptionBudget {
		return &policyv1.PodDisruptionBudget{ObjectMeta: named(name, ""), Spec: policyv1.PodDisruptionBudgetSpec{Selector: selector}}
	}
	pod := labelled("db-0", "db")
	elsewhere := native("elsewhere", &metav1.LabelSelector{})
	elsewhere.Namespace = "other"
	w := newWorkload(t,
		native("own", &metav1.LabelSelector{MatchLabels: pod.Labels}),
		native("everything", &metav1.LabelSelector{}),
		native("nothing", nil),
		native("another", &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}),
		native("invalid", &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: "Resembles"}}}),
		elsewhere,
	)
	found, err := w.NativeBudgets(t.Context(), pod)
	var names []string
	for _, b := range found {
		names = append(names, b.Name)
	}
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"everything", "own"}) {
		t.Errorf("got %v, %v", names, err)
	}
}

// That somebody wants the glass broken is known from memory: such a pod must not
// be refused before he is asked who he is.
func TestRecordsKeepTheWishToBreakTheGlass(t *testing.T) {
	pod := labelled("db-0", "db")
	plain := compact(pod)
	pod.Annotations = map[string]string{v1alpha1.BreakGlassAnnotation: "fire"}
	wished := compact(pod)
	if plain.same(wished) {
		t.Error("the wish is no news")
	}
	if _, wish := plain.pod().Annotations[v1alpha1.BreakGlassAnnotation]; wish {
		t.Error("a wish that nobody has")
	}
	if _, wish := wished.pod().Annotations[v1alpha1.BreakGlassAnnotation]; !wish {
		t.Error("the wish is lost")
	}
}
