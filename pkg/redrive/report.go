package redrive

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// result is what became of one try.
type result string

const (
	// resultEvicted: the pod is on its way.
	resultEvicted result = "evicted"
	// resultKicked: the owner's controller tries again.
	resultKicked result = "kicked"
	// resultRefused: later.
	resultRefused result = "refused"
	// resultGone: there is nothing to do any more.
	resultGone   result = "gone"
	resultFailed result = "failed"
)

// Events are bounded: a node may hold hundreds of pods of a budget.
const (
	eventInterval = 5 * time.Second
	eventBurst    = 25
)

// Reporter tells people what waits and what was done about it, as Events on
// the budget and as a metric.
type Reporter struct {
	recorder events.EventRecorder
	redrives *prometheus.CounterVec
	events   *rate.Limiter
}

// NewReporter registers the metric meshpdb_redriven_disruptions_total{kind,result}.
func NewReporter(registerer prometheus.Registerer, recorder events.EventRecorder) (*Reporter, error) {
	r := &Reporter{
		recorder: recorder, events: rate.NewLimiter(rate.Every(eventInterval), eventBurst),
		redrives: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meshpdb_redriven_disruptions_total",
			Help: "Tries to complete what Kubernetes itself was refused, by kind (Pod: an eviction for a taint; else an owner whose controller is to try again) and result (evicted, kicked, refused, gone, failed).",
		}, []string{"kind", "result"}),
	}
	return r, registerer.Register(r.redrives)
}

// waits tells that something has begun to wait.
func (r *Reporter) waits(b *v1alpha1.MeshPodDisruptionBudget, s *sighting) {
	if r.events.Allow() {
		r.recorder.Eventf(aboutBudget(b), about(b.Namespace, s), corev1.EventTypeNormal, "DisruptionWaiting", "Redrive",
			"%s %s waits until budget %s/%s lets it: %s", s.kind, s.name, b.Namespace, b.Name, s.sentence)
	}
}

// redriven tells of one try.
func (r *Reporter) redriven(b *v1alpha1.MeshPodDisruptionBudget, s *sighting, done result) {
	r.redrives.WithLabelValues(s.kind, string(done)).Inc()
	var note string
	switch done {
	case resultEvicted:
		note = "%s %s was evicted after %s: %s"
	case resultKicked:
		note = "the controller of %s %s was told to try again after %s: %s"
	default:
		return
	}
	if r.events.Allow() {
		r.recorder.Eventf(aboutBudget(b), about(b.Namespace, s), corev1.EventTypeNormal, "DisruptionRedriven", "Redrive",
			note, s.kind, s.name, max(time.Since(s.since), 0).Round(time.Second), s.sentence)
	}
}

// References are without versions: Events of one object are a series only while their references are the same.

func aboutBudget(b *v1alpha1.MeshPodDisruptionBudget) *corev1.ObjectReference {
	version, kind := v1alpha1.GroupVersion.WithKind("MeshPodDisruptionBudget").ToAPIVersionAndKind()
	return reference(version, kind, b.Namespace, b.Name, b.UID)
}

func about(namespace string, s *sighting) *corev1.ObjectReference {
	version := "apps/v1"
	if s.kind == podKind || s.kind == "ReplicationController" {
		version = "v1"
	}
	return reference(version, s.kind, namespace, s.name, s.uid)
}

func reference(version, kind, namespace, name string, uid types.UID) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: version, Kind: kind, Namespace: namespace, Name: name, UID: uid}
}
