package admission

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/events"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

// Reporter tells people of every answer: as an Event on the pod and its
// budget, as metrics and in the log, always with the same sentence.
type Reporter struct {
	// Node, if not nil, returns a node as an informer shows it; nil if there is none. It
	// must not block. Set it before the first answer.
	Node func(name string) *corev1.Node

	recorder  events.EventRecorder
	log       logr.Logger
	decisions *prometheus.CounterVec
	durations *prometheus.HistogramVec
	phases    *prometheus.HistogramVec
	writes    prometheus.Histogram
	rounds    prometheus.Histogram
	// podEvents bounds the Events on pods, nodeEvents those on nodes.
	podEvents, nodeEvents *rate.Limiter
}

// Events on pods are bounded, as those of client-go's older recorder are (a
// burst of 25): a drain has all of them, a storm of requests is counted in the
// budget's series, the metrics and the log. Each one costs the API server as
// much as the decision's own writes.
const (
	podEventInterval = 5 * time.Second
	podEventsBurst   = 25
)

// NewReporter registers the metrics:
//
//	meshpdb_decisions_total{path,verdict,reason}
//	meshpdb_decision_duration_seconds{path,verdict}
//	meshpdb_decision_phase_duration_seconds{phase}
//	meshpdb_decisions_per_write
//	meshpdb_decisions_per_round
func NewReporter(registerer prometheus.Registerer, recorder events.EventRecorder, log logr.Logger) (*Reporter, error) {
	buckets := []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	r := &Reporter{
		recorder:  recorder,
		log:       log,
		podEvents: rate.NewLimiter(rate.Every(podEventInterval), podEventsBurst), nodeEvents: rate.NewLimiter(rate.Every(podEventInterval), podEventsBurst),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meshpdb_decisions_total",
			Help: "Answers to requests that would disrupt a covered pod, or may, by path (see docs/paths.md), verdict (allowed, refused) and reason.",
		}, []string{"path", "verdict", "reason"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "meshpdb_decision_duration_seconds",
			Help: "Time from the request to the answer, in the webhook.", Buckets: buckets,
		}, []string{"path", "verdict"}),
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "meshpdb_decision_phase_duration_seconds",
			Help: "Time of one step of the claim protocol.", Buckets: buckets,
		}, []string{"phase"}),
		writes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meshpdb_decisions_per_write",
			Help: "How many moves on claims (appended, granted, withdrawn, removed) shared a durable write.", Buckets: prometheus.ExponentialBuckets(1, 2, 8),
		}),
		rounds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meshpdb_decisions_per_round",
			Help: "How many decisions shared a round of reads of the clusters.", Buckets: prometheus.ExponentialBuckets(1, 2, 8),
		}),
	}
	for _, c := range []prometheus.Collector{r.decisions, r.durations, r.phases, r.writes, r.rounds} {
		if err := registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Phase is told the duration of one step of a decision.
func (r *Reporter) Phase(_ context.Context, step string, took time.Duration) {
	r.phases.WithLabelValues(step).Observe(took.Seconds())
}

// Write is told how many moves a durable write carried.
func (r *Reporter) Write(moves int) { r.writes.Observe(float64(moves)) }

// Round is told how many decisions shared a round of reads.
func (r *Reporter) Round(decisions int) { r.rounds.Observe(float64(decisions)) }

// Answered is told one answer.
func (r *Reporter) Answered(a Answer) {
	verdict, kind, event := "refused", corev1.EventTypeWarning, "DisruptionRefused"
	if a.Allowed {
		verdict, kind, event = "allowed", corev1.EventTypeNormal, "DisruptionAllowed"
	}
	r.decisions.WithLabelValues(string(a.Path), verdict, reason(a)).Inc()
	r.durations.WithLabelValues(string(a.Path), verdict).Observe(a.Took.Seconds())
	r.log.Info(event, "pod", a.Pod.Namespace+"/"+a.Pod.Name, "uid", a.Pod.UID, "path", a.Path, "user", a.User,
		"dryRun", a.DryRun, "took", a.Took.Round(10*time.Microsecond).String(), "cached", a.Cached, "sentence", a.Sentence)
	if a.DryRun {
		return
	}
	pod := reference(corev1.SchemeGroupVersion.WithKind("Pod"), a.Pod)
	for i := range a.Budgets {
		if a.Budget == "" || nameOf(a.Budgets[i]) == a.Budget {
			budget := reference(v1alpha1.GroupVersion.WithKind("MeshPodDisruptionBudget"), &a.Budgets[i])
			if r.podEvents.Allow() {
				r.recorder.Eventf(pod, budget, kind, event, "Disrupt", "%s", note(a.Sentence))
			}
			// About no pod in particular, so that it becomes a series: one Event with a count,
			// where the pods have one each.
			r.recorder.Eventf(budget, nil, kind, event, "Disrupt", "%s", note(a.Sentence))
			r.drainBlocked(a, budget)
		}
	}
}

// drainBlocked tells of a refusal on the node as well, if somebody drains it: the
// eviction of a pod from a node that is cordoned. One series for each node and budget.
func (r *Reporter) drainBlocked(a Answer, budget *corev1.ObjectReference) {
	if a.Allowed || a.Path != paths.Eviction || a.Pod.Spec.NodeName == "" || r.Node == nil {
		return
	}
	node := r.Node(a.Pod.Spec.NodeName)
	if node == nil || !node.Spec.Unschedulable || !r.nodeEvents.Allow() {
		return
	}
	about := reference(corev1.SchemeGroupVersion.WithKind("Node"), node)
	r.recorder.Eventf(about, budget, corev1.EventTypeWarning, "DrainBlocked", "Evict", "%s", note(fmt.Sprintf("pod %s/%s cannot be evicted yet: %s", a.Pod.Namespace, a.Pod.Name, a.Sentence)))
}

// reference names an object without its version: Events of one object are a
// series only while their references are the same, and a budget's version changes with its status.
func reference(kind schema.GroupVersionKind, o metav1.Object) *corev1.ObjectReference {
	version, name := kind.ToAPIVersionAndKind()
	return &corev1.ObjectReference{APIVersion: version, Kind: name, Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID()}
}

func reason(a Answer) string {
	switch {
	case a.BrokenGlass:
		return "GlassBroken"
	case a.Accounted:
		return "Accounted"
	case a.Moot:
		return "Moot"
	case a.Waived:
		return "Waived"
	case a.Repeated:
		return "Repeated"
	case a.GaveWay:
		return "GaveWay"
	case a.Cached && a.Decision.Verdict == budget.Invalid:
		return "NativeBudget"
	case a.Decision.Verdict != budget.Invalid:
		return a.Decision.Reason.String()
	default:
		return undecided
	}
}

// undecided is the reason where nobody asked the budgets, or nobody could answer.
const undecided = "Undecided"

// note keeps a sentence below the 1 KiB that events.k8s.io accepts.
func note(sentence string) string { return cut(sentence, 1000) }

// cut shortens a text to limit bytes.
func cut(text string, limit int) string {
	if len(text) > limit {
		return strings.ToValidUTF8(text[:limit], "") + "…"
	}
	return text
}
