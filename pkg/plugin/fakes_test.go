package plugin

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files anew")

// noon is the time of all tests.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func before(d time.Duration) metav1.Time { return metav1.NewTime(noon.Add(-d)) }

// fleet is clusters on fake clientsets; the first is that of the current context.
type fleet struct {
	order    []string
	clusters map[string]*Cluster
	// terminal that the output goes to.
	terminal bool
	// evictions that were asked for, as "context namespace/pod".
	evictions []string
	// answers to dry-run evictions, by "namespace/pod"; nil lets go.
	answers map[string]error
	// stdin of calls, and where golden files are if not in testdata.
	stdin, testdata string
}

func newFleet(t *testing.T, contexts ...string) *fleet {
	t.Helper()
	f := &fleet{order: contexts, clusters: map[string]*Cluster{}, answers: map[string]error{}}
	for _, name := range contexts {
		f.add(t, name)
	}
	return f
}

func (f *fleet) Open(name string) (*Cluster, error) {
	if name == "" {
		name = f.order[0]
	}
	if c, ok := f.clusters[name]; ok {
		return c, nil
	}
	return nil, fmt.Errorf("context %q does not exist", name)
}

// add makes a cluster of the objects; budgets go to where budgets are.
func (f *fleet) add(t *testing.T, name string, objects ...runtime.Object) *Cluster {
	t.Helper()
	scheme := runtime.NewScheme()
	var budgets, others []runtime.Object
	for _, o := range objects {
		if l, ok := o.(*v1alpha1.DisruptionLedger); ok {
			content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(l)
			if err != nil {
				t.Fatal(err)
			}
			ledger := &unstructured.Unstructured{Object: content}
			ledger.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("DisruptionLedger"))
			budgets = append(budgets, ledger)
			continue
		}
		b, ok := o.(*v1alpha1.MeshPodDisruptionBudget)
		if !ok {
			others = append(others, o)
			continue
		}
		b.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "MeshPodDisruptionBudget"}
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(b)
		if err != nil {
			t.Fatal(err)
		}
		budgets = append(budgets, &unstructured.Unstructured{Object: content})
	}
	kube := kubefake.NewClientset(others...)
	// The fake knows no field selectors.
	kube.PrependReactor("list", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		list := &corev1.PodList{}
		restrictions := action.(clienttesting.ListAction).GetListRestrictions()
		for _, o := range others {
			pod, ok := o.(*corev1.Pod)
			if ok && (action.GetNamespace() == "" || action.GetNamespace() == pod.Namespace) &&
				restrictions.Fields.Matches(fields.Set{"spec.nodeName": pod.Spec.NodeName}) && restrictions.Labels.Matches(labelsOf(pod)) {
				list.Items = append(list.Items, *pod)
			}
		}
		return true, list, nil
	})
	f.clusters[name] = &Cluster{
		Context: name, Namespace: "prod", Kube: kube,
		Dynamic: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(scheme, map[schema.GroupVersionResource]string{budgetResource: "MeshPodDisruptionBudgetList"}, budgets...),
		DryRunEvict: func(_ context.Context, namespace, pod string) error {
			f.evictions = append(f.evictions, name+" "+namespace+"/"+pod)
			return f.answers[namespace+"/"+pod]
		},
	}
	return f.clusters[name]
}

type labelSet map[string]string

func (l labelSet) Has(key string) bool { _, ok := l[key]; return ok }

func (l labelSet) Get(key string) string { return l[key] }

func (l labelSet) Lookup(key string) (string, bool) { v, ok := l[key]; return v, ok }

func labelsOf(pod *corev1.Pod) labelSet { return pod.Labels }

// call runs the command as main does, and returns all that a person would see.
func (f *fleet) call(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := NewCommand(Config{
		IOStreams: genericiooptions.IOStreams{In: strings.NewReader(f.stdin), Out: &out, ErrOut: &errOut},
		Clusters:  f, Now: func() time.Time { return noon }, Version: "v0.1.0", Terminal: f.terminal,
	})
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	code, told := CodeOf(err)
	if !told {
		fmt.Fprintln(&errOut, "error:", err)
	}
	return out.String(), errOut.String(), code
}

// wantGolden compares what calls print with testdata/NAME.txt.
func (f *fleet) wantGolden(t *testing.T, name string, calls ...string) {
	t.Helper()
	var got strings.Builder
	for _, c := range calls {
		stdout, stderr, code := f.call(t, strings.Fields(c)...)
		fmt.Fprintf(&got, "$ kubectl meshpdb %s\n%s", c, stdout)
		if stderr != "" {
			fmt.Fprintf(&got, "--- on stderr\n%s", stderr)
		}
		fmt.Fprintf(&got, "--- exit code %d\n\n", code)
	}
	path := filepath.Join(cmp.Or(f.testdata, "testdata"), name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("printed\n%s\nwant\n%s", got.String(), want)
	}
}

// budgetOf is prod/db, maxUnavailable 1 over nine pods in three clusters, all well.
func budgetOf(change ...func(*v1alpha1.MeshPodDisruptionBudget)) *v1alpha1.MeshPodDisruptionBudget {
	one := intstr.FromInt32(1)
	b := &v1alpha1.MeshPodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "prod", Name: "db", Generation: 1, CreationTimestamp: before(72 * time.Hour)},
		Spec:       v1alpha1.MeshPodDisruptionBudgetSpec{Service: "db", MaxUnavailable: &one},
		Status: v1alpha1.MeshPodDisruptionBudgetStatus{
			ObservedGeneration: 1, DisruptionsAllowed: 1, CurrentHealthy: 9, DesiredHealthy: 8, ExpectedPods: 9, ClustersReachable: "3/3",
			Conditions: []metav1.Condition{
				{Type: v1alpha1.ConditionEnforced, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonEnforced, LastTransitionTime: before(72 * time.Hour), Message: "disruptions of the service's pods in this cluster are admitted by meshpdb"},
				{Type: v1alpha1.ConditionDisruptionAllowed, Status: metav1.ConditionTrue, Reason: "SufficientPods", LastTransitionTime: before(3 * time.Hour), Message: "evicting a pod leaves 8 of 9 pods available, budget prod/db needs 8 (maxUnavailable 1; c1 3/3; c2 3/3; c3 3/3)"},
				{Type: v1alpha1.ConditionNotShared, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonShared, LastTransitionTime: before(72 * time.Hour)},
			},
		},
	}
	for _, name := range []string{"c1", "c2", "c3"} {
		b.Status.Clusters = append(b.Status.Clusters, v1alpha1.ClusterStatus{Name: name, Reachable: true, Since: before(72 * time.Hour), ExpectedPods: 3, CurrentHealthy: 3, Bound: "maxUnavailable 1"})
	}
	for _, c := range change {
		c(b)
	}
	return b
}

func setCondition(b *v1alpha1.MeshPodDisruptionBudget, kind string, status metav1.ConditionStatus, reason, message string, since metav1.Time) {
	for i := range b.Status.Conditions {
		if b.Status.Conditions[i].Type == kind {
			b.Status.Conditions[i] = metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: since}
		}
	}
}

// spent: a pod of c2 is on its way out since two minutes.
func spent(b *v1alpha1.MeshPodDisruptionBudget) {
	since := before(2 * time.Minute)
	b.Status.DisruptionsAllowed, b.Status.CurrentHealthy, b.Status.DisruptionsInFlight = 0, 8, 1
	c := &b.Status.Clusters[1]
	c.CurrentHealthy, c.DisruptionsInFlight, c.ShortSince = 2, 1, &since
	setCondition(b, v1alpha1.ConditionDisruptionAllowed, metav1.ConditionFalse, "InsufficientPods", "evicting a pod would leave 7 of 9 pods available, budget prod/db needs 8 (maxUnavailable 1; c1 3/3; c2 2/3, 1 in flight; c3 3/3)", since)
}

// cutOff: c3 cannot be read since 90 seconds.
func cutOff(b *v1alpha1.MeshPodDisruptionBudget) {
	since := before(90 * time.Second)
	b.Status.DisruptionsAllowed, b.Status.CurrentHealthy, b.Status.ClustersReachable = 0, 6, "2/3"
	c := &b.Status.Clusters[2]
	c.Reachable, c.CurrentHealthy, c.Since, c.Message = false, 0, since, "its kvstore is unreachable: connection refused"
	setCondition(b, v1alpha1.ConditionDisruptionAllowed, metav1.ConditionFalse, "SyncFailed", "budget prod/db with maxUnavailable 1 cannot be decided without cluster c3 (its kvstore is unreachable: connection refused)", since)
}

// elsewhere: its third cluster is c4, so that what is wrong there is nothing to budgets of c3.
func elsewhere(b *v1alpha1.MeshPodDisruptionBudget) {
	b.Status.Clusters[2].Name = "c4"
	for i := range b.Status.Conditions {
		b.Status.Conditions[i].Message = strings.ReplaceAll(b.Status.Conditions[i].Message, "c3", "c4")
	}
}

func named(name string, more ...func(*v1alpha1.MeshPodDisruptionBudget)) *v1alpha1.MeshPodDisruptionBudget {
	b := budgetOf(more...)
	b.Name, b.Spec.Service = name, name
	for i := range b.Status.Conditions {
		b.Status.Conditions[i].Message = strings.ReplaceAll(b.Status.Conditions[i].Message, "prod/db", "prod/"+name)
	}
	return b
}

func serviceOf(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "prod", Name: name, Annotations: map[string]string{"service.cilium.io/global": "true"}},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": name}},
	}
}

func podOf(name, app, node string, change ...func(*corev1.Pod)) *corev1.Pod {
	controller := true
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "prod", Name: name, Labels: map[string]string{"app": app}, OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: app, Controller: &controller}}},
		Spec:       corev1.PodSpec{NodeName: node},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func nodeOf(name string, labels ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
	for _, l := range labels {
		n.Labels[l] = "true"
	}
	return n
}

var errNoServer = errors.New("dial tcp 127.0.0.1:6443: connect: connection refused")
