package scenario

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/pkg/history"
)

// Tally is what became of the requests to evict.
type Tally struct {
	mu       sync.Mutex
	granted  []time.Duration
	refused  int
	failures []error
	last     map[string][]string
	refusal  Refusal
	requests []Request
}

// Refusal is one eviction that was answered with 429.
type Refusal struct{ Cluster, Sentence string }

// NewTally returns an empty tally.
func NewTally() *Tally { return &Tally{last: map[string][]string{}} }

// Record takes in the answer to the eviction of a pod. A 429 is a refusal; a pod that went meanwhile is
// nothing; everything else is a failure.
func (t *Tally) Record(cluster, pod string, took time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	request := Request{Cluster: cluster, Pod: pod, Asked: now.Add(-took), Answered: now, Answer: answerTo(err)}
	if request.Answer == history.Refused {
		request.Sentence = Sentence(err)
	}
	t.requests = append(t.requests, request)
	sentence := ""
	switch {
	case err == nil:
		t.granted = append(t.granted, took)
		sentence = "allowed"
	case apierrors.IsTooManyRequests(err):
		t.refused++
		t.refusal = Refusal{Cluster: cluster, Sentence: request.Sentence}
		sentence = "refused: " + t.refusal.Sentence
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return
	default:
		t.failures = append(t.failures, err)
		sentence = "failed: " + err.Error()
	}
	t.last[cluster] = append(t.last[cluster], sentence)
	if n := len(t.last[cluster]); n > 20 {
		t.last[cluster] = t.last[cluster][n-20:]
	}
}

// Granted is how many evictions were allowed.
func (t *Tally) Granted() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.granted)
}

// Refused is how many evictions were answered with 429.
func (t *Tally) Refused() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refused
}

// Failures are the answers that a drain would give up on.
func (t *Tally) Failures() []error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.failures)
}

// Last returns the last answers in a cluster, newest last.
func (t *Tally) Last(cluster string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.last[cluster])
}

// newest is the last answer in a cluster.
func (t *Tally) newest(cluster string) string {
	if last := t.Last(cluster); len(last) > 0 {
		return last[len(last)-1]
	}
	return "none"
}

// LastRefusal is the newest refusal of all clusters, empty if there was none.
func (t *Tally) LastRefusal() Refusal {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refusal
}

// MedianGrant is the median time from request to permission, by the caller's clock.
func (t *Tally) MedianGrant() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.granted) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(t.granted))
	return sorted[len(sorted)/2]
}

// Sentence returns the sentence of a refusal, from its cause DisruptionBudget.
func Sentence(err error) string {
	status, ok := err.(apierrors.APIStatus)
	if ok && status.Status().Details != nil {
		for _, c := range status.Status().Details.Causes {
			if c.Type == policyv1.DisruptionBudgetCause {
				return c.Message
			}
		}
	}
	return err.Error()
}

// Evict asks for the eviction of one pod.
func (c *Cluster) Evict(ctx context.Context, namespace, name string) error {
	return c.Client.PolicyV1().Evictions(namespace).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}})
}

// EvictEagerly has callers in every cluster evict pods at random, one request
// after the other with a short pause, until ctx ends.
func (w *Workload) EvictEagerly(ctx context.Context, callers int, pause time.Duration, tally *Tally) {
	var evictors sync.WaitGroup
	for _, c := range w.Clusters {
		for range callers {
			evictors.Go(func() {
				for ctx.Err() == nil {
					w.evictAny(ctx, c, tally)
					timer := time.NewTimer(pause)
					select {
					case <-ctx.Done():
					case <-timer.C:
					}
					timer.Stop()
				}
			})
		}
	}
	evictors.Wait()
}

func (w *Workload) evictAny(ctx context.Context, c *Cluster, tally *Tally) {
	pods, err := w.Available(ctx, c)
	if err != nil || len(pods) == 0 {
		return
	}
	pod := pods[rand.IntN(len(pods))]
	start := time.Now()
	err = c.Evict(ctx, w.Namespace, pod.Name)
	if ctx.Err() != nil {
		tally.Abandon(c.Name, pod.Name, start)
		return
	}
	tally.Record(c.Name, pod.Name, time.Since(start), err)
}

// Available lists the pods of one cluster that are ready and not terminating.
func (w *Workload) Available(ctx context.Context, c *Cluster) ([]corev1.Pod, error) {
	list, err := c.Client.CoreV1().Pods(w.Namespace).List(ctx, metav1.ListOptions{LabelSelector: w.Selector(), ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
		return p.DeletionTimestamp != nil || !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
	}), nil
}
