package workload

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

// runningOn is an available pod of app db on node n1, changed.
func runningOn(namespace, name string, changes ...func(*corev1.Pod)) *corev1.Pod {
	p := labelled(name, "db")
	p.Namespace, p.UID, p.Spec.NodeName = namespace, types.UID(namespace+"/"+name), "n1"
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	for _, change := range changes {
		change(p)
	}
	return p
}

// of gives a pod a controller.
func of(kind, name string, uid types.UID) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.ObjectMeta = ownedBy(p.ObjectMeta, "apps/v1", kind, name, uid) }
}

// hashed gives a pod the label of its ReplicaSet's hash.
func hashed(hash string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash }
}

func in[O client.Object](namespace string, o O) O {
	o.SetNamespace(namespace)
	return o
}

// newDependents of cluster c1 has budget db in the namespaces n, other and kube-system, where Service db selects app=db.
func newDependents(t *testing.T, objects ...client.Object) *Dependents {
	t.Helper()
	for _, namespace := range []string{"n", "other", "kube-system"} {
		objects = append(objects, in(namespace, service("db", "db")), in(namespace, budgetOf("db", "db")))
	}
	return dependentsOf(t, objects...)
}

func dependentsOf(t *testing.T, objects ...client.Object) *Dependents {
	t.Helper()
	var namespaces []client.Object
	for _, o := range objects {
		if n, ok := o.(*corev1.Namespace); ok {
			namespaces = append(namespaces, n)
		}
	}
	cached := fake.NewClientBuilder().WithScheme(newScheme(t)).WithObjects(namespaces...).Build()
	return &Dependents{
		Workload: &Workload{Cached: cached, Coverage: listedCoverage(objects...)}, Running: listedPods(t, objects...),
		Cluster: "c1", Protected: []string{"kube-system"},
	}
}

// lost spells a Loss as "total: namespace/budget pods …".
func lost(t *testing.T, loss Loss, err error) string {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
	text := fmt.Sprintf("%d:", loss.Pods)
	for _, b := range loss.Budgets {
		text += fmt.Sprintf(" %s/%s %d", b.Budget.Namespace, b.Budget.Name, b.Pods)
	}
	return text
}

func TestDependentsOfNode(t *testing.T) {
	elsewhere := budgetOf("elsewhere", "db")
	elsewhere.Spec.Clusters = []string{"c2", "c3"}
	leaving := budgetOf("leaving", "db")
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	suspended := budgetOf("suspended", "db")
	suspended.Spec.Suspend = true
	here := budgetOf("here", "ha")
	here.Spec.Clusters = []string{"c2", "c1"}
	ha := service("ha", "db")
	ha.Spec.Selector["ha"] = "yes"
	deleted := metav1.Unix(1, 0)
	all := []client.Object{
		elsewhere, leaving, suspended, here, ha,
		runningOn("n", "a"), runningOn("other", "a"), runningOn("other", "b"),
		// Covered by two budgets, it is one pod.
		runningOn("n", "both", func(p *corev1.Pod) { p.Labels["ha"] = "yes" }),
		runningOn("n", "elsewhere", func(p *corev1.Pod) { p.Spec.NodeName = "n2" }),
		runningOn("n", "uncovered", func(p *corev1.Pod) { p.Labels["app"] = "web" }),
		runningOn("n", "unready", func(p *corev1.Pod) { p.Status.Conditions = nil }),
		runningOn("n", "failed", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }),
		runningOn("n", "succeeded", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
		runningOn("n", "terminating", func(p *corev1.Pod) { p.DeletionTimestamp = &deleted }),
		runningOn("n", "mirror", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: ""} }),
		runningOn("kube-system", "dns"), runningOn("unbudgeted", "x"),
	}
	d := newDependents(t, all...)
	for node, want := range map[string]string{"n1": "4: n/db 2 n/here 1 other/db 2", "n2": "1: n/db 1", "n3": "0:"} {
		loss, err := d.OfNode(t.Context(), node)
		if got := lost(t, loss, err); got != want {
			t.Errorf("%s takes %q, want %q", node, got, want)
		}
	}
	// What goes anyway is no loss.
	d = newDependents(t, append(all, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n", DeletionTimestamp: &deleted, Finalizers: []string{"kubernetes"}}})...)
	loss, err := d.OfNode(t.Context(), "n1")
	if got, want := lost(t, loss, err), "2: other/db 2"; got != want {
		t.Errorf("with a terminating namespace it takes %q, want %q", got, want)
	}
}

func TestDependentsOfNamespace(t *testing.T) {
	d := newDependents(t, runningOn("n", "a"), runningOn("other", "a"), runningOn("other", "b"), runningOn("kube-system", "dns"))
	for namespace, want := range map[string]string{"n": "1: n/db 1", "other": "2: other/db 2", "kube-system": "0:", "unknown": "0:"} {
		loss, err := d.OfNamespace(t.Context(), namespace)
		if got := lost(t, loss, err); got != want {
			t.Errorf("%s takes %q, want %q", namespace, got, want)
		}
	}
}

func TestDependentsOfOwner(t *testing.T) {
	long := strings.Repeat("d", 250)
	d := newDependents(t,
		runningOn("n", "d1", of("ReplicaSet", "db-1a", "rs1"), hashed("1a")),
		runningOn("n", "d2", of("ReplicaSet", "db-2b", "rs2"), hashed("2b")),
		runningOn("n", "d3", of("ReplicaSet", "db-replica-1a", "rs3"), hashed("1a")),
		runningOn("n", "d4", of("ReplicaSet", "db", "rs4")),
		runningOn("n", "d5", of("ReplicaSet", long[:244]+"-1234abcd", "rs5"), hashed("1234abcd")),
		runningOn("n", "s1", of("StatefulSet", "db", "ss1")),
		runningOn("n", "s2", of("StatefulSet", "db-1a", "ss2"), hashed("1a")),
		runningOn("n", "bare"),
		runningOn("other", "d1", of("ReplicaSet", "db-1a", "rs9"), hashed("1a")),
	)
	for _, c := range []struct {
		owner Owner
		want  string
	}{
		{Owner{"Deployment", "n", "db", "dep"}, "2: n/db 2"},
		{Owner{"Deployment", "n", "db-replica", "dep"}, "1: n/db 1"},
		{Owner{"Deployment", "n", long, "dep"}, "1: n/db 1"},
		{Owner{"Deployment", "other", "db", "dep"}, "1: other/db 1"},
		{Owner{"Deployment", "n", "replica", "dep"}, "0:"},
		{Owner{"ReplicaSet", "n", "db-1a", "rs1"}, "1: n/db 1"},
		{Owner{"StatefulSet", "n", "db", "ss1"}, "1: n/db 1"},
		// Its predecessor of the same name had pods, this one has none.
		{Owner{"StatefulSet", "n", "db", "new"}, "0:"},
	} {
		loss, err := d.OfOwner(t.Context(), c.owner)
		if got := lost(t, loss, err); got != c.want {
			t.Errorf("%v takes %q, want %q", c.owner, got, c.want)
		}
	}
}

// What is not known must not look like nothing.
func TestDependentsUnknown(t *testing.T) {
	unheard := newDependents(t)
	unheard.Coverage = NewCoverage()
	blind := newDependents(t)
	blind.Running = unlisted()
	for name, d := range map[string]*Dependents{"budgets": unheard, "pods": blind} {
		for what, ask := range map[string]func(context.Context, string) (Loss, error){
			"node": func(ctx context.Context, _ string) (Loss, error) { return d.OfNode(ctx, "n1") }, "namespace": d.OfNamespace,
		} {
			if loss, err := ask(t.Context(), "n"); !errors.Is(err, errNotListed) {
				t.Errorf("without %s, a %s takes %+v (%v)", name, what, loss, err)
			}
		}
	}
}

// BenchmarkDependentsOfNode asks for one of 1,000 nodes among 100,000 pods in 100 namespaces, all of which hold a budget.
func BenchmarkDependentsOfNode(b *testing.B) {
	var objects []client.Object
	for n := range 100 {
		namespace := fmt.Sprint("n", n)
		objects = append(objects, in(namespace, service("db", "db")), in(namespace, budgetOf("db", "db")))
		for i := range 1000 {
			objects = append(objects, runningOn(namespace, fmt.Sprint("db-", i), func(p *corev1.Pod) { p.Spec.NodeName = fmt.Sprint("node", i) }))
		}
	}
	d := &Dependents{Workload: &Workload{Coverage: listedCoverage(objects...), Cached: nothing{}}, Running: listedPods(b, objects...), Cluster: "c1"}
	b.ReportAllocs()
	for b.Loop() {
		loss, err := d.OfNode(b.Context(), "node7")
		if err != nil || loss.Pods != 100 || len(loss.Budgets) != 100 {
			b.Fatal(loss, err)
		}
	}
}

// nothing is a reader that finds whatever it is asked for, unchanged.
type nothing struct{ client.Reader }

func (nothing) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return nil
}
