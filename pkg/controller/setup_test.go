package controller

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/publish"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// followed is an index that informers have told of the objects.
func followed(t *testing.T, objects ...client.Object) *workload.Coverage {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	informers := &informertest.FakeInformers{Scheme: scheme}
	coverage := workload.NewCoverage()
	if err := coverage.Follow(t.Context(), informers); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []client.Object{&v1alpha1.MeshPodDisruptionBudget{}, &corev1.Service{}} {
		informer, err := informers.FakeInformerFor(t.Context(), kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			if kindOf(o) == kindOf(kind) {
				informer.Add(o)
			}
		}
	}
	return coverage
}

// What happens to a pod is what happens to its budgets, and to no others.
func TestPodsEnqueueTheirBudgets(t *testing.T) {
	other := globalService("n", "other")
	other.Spec.Selector = map[string]string{"app": "other"}
	otherBudget := newBudget("n", "other")
	otherBudget.Spec.Service = "other"
	coverage := followed(t, globalService("n", "db"), newBudget("n", "b"), other, otherBudget)
	if err := coverage.Synced(); err != nil {
		t.Fatal(err)
	}
	api := fake.NewClientset(readyPod("n", "p0"))
	pods := workload.NewPods(api)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- pods.Run(ctx) }()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	defer queue.ShutDown()
	source := podSource{pods, coverage}
	if err := errors.Join(source.WaitForSync(ctx), source.Start(ctx, queue)); err != nil {
		t.Fatal(err)
	}
	if queue.Len() > 0 {
		t.Error("what was listed is no news")
	}
	// The fake tells a watch nothing of what came before it.
	for n := 0; queue.Len() == 0; n++ {
		if err := ctx.Err(); err != nil {
			t.Fatal(err)
		}
		pod := readyPod("n", "p0")
		pod.UID = named("n", "p0").UID
		pod.Status.PodIPs = []corev1.PodIP{{IP: []string{"10.0.0.1", "10.0.0.2"}[n%2]}}
		if _, err := api.CoreV1().Pods("n").UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Millisecond)
	}
	request, _ := queue.Get()
	expect(t, "request", request, "n/b")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A new leader that has not restored yet leaves the condition as it stands.
func TestAStartIsNoProblem(t *testing.T) {
	enforced := func(b *v1alpha1.MeshPodDisruptionBudget, problems map[string]error, problem error) string {
		h := newHall(t)
		h.problems = problems
		status := b.Status.DeepCopy()
		h.budgets().conditions(b, status, true, problem)
		changed := b.DeepCopy()
		changed.Status = *status
		return conditionOf(changed, v1alpha1.ConditionEnforced)
	}
	starting := map[string]error{"i1": publish.ErrStarting}
	failed := map[string]error{"i1": publish.ErrStarting, "i2": errors.New("no route")}
	standing := newBudget("n", "b")
	standing.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionEnforced, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonEnforced}}
	lost := &workload.Problem{Reason: v1alpha1.ReasonServiceNotFound}
	expect(t, "new", enforced(newBudget("n", "b"), starting, nil), "none")
	expect(t, "standing", enforced(standing, starting, nil), "True Enforced")
	expect(t, "one has failed", enforced(standing, failed, nil), "False KVStoreUnavailable")
	expect(t, "its own problem", enforced(standing, starting, lost), "False ServiceNotFound")
	suspended := newBudget("n", "b")
	suspended.Spec.Suspend = true
	expect(t, "suspended", enforced(suspended, nil, nil), "False Suspended")
	expect(t, "suspended, no service", enforced(suspended, nil, lost), "False ServiceNotFound")
	expect(t, "in service", enforced(newBudget("n", "b"), nil, nil), "True Enforced")
}

// Only what no event tells of is asked for again and again.
func TestResync(t *testing.T) {
	owned := func(apiVersion, kind string) []v1alpha1.OwnerStatus {
		return []v1alpha1.OwnerStatus{{APIVersion: "apps/v1", Kind: "Deployment"}, {APIVersion: apiVersion, Kind: kind}}
	}
	if got := newHall(t).budgets().resyncOf(newBudget("n", "b"), share{problem: errors.New("who owns them?")}); got != resync {
		t.Errorf("with a problem: again after %s", got)
	}
	for name, c := range map[string]struct {
		budget *v1alpha1.MeshPodDisruptionBudget
		owners []v1alpha1.OwnerStatus
		hall   func(*hall)
		want   time.Duration
	}{
		"alone":                         {newBudget("n", "b"), owned("v1", "Pod"), nil, idleResync},
		"an owner of another kind":      {newBudget("n", "b"), owned("argoproj.io/v1alpha1", "Rollout"), nil, resync},
		"of another group":              {newBudget("n", "b"), owned("example.com/v1", "StatefulSet"), nil, resync},
		"peers that hold it":            {newBudget("n", "b"), nil, func(h *hall) { h.peers, h.held["c2"] = []string{"c2"}, true }, idleResync},
		"a peer that may export it":     {newBudget("n", "b"), nil, func(h *hall) { h.peers, h.read["c2"] = []string{"c2"}, true }, resync},
		"which matters not if excluded": {newBudget("n", "b", "c1"), nil, func(h *hall) { h.peers, h.read["c2"] = []string{"c2"}, true }, idleResync},
	} {
		h := newHall(t)
		if c.hall != nil {
			c.hall(h)
		}
		if got := h.budgets().resyncOf(c.budget, share{owners: c.owners}); got != c.want {
			t.Errorf("%s: again after %s, want %s", name, got, c.want)
		}
	}
}
