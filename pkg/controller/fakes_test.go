package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/mesh"
	"github.com/meshpdb/meshpdb/pkg/publish"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// hall is cluster c1 around the reconcilers: its API server, which is also its
// informer, the views of the mesh, the publisher and the recorder. calls holds
// every write and every call of the publisher, in order.
type hall struct {
	client.WithWatch
	calls []string
	// sawEnd holds the UIDs of the pods that the watch has seen end.
	sawEnd map[string]bool
	// before runs at the start of a call, by its first word; its error is the call's.
	before map[string]func() error
	events []string

	peers      []string
	snapshots  map[string]claim.Snapshot
	held, read map[string]bool
	exports    map[string]bool
	exportsErr error
	asked      int

	set      []publish.Part
	problems map[string]error

	waiting    []v1alpha1.WaitingDisruption
	waitingErr error
	// observed are the pods that were asked for last.
	observed []corev1.Pod
}

func newHall(t *testing.T, objects ...client.Object) *hall {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	h := &hall{
		before: map[string]func() error{}, snapshots: map[string]claim.Snapshot{}, held: map[string]bool{}, read: map[string]bool{},
		exports: map[string]bool{}, problems: map[string]error{},
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.MeshPodDisruptionBudget{}).WithObjects(objects...).Build()
	h.WithWatch = interceptor.NewClient(c, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if hook := h.before["get"+kindOf(o)]; hook != nil {
				if err := hook(); err != nil {
					return err
				}
			}
			return c.Get(ctx, key, o, opts...)
		},
		List: func(ctx context.Context, c client.WithWatch, o client.ObjectList, opts ...client.ListOption) error {
			if hook := h.before["list"]; hook != nil {
				if err := hook(); err != nil {
					return err
				}
			}
			return c.List(ctx, o, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if err := h.call("create %s", o.GetName()); err != nil {
				return err
			}
			return c.Create(ctx, o, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			if err := h.call("update %s", o.GetName()); err != nil {
				return err
			}
			return c.Update(ctx, o, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			if err := h.call("delete %s", o.GetName()); err != nil {
				return err
			}
			return c.Delete(ctx, o, opts...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			data, err := p.Data(o)
			if err != nil {
				return err
			}
			if err := h.call("patch %s %s", o.GetName(), data); err != nil {
				return err
			}
			return c.Patch(ctx, o, p, opts...)
		},
		SubResourceUpdate: func(ctx context.Context, c client.Client, sub string, o client.Object, opts ...client.SubResourceUpdateOption) error {
			b := o.(*v1alpha1.MeshPodDisruptionBudget)
			if err := h.call("%s %s [%s] enforced=%s", sub, b.Name, strings.Join(workload.Scope(b), " "), conditionOf(b, v1alpha1.ConditionEnforced)); err != nil {
				return err
			}
			return c.SubResource(sub).Update(ctx, o, opts...)
		},
	})
	return h
}

func kindOf(o client.Object) string { return strings.TrimPrefix(fmt.Sprintf("%T", o), "*") }

func (h *hall) call(format string, args ...any) error {
	name := fmt.Sprintf(format, args...)
	h.calls = append(h.calls, name)
	word, _, _ := strings.Cut(name, " ")
	if hook := h.before[word]; hook != nil {
		return hook()
	}
	return nil
}

// taken returns the calls so far and forgets them.
func (h *hall) taken() []string {
	calls := h.calls
	h.calls = nil
	return calls
}

func (h *hall) Peers() []string { return h.peers }

func (h *hall) Cached(cluster string, _ mesh.Query) claim.Snapshot {
	if s, ok := h.snapshots[cluster]; ok {
		return s
	}
	return claim.Snapshot{Cluster: cluster, Invalid: "no connection"}
}

func (h *hall) Held(cluster, _, _ string) (held, read bool) {
	return h.held[cluster], h.read[cluster] || h.held[cluster]
}

func (h *hall) Exports(_ context.Context, cluster, namespace, service string) (bool, error) {
	h.asked++
	if namespace != "n" || service != "db" {
		return false, errors.New("asked for another service")
	}
	return h.exports[cluster], h.exportsErr
}

// hallPublisher has a Set of its own.
type hallPublisher struct{ *hall }

func (p hallPublisher) Set(_ context.Context, part publish.Part) error {
	p.set = append(p.set, part)
	return p.call("set %s/%s %v", part.Namespace, part.Name, part.Budget.View)
}

func (p hallPublisher) Remove(namespace, name string) { _ = p.call("remove %s/%s", namespace, name) }

func (p hallPublisher) Problems() map[string]error { return p.problems }

func (hallPublisher) Started() <-chan struct{} {
	started := make(chan struct{})
	close(started)
	return started
}

// hallWaits has an Observe of its own.
type hallWaits struct{ *hall }

func (w hallWaits) Observe(_ context.Context, _ *v1alpha1.MeshPodDisruptionBudget, pods []corev1.Pod) ([]v1alpha1.WaitingDisruption, int32, error) {
	w.observed = pods
	return w.waiting, int32(len(w.waiting)), w.waitingErr
}

func (h *hall) Eventf(regarding, _ runtime.Object, kind, reason, _, note string, args ...any) {
	name := "none"
	if m, err := meta.Accessor(regarding); err == nil {
		name = m.GetName()
	}
	h.events = append(h.events, fmt.Sprintf("%s %s %s: "+note, append([]any{name, kind, reason}, args...)...))
}

// hallPods reads the hall's pods as if a watch had brought them.
type hallPods struct{ *hall }

func (p hallPods) Get(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	var pod corev1.Pod
	err := p.hall.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &pod)
	if client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	if err != nil {
		return nil, nil
	}
	return &pod, nil
}

func (p hallPods) SawEnd(uid string) bool { return p.sawEnd[uid] }

func (p hallPods) Select(ctx context.Context, namespace string, selector map[string]string) ([]corev1.Pod, error) {
	var list corev1.PodList
	err := p.hall.List(ctx, &list, client.InNamespace(namespace), client.MatchingLabels(selector))
	return list.Items, err
}

func (h *hall) budgets() *Budgets {
	return &Budgets{
		Client: h, Workload: &workload.Workload{Cached: h, Live: h, Running: hallPods{h}, Coverage: workload.NewCoverage()}, Views: h, Publisher: hallPublisher{h}, Waits: hallWaits{h}, Recorder: h,
		Cluster: "c1", Protected: []string{"kube-system"}, Log: logr.Discard(),
	}
}

// settle reconciles until nothing is left to do but to look again later. It
// needs a bubble: it waits as it is told.
func settle(t *testing.T, r *Budgets, namespace, name string) {
	t.Helper()
	for range 10 {
		result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}})
		if err != nil {
			t.Fatal(err)
		}
		if result.RequeueAfter >= resync || result.RequeueAfter == 0 {
			return
		}
		<-time.After(result.RequeueAfter)
	}
	t.Fatal("never settles")
}

// read returns budget n/b as it stands, nil if it does not.
func (h *hall) budget(t *testing.T, namespace, name string) *v1alpha1.MeshPodDisruptionBudget {
	t.Helper()
	var b v1alpha1.MeshPodDisruptionBudget
	if err := h.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, &b); err != nil {
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		return nil
	}
	return &b
}

func (h *hall) label(t *testing.T, namespace string) string {
	t.Helper()
	var n corev1.Namespace
	if err := h.Get(t.Context(), types.NamespacedName{Name: namespace}, &n); err != nil {
		t.Fatal(err)
	}
	return n.Labels[v1alpha1.NamespaceLabel]
}

// conditionOf is "True Reason", "none" if there is none.
func conditionOf(b *v1alpha1.MeshPodDisruptionBudget, kind string) string {
	c := meta.FindStatusCondition(b.Status.Conditions, kind)
	if c == nil {
		return "none"
	}
	return string(c.Status) + " " + c.Reason
}

func named(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + "/" + name), Generation: 1}
}

func newBudget(namespace, name string, clusters ...string) *v1alpha1.MeshPodDisruptionBudget {
	one := intstr.FromInt32(1)
	return &v1alpha1.MeshPodDisruptionBudget{
		ObjectMeta: named(namespace, name),
		Spec:       v1alpha1.MeshPodDisruptionBudgetSpec{Service: "db", MaxUnavailable: &one, Clusters: clusters},
	}
}

// remembering adds clusters to a status: "c2" with a bound, "c2?" without.
func remembering(b *v1alpha1.MeshPodDisruptionBudget, clusters ...string) *v1alpha1.MeshPodDisruptionBudget {
	for _, c := range clusters {
		name, unbound := strings.CutSuffix(c, "?")
		s := v1alpha1.ClusterStatus{Name: name, Bound: "maxUnavailable 1"}
		if unbound {
			s.Bound = ""
		}
		b.Status.Clusters = append(b.Status.Clusters, s)
	}
	return b
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// globalService selects app=db.
func globalService(namespace, name string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: named(namespace, name), Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "db"}}}
	s.Annotations = map[string]string{"service.cilium.io/global": "true"}
	return s
}

func readyPod(namespace, name string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: named(namespace, name), Status: corev1.PodStatus{
		Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}}
	p.Labels = map[string]string{"app": "db"}
	return p
}

// shown is what a cluster shows of n/b: "c1 ++-" are its pods.
func shown(text string, view ...string) claim.Snapshot {
	cluster, pods, _ := strings.Cut(text, " ")
	r := claim.Report{Service: "db", View: view, Expected: len(pods), Bounds: []budget.Bound{{Kind: budget.MaxUnavailable, Value: 1}}}
	for i, letter := range pods {
		r.Pods = append(r.Pods, claim.Pod{UID: fmt.Sprintf("%s-%d", cluster, i), Available: letter == '+'})
	}
	return claim.Snapshot{Cluster: cluster, Budgets: map[string]claim.Report{"n/b": r}}
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

func has(events []string, part string) bool {
	return slices.ContainsFunc(events, func(e string) bool { return strings.Contains(e, part) })
}
