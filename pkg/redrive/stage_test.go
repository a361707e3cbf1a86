package redrive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// stage is a cluster around a driver: what the informers show, what the API
// server holds, which may be newer, and what the driver does.
type stage struct {
	t         *testing.T
	informers *informertest.FakeInformers
	cached    client.Client
	live      client.Client
	taints    *workload.Taints
	coverage  *workload.Coverage
	registry  *prometheus.Registry
	driver    *Driver

	// calls are the requests of the driver that change something, with the time since the start; reads counts the others.
	calls []string
	reads int
	start time.Time
	// answer is what evictions and patches get.
	answer  func(call string) error
	events  []string
	changed int
}

// newStage must be made within a bubble.
func newStage(t *testing.T, objects ...client.Object) *stage {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), appsv1.AddToScheme(scheme), policyv1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	s := &stage{
		t: t, informers: &informertest.FakeInformers{Scheme: scheme}, taints: workload.NewTaints(), coverage: workload.NewCoverage(),
		start: time.Now(), registry: prometheus.NewRegistry(), answer: func(string) error { return nil },
	}
	build := func() client.WithWatch {
		return fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.MeshPodDisruptionBudget{}).Build()
	}
	s.cached = build()
	s.live = interceptor.NewClient(build(), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			s.reads++
			return c.Get(ctx, key, o, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, _ ...client.SubResourcePatchOption) error {
			kind, _ := strings.CutPrefix(fmt.Sprintf("%T", o), "*v1.")
			if err := s.call("kick %s %s", kind, o.GetName()); err != nil {
				return err
			}
			if data, err := p.Data(o); err != nil || sub != "status" || !strings.Contains(string(data), `"uid":"`+string(o.GetUID())+`"`) {
				t.Errorf("patch %s of %s: %s, %v", sub, o.GetName(), data, err)
			}
			// The fake's status subresource leaves metadata alone; the API server's does not.
			return c.Patch(ctx, o, p)
		},
		SubResourceCreate: func(ctx context.Context, c client.Client, sub string, o, body client.Object, opts ...client.SubResourceCreateOption) error {
			eviction := body.(*policyv1.Eviction)
			if err := s.call("%s %s %s", sub, o.GetName(), *eviction.DeleteOptions.Preconditions.UID); err != nil {
				return err
			}
			return c.Delete(ctx, o)
		},
	})
	reporter, err := NewReporter(s.registry, s)
	if err != nil {
		t.Fatal(err)
	}
	s.driver = New(Config{
		Client: splitClient{s.live, s.cached}, Taints: s.taints, Reporter: reporter, Log: logr.Discard(), Changed: func(string, string) { s.changed++ },
		Workload: &workload.Workload{Cached: s.cached, Live: s.live, Running: stagePods{s.cached}, Coverage: s.coverage},
	})
	if err := errors.Join(s.coverage.Follow(t.Context(), s.informers), s.taints.Follow(t.Context(), s.informers)); err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		s.put(o)
	}
	return s
}

// splitClient reads what informers show.
type splitClient struct {
	client.Client
	reader client.Reader
}

func (c splitClient) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	return c.reader.Get(ctx, key, o, opts...)
}

// stagePods shows pods as the watch of workload does: without their tolerations where many are selected.
type stagePods struct{ client.Client }

func (p stagePods) Get(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	var pod corev1.Pod
	if err := p.Client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &pod); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return &pod, nil
}

func (p stagePods) SawEnd(string) bool { return false }

func (p stagePods) Select(ctx context.Context, namespace string, selector map[string]string) ([]corev1.Pod, error) {
	var list corev1.PodList
	err := p.List(ctx, &list, client.InNamespace(namespace), client.MatchingLabels(selector))
	for i := range list.Items {
		list.Items[i].Labels, list.Items[i].Spec.Tolerations = nil, nil
	}
	return list.Items, err
}

func (s *stage) call(format string, args ...any) error {
	call := fmt.Sprintf(format, args...)
	s.calls = append(s.calls, fmt.Sprintf("%v %s", time.Since(s.start).Round(time.Second), call))
	return s.answer(call)
}

// put has the API server hold an object, and the informers show it.
func (s *stage) put(o client.Object) {
	s.t.Helper()
	s.putLive(o)
	s.show(o)
}

// putLive has the API server alone hold it.
func (s *stage) putLive(o client.Object) {
	s.t.Helper()
	s.store(s.live, o)
}

func (s *stage) store(in client.Client, o client.Object) {
	s.t.Helper()
	o = o.DeepCopyObject().(client.Object)
	o.SetResourceVersion("")
	if err := client.IgnoreNotFound(in.Delete(s.t.Context(), o)); err != nil {
		s.t.Fatal(err)
	}
	if err := in.Create(s.t.Context(), o); err != nil {
		s.t.Fatal(err)
	}
}

// show has the informers alone show it.
func (s *stage) show(o client.Object) {
	s.t.Helper()
	s.store(s.cached, o)
	switch o.(type) {
	case *corev1.Node, *corev1.Service, *v1alpha1.MeshPodDisruptionBudget:
		informer, err := s.informers.FakeInformerFor(s.t.Context(), o)
		if err != nil {
			s.t.Fatal(err)
		}
		informer.Update(o, o.DeepCopyObject().(client.Object))
	}
}

// catchUp has the informers show what the API server holds of pods and owners.
func (s *stage) catchUp() {
	s.t.Helper()
	var pods corev1.PodList
	if err := s.live.List(s.t.Context(), &pods); err != nil {
		s.t.Fatal(err)
	}
	if err := s.cached.DeleteAllOf(s.t.Context(), &corev1.Pod{}, client.InNamespace("n")); err != nil {
		s.t.Fatal(err)
	}
	for i := range pods.Items {
		s.store(s.cached, &pods.Items[i])
	}
}

// run has the driver look at budgets for a while, as often as it asks to, and
// returns what it did.
func (s *stage) run(d time.Duration, budgets ...string) []string {
	s.t.Helper()
	s.calls = nil
	if len(budgets) == 0 {
		budgets = []string{"b"}
	}
	next := map[string]time.Time{}
	for end := time.Now().Add(d); !time.Now().After(end); time.Sleep(100 * time.Millisecond) {
		for _, name := range budgets {
			if time.Now().Before(next[name]) {
				continue
			}
			result, err := s.driver.Reconcile(s.t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "n", Name: name}})
			if err != nil {
				s.t.Fatal(err)
			}
			next[name] = time.Now().Add(result.RequeueAfter)
		}
	}
	return s.calls
}

// waiting is what the status would say: kind/name, reason and age.
func (s *stage) waiting(b *v1alpha1.MeshPodDisruptionBudget) []string {
	s.t.Helper()
	pods, err := stagePods{s.cached}.Select(s.t.Context(), "n", map[string]string{"app": "db"})
	if err != nil {
		s.t.Fatal(err)
	}
	waiting, count, err := s.driver.Observe(s.t.Context(), b, pods)
	if err != nil {
		s.t.Fatal(err)
	}
	var all []string
	for _, w := range waiting {
		all = append(all, fmt.Sprintf("%s/%s %s %s: %s", w.Kind, w.Name, w.Reason, time.Since(w.Since.Time).Round(time.Second), w.Message))
	}
	if int(count) != len(all) {
		all = append(all, fmt.Sprintf("%d in all", count))
	}
	return all
}

func (s *stage) redriven(kind, result string) float64 {
	s.t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			want := []string{kind, result}
			if slices.EqualFunc(m.Label, want, func(l *dto.LabelPair, v string) bool { return l.GetValue() == v }) {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func (s *stage) Eventf(regarding, related runtime.Object, kind, reason, _, note string, args ...any) {
	name := func(o runtime.Object) string {
		if ref, ok := o.(*corev1.ObjectReference); ok {
			return ref.Kind + "/" + ref.Name
		}
		m, err := meta.Accessor(o)
		if err != nil {
			return "none"
		}
		return m.GetName()
	}
	s.events = append(s.events, fmt.Sprintf("%s %s %s %s: "+note, append([]any{name(regarding), name(related), kind, reason}, args...)...))
}

func bubble(t *testing.T, play func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, play)
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

func named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID("uid-" + name), Generation: 1, Labels: map[string]string{"app": "db"}}
}

func readyPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: named(name), Spec: corev1.PodSpec{NodeName: "n1"}, Status: corev1.PodStatus{
		Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}}
}

// budget covers the pods app=db.
func budget(name string, allowed int32) *v1alpha1.MeshPodDisruptionBudget {
	b := &v1alpha1.MeshPodDisruptionBudget{ObjectMeta: named(name), Spec: v1alpha1.MeshPodDisruptionBudgetSpec{Service: "db"}}
	b.Status.DisruptionsAllowed, b.Status.CurrentHealthy, b.Status.DesiredHealthy = allowed, 10+allowed, 10
	b.Status.Owners = []v1alpha1.OwnerStatus{{APIVersion: "apps/v1", Kind: "Deployment", Name: "db", ExpectedPods: 50}}
	b.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionEnforced, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonEnforced}}
	return b
}

func service() *corev1.Service {
	return &corev1.Service{ObjectMeta: named("db"), Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "db"}}}
}

// node is Ready and has the NoExecute taints of these keys.
func node(keys ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}
	for _, key := range keys {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute})
	}
	return n
}

func replicaSet(replicas int32) *appsv1.ReplicaSet {
	meta := named("web")
	return &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Replicas: &replicas}}
}

func owned(p *corev1.Pod, o client.Object, kind string) *corev1.Pod {
	controls := true
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: o.GetName(), UID: o.GetUID(), Controller: &controls}}
	return p
}
