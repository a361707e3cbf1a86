package admission

import (
	"strings"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// IntentReporter tells people of every deletion that was warned of or refused:
// as an Event on each budget, as a metric and in the log, always with the same
// sentence.
type IntentReporter struct {
	recorder events.EventRecorder
	log      logr.Logger
	intents  *prometheus.CounterVec
}

// NewIntentReporter registers the metric:
//
//	meshpdb_intents_total{object,verdict}
func NewIntentReporter(registerer prometheus.Registerer, recorder events.EventRecorder, log logr.Logger) (*IntentReporter, error) {
	r := &IntentReporter{recorder: recorder, log: log, intents: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "meshpdb_intents_total",
		Help: "Answers to deletions of what covered pods live by, by object (node, namespace, deployment, ...) and verdict (admitted, warned, refused, undecided). The API server asks up to three times for one deletion.",
	}, []string{"object", "verdict"})}
	return r, registerer.Register(r.intents)
}

// Answered is told one answer. What would have become of a deletion is no news to the budget's readers.
func (r *IntentReporter) Answered(a IntentAnswer) {
	if a.DryRun {
		return
	}
	r.intents.WithLabelValues(strings.ToLower(a.Object.Kind), string(a.Verdict)).Inc()
	event, known := map[IntentVerdict]string{
		IntentWarned: "DeletionWarned", IntentRefused: "DeletionRefused", IntentUndecided: "DeletionUndecided",
	}[a.Verdict]
	if !known {
		return
	}
	r.log.Info(event, "kind", a.Object.Kind, "namespace", a.Object.Namespace, "name", a.Object.Name, "user", a.User, "sentence", a.Sentence)
	for _, l := range a.Budgets {
		budget := reference(v1alpha1.GroupVersion.WithKind("MeshPodDisruptionBudget"), l.Budget)
		// A series for each object: it has the sentence of its first Event only.
		r.recorder.Eventf(budget, a.Object.DeepCopy(), corev1.EventTypeWarning, event, "Delete", "%s", note(a.Sentence))
	}
}
