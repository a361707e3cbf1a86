package admission

import (
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

func TestIntentsAreTold(t *testing.T) {
	events, registry, lines := &recorder{}, prometheus.NewRegistry(), []string{}
	r, err := NewIntentReporter(registry, events, funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	node := corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "u1"}
	deployment := corev1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "n", Name: "db", UID: "u2"}
	for _, a := range []IntentAnswer{
		{Object: node, Verdict: IntentAdmitted},
		{Object: node, User: "jane", Verdict: IntentWarned, Sentence: "it takes 100% of them", Budgets: losing(1, warn, warn).Budgets},
		{Object: deployment, Verdict: IntentRefused, Sentence: "it would", Budgets: losing(1, deny).Budgets},
		{Object: deployment, Verdict: IntentUndecided, Sentence: "who knows"},
		{Object: deployment, Verdict: IntentRefused, Sentence: "it would", Budgets: losing(1, deny).Budgets, DryRun: true},
	} {
		r.Answered(a)
	}
	want := []string{
		"object=deployment verdict=refused: 1", "object=deployment verdict=undecided: 1",
		"object=node verdict=admitted: 1", "object=node verdict=warned: 1",
	}
	if got := gathered(t, registry, "meshpdb_intents_total"); !slices.Equal(got, want) {
		t.Errorf("counted %q, want %q", got, want)
	}
	told := []string{
		"b0<n1 Warning DeletionWarned Delete it takes 100% of them", "b1<n1 Warning DeletionWarned Delete it takes 100% of them",
		"b0<db Warning DeletionRefused Delete it would",
	}
	if !slices.Equal(events.events, told) {
		t.Errorf("events %q, want %q", events.events, told)
	}
	if len(lines) != 3 || !strings.Contains(lines[0], `"user"="jane" "sentence"="it takes 100% of them"`) || !strings.Contains(lines[1], `"kind"="Deployment" "namespace"="n" "name"="db"`) {
		t.Errorf("logged %q", lines)
	}
	if _, err := NewIntentReporter(registry, events, funcr.New(func(_, _ string) {}, funcr.Options{})); err == nil {
		t.Error("the metric was registered twice")
	}
}
