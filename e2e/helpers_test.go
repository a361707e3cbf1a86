package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// answerTime is the decision's deadline of 5 s, the look-ups before it, and
// what a busy machine adds.
const answerTime = 8 * time.Second

// stretched starts a workload over all clusters, in a namespace of its own,
// and removes it with the test.
func stretched(t *testing.T, namespace string, replicas int32) *scenario.Workload {
	t.Helper()
	w := &scenario.Workload{Clusters: mesh.clusters, Namespace: namespace, Name: "db", Replicas: replicas}
	if err := w.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, w) })
	if err := w.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// remove deletes the workload's namespaces; the test's own context has ended by then.
func remove(t *testing.T, w *scenario.Workload) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := w.Delete(ctx); err != nil {
		t.Error(err)
	}
}

// budgeted is stretched with a budget that is enforced everywhere.
func budgeted(t *testing.T, namespace string, replicas int32, spec v1alpha1.MeshPodDisruptionBudgetSpec) *scenario.Workload {
	t.Helper()
	w := stretched(t, namespace, replicas)
	if err := w.Budget(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if err := w.AwaitBudget(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func maxUnavailable(n int32) v1alpha1.MeshPodDisruptionBudgetSpec {
	value := intstr.FromInt32(n)
	return v1alpha1.MeshPodDisruptionBudgetSpec{MaxUnavailable: &value}
}

func minAvailable(n int32) v1alpha1.MeshPodDisruptionBudgetSpec {
	value := intstr.FromInt32(n)
	return v1alpha1.MeshPodDisruptionBudgetSpec{MinAvailable: &value}
}

// useControllers replaces all controllers by those of another binary.
func useControllers(t *testing.T, binary string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := mesh.StopControllers(ctx); err != nil {
		t.Fatal(err)
	}
	if err := mesh.StartControllers(ctx, binary, 2); err != nil {
		t.Fatal(err)
	}
}

// eventually polls until check returns nil.
func eventually(t *testing.T, timeout time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: %v", what, err)
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, t.Context().Err())
		case <-tick.C:
		}
	}
}

// firstPod returns a pod of the cluster that is ready and not terminating.
func firstPod(t *testing.T, w *scenario.Workload, c *scenario.Cluster) corev1.Pod {
	t.Helper()
	var pod corev1.Pod
	eventually(t, 30*time.Second, "find an available pod in "+c.Name, func() error {
		pods, err := w.Available(t.Context(), c)
		if err != nil {
			return err
		}
		if len(pods) == 0 {
			return fmt.Errorf("none is available")
		}
		pod = pods[0]
		return nil
	})
	return pod
}

// wantRefusal checks that an error is the refusal of a disruption budget, in
// time, with a sentence that contains all of the given words.
func wantRefusal(t *testing.T, err error, took time.Duration, words ...string) {
	t.Helper()
	if !apierrors.IsTooManyRequests(err) || !apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause) {
		t.Errorf("got %v, want 429 with cause DisruptionBudget", err)
		return
	}
	for _, word := range words {
		if !strings.Contains(scenario.Sentence(err), word) {
			t.Errorf("the sentence %q does not say %q", scenario.Sentence(err), word)
		}
	}
	if took > answerTime {
		t.Errorf("the refusal took %s", took)
	}
}

// evict evicts any available pod of the cluster.
func evict(t *testing.T, w *scenario.Workload, c *scenario.Cluster) (time.Duration, error) {
	t.Helper()
	return evictInto(t, scenario.NewTally(), w, c)
}

// evictInto is evict, and a tally takes the answer in.
func evictInto(t *testing.T, tally *scenario.Tally, w *scenario.Workload, c *scenario.Cluster) (time.Duration, error) {
	t.Helper()
	pod := firstPod(t, w, c)
	start := time.Now()
	err := c.Evict(t.Context(), w.Namespace, pod.Name)
	took := time.Since(start)
	tally.Record(c.Name, pod.Name, took, err)
	return took, err
}

// wantEvent waits for an Event about an object.
func wantEvent(t *testing.T, c *scenario.Cluster, namespace, kind, reason, words string) {
	t.Helper()
	eventually(t, 20*time.Second, fmt.Sprintf("event %s on %s", reason, kind), func() error {
		list, err := c.Client.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Kind == kind && e.Reason == reason && strings.Contains(e.Message, words) {
				return nil
			}
		}
		return fmt.Errorf("not among %d events", len(list.Items))
	})
}

// wantCondition waits for a condition of the budget.
func wantCondition(t *testing.T, w *scenario.Workload, c *scenario.Cluster, kind string, status metav1.ConditionStatus, reason, words string) {
	t.Helper()
	eventually(t, 20*time.Second, "condition "+kind, func() error {
		b, err := w.GetBudget(t.Context(), c)
		if err != nil {
			return err
		}
		for _, condition := range b.Status.Conditions {
			if condition.Type == kind && condition.Status == status && condition.Reason == reason && strings.Contains(condition.Message, words) {
				return nil
			}
		}
		return fmt.Errorf("conditions are %+v", b.Status.Conditions)
	})
}

func sandboxCluster(t *testing.T, name string) *sandbox.Cluster {
	t.Helper()
	c, err := mesh.Cluster(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
