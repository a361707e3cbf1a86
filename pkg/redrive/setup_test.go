package redrive

import (
	"context"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// What is looked at leads to a look, and what is not does not: most updates are of no interest.
func TestWhatMatters(t *testing.T) {
	changed := func(change func(*v1alpha1.MeshPodDisruptionBudget)) client.Object {
		b := budget("b", 0)
		change(b)
		return b
	}
	for name, c := range map[string]struct {
		before, after client.Object
		want          bool
	}{
		"an informer's resync":          {budget("b", 0), budget("b", 0), false},
		"budget frees":                  {budget("b", 0), changed(func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.DisruptionsAllowed++ }), true},
		"it holds again":                {budget("b", 0), changed(func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.CurrentHealthy++ }), true},
		"its bound changes":             {budget("b", 0), changed(func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.DesiredHealthy++ }), true},
		"its spec changes":              {budget("b", 0), changed(func(b *v1alpha1.MeshPodDisruptionBudget) { b.Generation++ }), true},
		"its service selects others":    {budget("b", 0), changed(func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.Selector = map[string]string{"app": "x"} }), true},
		"its status is made untrue":     {budget("b", 0), changed(func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.WaitingDisruptions++ }), true},
		"something is in flight":        {budget("b", 0), changed(func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.DisruptionsInFlight++ }), false},
		"a replica set is scaled":       {replicaSet(3), func() client.Object { rs := replicaSet(2); rs.Generation++; return rs }(), true},
		"a replica set is kicked":       {replicaSet(3), func() client.Object { rs := replicaSet(3); rs.ResourceVersion = "2"; return rs }(), false},
		"a stateful set makes progress": {statefulSet(3), statefulSet(3, updating(1)), true},
		"a stateful set is kicked":      {statefulSet(3), statefulSet(3), false},
		"a daemon set makes progress":   {daemonSet(3, 1, 3, nil), daemonSet(3, 2, 3, nil), true},
		"a daemon set is kicked":        {daemonSet(3, 1, 3, nil), daemonSet(3, 1, 3, nil), false},
		"a deployment":                  {&appsv1.Deployment{}, &appsv1.Deployment{}, false},
	} {
		if got := matters(c.before, c.after); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// A node's taints concern the budgets of the pods that are bound to it.
func TestTaintsEnqueueBudgets(t *testing.T) {
	elsewhere := readyPod("p1")
	elsewhere.Labels, elsewhere.Spec.NodeName = map[string]string{"app": "web"}, "n2"
	s := newStage(t, budget("b", 0), service())
	pods := workload.NewPods(fake.NewClientset(readyPod("p0"), elsewhere))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- pods.Run(ctx) }()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	defer queue.ShutDown()
	source := taintSource{s.driver, pods}
	if err := source.WaitForSync(ctx); err != nil {
		t.Fatal(err)
	}
	if err := source.Start(ctx, queue); err != nil {
		t.Fatal(err)
	}
	other := node("maintenance")
	other.Name = "n2"
	for _, n := range []*corev1.Node{node(), other} {
		s.show(n)
	}
	if queue.Len() > 0 {
		t.Error("no budget has pods there")
	}
	s.show(node("maintenance"))
	if queue.Len() != 1 {
		t.Fatalf("%d budgets are looked at", queue.Len())
	}
	request, _ := queue.Get()
	expect(t, "request", request, "n/b")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	s.driver.Taints = workload.NewTaints()
	if source.WaitForSync(ctx) == nil {
		t.Error("nodes were never listed, and nobody waits for them")
	}
}
