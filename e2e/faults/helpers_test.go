package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

const (
	// replicas of the standing workloads in each cluster.
	replicas = 3
	// spare is how many of their 9 pods may be unavailable under the relative
	// bound: one for each cluster that asks after a fault was healed.
	spare = 3
	// floor is the absolute bound. Two clusters can give up 4 pods under it
	// without the third, and one alone 1.
	floor = 2
	// answerTime is the decision's deadline of 5 s, the look-ups before it, and
	// what a busy machine adds.
	answerTime = 8 * time.Second
	// askPause lies between two questions of one caller.
	askPause = 20 * time.Millisecond
	// giveUp is when a test no longer waits for what must come.
	giveUp = 40 * time.Second
)

func (m *testMesh) standing() map[*scenario.Workload]v1alpha1.MeshPodDisruptionBudgetSpec {
	return map[*scenario.Workload]v1alpha1.MeshPodDisruptionBudgetSpec{
		m.absolute: minAvailable(floor), m.relative: maxUnavailable(spare),
	}
}

func maxUnavailable(n int) v1alpha1.MeshPodDisruptionBudgetSpec {
	value := intstr.FromInt(n)
	return v1alpha1.MeshPodDisruptionBudgetSpec{MaxUnavailable: &value}
}

func minAvailable(n int) v1alpha1.MeshPodDisruptionBudgetSpec {
	value := intstr.FromInt(n)
	return v1alpha1.MeshPodDisruptionBudgetSpec{MinAvailable: &value}
}

// judged begins a test in a mesh that is whole, with budgets that nobody has
// used, and at its end lets witnesses judge.
func judged(t *testing.T) {
	t.Helper()
	settle(t)
	watch(t, mesh.relative, spare)
	watch(t, mesh.absolute, replicas*len(mesh.clusters)-floor)
}

// watch has a witness judge a workload at the end of the test.
func watch(t *testing.T, w *scenario.Workload, allowed int) {
	t.Helper()
	witness, err := w.Watch(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A fault that the test did not come to heal must not spoil the testimony too.
		testimony, err := witness.Stop()
		if err != nil {
			t.Error(err)
		}
		if testimony.WorstUnavailable > allowed {
			t.Errorf("%s: %d pods were missing at %s, %d may be", w.Namespace, testimony.WorstUnavailable, testimony.WorstAt.Format(time.TimeOnly), allowed)
		}
	})
}

// settle waits until nothing is left of what went before.
func settle(t *testing.T) {
	t.Helper()
	for w := range mesh.standing() {
		if err := w.AwaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.AwaitBudget(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := mesh.relative.AwaitAllowed(t.Context(), spare); err != nil {
		t.Fatal(err)
	}
}

// own is a workload of the test's own, with a budget that is enforced.
func own(t *testing.T, namespace string, spec v1alpha1.MeshPodDisruptionBudgetSpec) *scenario.Workload {
	t.Helper()
	w := &scenario.Workload{Clusters: mesh.clusters, Namespace: namespace, Name: "db", Replicas: replicas}
	if err := w.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), giveUp)
		defer cancel()
		if err := w.Delete(ctx); err != nil {
			t.Error(err)
		}
	})
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) error { return w.Budget(ctx, spec) }, w.AwaitReady, w.AwaitBudget,
	} {
		if err := step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// cluster is the n-th cluster as its people see it, part what it is made of.
func cluster(n int) *scenario.Cluster { return mesh.clusters[n-1] }
func part(n int) *sandbox.Cluster     { return mesh.Clusters[n-1] }

// must fails the test, and names what could not be done.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// answer to one request to evict.
type answer struct {
	at   time.Time
	took time.Duration
	err  error
}

// ask asks for the eviction of some available pod; ok is false if there is none.
func ask(ctx context.Context, w *scenario.Workload, c *scenario.Cluster) (a answer, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*answerTime)
	defer cancel()
	pods, err := w.Available(ctx, c)
	if err != nil {
		return answer{at: time.Now(), err: err}, true
	}
	if len(pods) == 0 {
		return answer{}, false
	}
	return askFor(ctx, c, pods[rand.IntN(len(pods))]), true
}

func askFor(ctx context.Context, c *scenario.Cluster, pod corev1.Pod) answer {
	start := time.Now()
	err := c.Evict(ctx, pod.Namespace, pod.Name)
	return answer{at: time.Now(), took: time.Since(start), err: err}
}

// askUntil asks until an answer fits, and returns it.
func askUntil(t *testing.T, w *scenario.Workload, c *scenario.Cluster, what string, fits func(answer) bool) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), giveUp)
	defer cancel()
	var last answer
	for {
		if a, ok := ask(ctx, w, c); ok && ctx.Err() == nil {
			if last = a; fits(a) {
				return a
			}
			if apierrors.IsTooManyRequests(a.err) && a.took > answerTime {
				t.Errorf("%s in %s: the refusal took %s: %v", w.Namespace, c.Name, a.took, a.err)
			}
		}
		if !pause(ctx, askPause) {
			t.Fatalf("%s in %s: never %s; the last answer was %v", w.Namespace, c.Name, what, last.err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// refused asks until a refusal says all of the words, and returns its sentence.
func refused(t *testing.T, w *scenario.Workload, c *scenario.Cluster, words ...string) string {
	t.Helper()
	a := askUntil(t, w, c, fmt.Sprintf("refused with the words %q", words), func(a answer) bool {
		if !apierrors.IsTooManyRequests(a.err) {
			return false
		}
		for _, word := range words {
			if !strings.Contains(scenario.Sentence(a.err), word) {
				return false
			}
		}
		return true
	})
	t.Logf("%s in %s: %s", w.Namespace, c.Name, scenario.Sentence(a.err))
	return scenario.Sentence(a.err)
}

// never checks that a relative workload is granted nothing while a cluster
// cannot be read.
func never(t *testing.T, w *scenario.Workload, during time.Duration, clusters ...*scenario.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), during)
	defer cancel()
	var callers sync.WaitGroup
	for _, c := range clusters {
		callers.Go(func() {
			for pause(ctx, askPause) {
				if a, ok := ask(t.Context(), w, c); ok && a.err == nil {
					t.Errorf("%s in %s: granted although it cannot be known whether it is safe", w.Namespace, c.Name)
				}
			}
		})
	}
	callers.Wait()
}

// granted asks until an eviction is allowed.
func granted(t *testing.T, w *scenario.Workload, c *scenario.Cluster) answer {
	t.Helper()
	return askUntil(t, w, c, "granted", func(a answer) bool { return a.err == nil })
}

// recovery is how long grants took to flow again, in the slowest of some clusters.
type recovery struct {
	// ready is the time since the fault was healed, begun since healing began: a
	// process takes its time to start.
	ready, begun time.Duration
}

// healing asks in the clusters all the while a fault is being healed, until
// each of them has granted something. limit is for the time after that.
func healing(t *testing.T, limit time.Duration, w *scenario.Workload, clusters []*scenario.Cluster, heal func() error) recovery {
	t.Helper()
	begun, patience := time.Now(), max(limit, giveUp)
	grants := make([]time.Time, len(clusters))
	var callers sync.WaitGroup
	for i, c := range clusters {
		callers.Go(func() { grants[i] = firstGrant(t.Context(), patience, w, c) })
	}
	if err := heal(); err != nil {
		t.Error(err)
	}
	healed := time.Now()
	callers.Wait()
	var r recovery
	var each []string
	for i, c := range clusters {
		if grants[i].IsZero() {
			t.Fatalf("%s in %s: nothing was granted within %s of healing", w.Namespace, c.Name, patience)
		}
		after := max(0, grants[i].Sub(healed))
		each = append(each, fmt.Sprintf("%s %s", c.Name, after.Round(time.Millisecond)))
		r.ready, r.begun = max(r.ready, after), max(r.begun, grants[i].Sub(begun))
	}
	t.Logf("%s: grants flow again after %s; %s since healing began", w.Namespace, strings.Join(each, ", "), r.begun.Round(time.Millisecond))
	if r.ready > limit {
		t.Errorf("%s: the first grant came %s after healing, it may take %s", w.Namespace, r.ready, limit)
	}
	return r
}

// firstGrant asks until something is granted and returns when; zero if never within a limit.
func firstGrant(ctx context.Context, limit time.Duration, w *scenario.Workload, c *scenario.Cluster) time.Time {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		if a, ok := ask(ctx, w, c); ok && a.err == nil {
			return a.at
		}
		if !pause(ctx, askPause) {
			return time.Time{}
		}
	}
}
