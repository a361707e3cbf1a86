package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/e2e/scenario"
)

// numbers are the columns of `kubectl get mpdb`.
type numbers struct {
	allowed, available, desired, expected, inFlight int32
	clusters                                        string
}

func (n numbers) row() string {
	return fmt.Sprintf("%d %d %d %d %d %s", n.allowed, n.available, n.desired, n.expected, n.inFlight, n.clusters)
}

func told(ctx context.Context, w *scenario.Workload, c *scenario.Cluster) (numbers, error) {
	b, err := w.GetBudget(ctx, c)
	s := b.Status
	return numbers{s.DisruptionsAllowed, s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods, s.DisruptionsInFlight, s.ClustersReachable}, err
}

// wantNumbers waits for the numbers in all clusters.
func wantNumbers(t *testing.T, w *scenario.Workload, want numbers) {
	t.Helper()
	for _, c := range mesh.clusters {
		eventually(t, 30*time.Second, "status in "+c.Name, func() error {
			got, err := told(t.Context(), w, c)
			if err == nil && got != want {
				err = fmt.Errorf("got %+v, want %+v", got, want)
			}
			return err
		})
	}
}

// wantTold checks that every cluster tells the numbers soon after the truth
// was sighted; after the last of several sightings.
func wantTold(t *testing.T, w *scenario.Workload, what string, want numbers, truth ...<-chan time.Time) {
	t.Helper()
	wantToldWithin(t, w, tellTime, what, want, truth...)
}

func wantToldWithin(t *testing.T, w *scenario.Workload, limit time.Duration, what string, want numbers, truth ...<-chan time.Time) {
	t.Helper()
	tellings := make([]telling, len(mesh.clusters))
	var polls sync.WaitGroup
	for i, c := range mesh.clusters {
		polls.Go(func() { tellings[i] = awaitTold(t, w, c, want) })
	}
	polls.Wait()
	var at time.Time
	for _, sighted := range truth {
		select {
		case one := <-sighted:
			if one.After(at) {
				at = one
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: not seen in the API of its own cluster", what)
		}
	}
	var delays []string
	for i, c := range mesh.clusters {
		told := tellings[i]
		if told.at.IsZero() {
			t.Fatalf("%s: %s never told %+v, kubectl prints %q", what, c.Name, want, told.printed)
		}
		delay := told.at.Sub(at)
		delays = append(delays, fmt.Sprintf("%s %s", c.Name, delay.Round(time.Millisecond)))
		if delay > limit {
			t.Errorf("%s: %s told it after %s", what, c.Name, delay)
		}
		if told.printed != want.row() && told.printed != told.next {
			t.Errorf("%s: kubectl in %s prints %q, want %q", what, c.Name, told.printed, want.row())
		}
	}
	t.Logf("%s: told after %s", what, strings.Join(delays, ", "))
}

// telling is how one cluster told the numbers.
type telling struct {
	// at is when its API did; zero if never.
	at time.Time
	// printed is the row that kubectl printed right after that.
	printed string
	// next is what the API tells after kubectl: a pod that terminates may be gone by then.
	next string
}

// awaitTold polls the API of one cluster for the numbers, then asks kubectl at once.
func awaitTold(t *testing.T, w *scenario.Workload, c *scenario.Cluster, want numbers) telling {
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if got, err := told(ctx, w, c); err == nil && got == want {
			seen := telling{at: time.Now(), printed: kubectlRow(t, w, c)}
			if next, err := told(ctx, w, c); err == nil {
				seen.next = next.row()
			}
			return seen
		}
		select {
		case <-ctx.Done():
			return telling{printed: kubectlRow(t, w, c)}
		case <-tick.C:
		}
	}
}

// kubectlRow is the row that kubectl prints, without name, enforcement and age.
func kubectlRow(t *testing.T, w *scenario.Workload, c *scenario.Cluster) string {
	fields := strings.Fields(kubectl(t, c, "-n", w.Namespace, "get", "mpdb", w.Name, "--no-headers"))
	if len(fields) != 9 {
		return strings.Join(fields, " ")
	}
	return strings.Join(fields[1:7], " ")
}

// sight watches the workload's pods in one cluster and sends the time of the
// first event that matches and came after the watch began.
func sight(t *testing.T, w *scenario.Workload, c *scenario.Cluster, match func(p *corev1.Pod, deleted bool) bool) <-chan time.Time {
	t.Helper()
	list, err := c.Client.CoreV1().Pods(w.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: w.Selector()})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := c.Client.CoreV1().Pods(w.Namespace).Watch(t.Context(), metav1.ListOptions{LabelSelector: w.Selector(), ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stream.Stop)
	seen := make(chan time.Time, 1)
	go func() {
		defer stream.Stop()
		for event := range stream.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok && match(pod, event.Type == "DELETED") {
				seen <- time.Now()
				return
			}
		}
	}()
	return seen
}

// readyAfter matches a pod that becomes ready after the named one has begun to terminate.
func readyAfter(name string) func(*corev1.Pod, bool) bool {
	going := false
	return func(p *corev1.Pod, _ bool) bool {
		going = going || p.Name == name && p.DeletionTimestamp != nil
		return going && p.Name != name && isReady(p)
	}
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
		}
	}
	return false
}
