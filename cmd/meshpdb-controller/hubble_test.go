package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/pkg/admission"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/hubble"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

// TestLastAnswersAreShown: what is answered while the controller ends is in the export.
func TestLastAnswersAreShown(t *testing.T) {
	o := defaults()
	o.clusterName, o.hubble.export.Path = "c1", filepath.Join(t.TempDir(), "flows.json")
	d, err := newDisplay(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = showing(ctx, d, func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		d.Answered(admission.Answer{
			Path: paths.Eviction, User: "jane", Review: "r1", Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "db-0"}},
			Outcome: claim.Outcome{Sentence: "who knows"},
		})
		d.Intended(admission.IntentAnswer{Object: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: "n1"}, Verdict: admission.IntentRefused, Review: "r2"})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(o.hubble.export.Path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	if len(lines) != 2 {
		t.Fatalf("exported %q", content)
	}
	for i, want := range []struct{ uuid, verdict string }{{"r1", "ERROR"}, {"r2", "DROPPED"}} {
		var line struct {
			Flow struct{ UUID, Verdict string }
		}
		if err := json.Unmarshal([]byte(lines[i]), &line); err != nil || line.Flow.UUID != want.uuid || line.Flow.Verdict != want.verdict {
			t.Errorf("%s: %+v, %v", lines[i], line, err)
		}
	}
}

// TestShowingIsCheap: what an answer pays to be shown is its budgets' names. Allocations do not depend on the machine.
func TestShowingIsCheap(t *testing.T) {
	observer, err := hubble.New(hubble.Config{Cluster: "c1", Controller: "meshpdb-controller-1", Capacity: 4095, Queue: 4095, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	d := &shown{observer: observer}
	a := admission.Answer{
		Path: paths.Eviction, User: "jane", Review: "r1", Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "db-0"}},
		Budgets: make([]v1alpha1.MeshPodDisruptionBudget, 2), Outcome: claim.Outcome{Sentence: "who knows"},
	}
	if n := testing.AllocsPerRun(1000, func() { d.Answered(a) }); n > 1 {
		t.Errorf("%.0f allocations for each answer", n)
	}
}

// TestHubbleIsOff unless it is asked for.
func TestHubbleIsOff(t *testing.T) {
	d, err := newDisplay(defaults())
	if _, off := d.(nowhere); !off || err != nil {
		t.Errorf("%T, %v", d, err)
	}
}
