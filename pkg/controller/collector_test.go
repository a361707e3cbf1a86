package controller

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/claim"
)

// gauges are the samples of a registry by name and labels, without help and type.
func gauges(t *testing.T, r prometheus.Gatherer) string {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			t.Fatal(err)
		}
	}
	var lines []string
	for line := range strings.Lines(text.String()) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimPrefix(strings.TrimSpace(line), "meshpdb_"))
		}
	}
	return strings.Join(lines, "\n")
}

func TestBudgetsAreCollected(t *testing.T) {
	h := newHall(t)
	waits := metav1.NewTime(time.Unix(1700000000, 0))
	b := remembering(newBudget("n", "b"), "c1", "c2")
	b.Status.Clusters[0].Reachable = true
	b.Status.ObservedGeneration, b.Status.DisruptionsAllowed, b.Status.CurrentHealthy, b.Status.DesiredHealthy = 1, 2, 7, 5
	b.Status.ExpectedPods, b.Status.DisruptionsInFlight, b.Status.WaitingDisruptions = 9, 3, 4
	b.Status.Waiting = []v1alpha1.WaitingDisruption{{Since: waits}, {Since: metav1.Now()}}
	meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionEnforced, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonSuspended})
	fresh := newBudget("n", "fresh")
	for _, o := range []*v1alpha1.MeshPodDisruptionBudget{b, fresh} {
		if err := h.WithWatch.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.WithWatch.Status().Update(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	leads := true
	c := NewCollector(h, func(context.Context) ([]claim.Claim, error) { return nil, nil }, func() bool { return leads }, logr.Discard())
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	const want = `budget_available_pods{budget="b",namespace="n"} 7
budget_clusters{budget="b",namespace="n"} 2
budget_clusters_reachable{budget="b",namespace="n"} 1
budget_desired_pods{budget="b",namespace="n"} 5
budget_disruptions_allowed{budget="b",namespace="n"} 2
budget_disruptions_in_flight{budget="b",namespace="n"} 3
budget_enforced{budget="b",namespace="n",reason="Suspended"} 0
budget_expected_pods{budget="b",namespace="n"} 9
budget_oldest_waiting_timestamp_seconds{budget="b",namespace="n"} 1.7e+09
budget_waiting_disruptions{budget="b",namespace="n"} 4
claims{state="granted"} 0
claims{state="pending"} 0`
	expect(t, "gauges", gauges(t, registry), want)
	if err := h.WithWatch.Delete(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	expect(t, "gauges of a budget that is gone", gauges(t, registry), "claims{state=\"granted\"} 0\nclaims{state=\"pending\"} 0")
	leads = false
	expect(t, "gauges of who does not lead", gauges(t, registry), "")
}

func TestClaimsAreCollected(t *testing.T) {
	c := NewCollector(newHall(t), nil, func() bool { return true }, logr.Discard())
	at := func(second int64, claims ...claim.Claim) string {
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(claimsAt{c, claims, time.Unix(second, 0)})
		return gauges(t, registry)
	}
	pending, granted := claim.Claim{ID: "a", State: claim.Pending}, claim.Claim{ID: "a", State: claim.Granted}
	other := claim.Claim{ID: "b", State: claim.Granted}
	expect(t, "one pends", at(100, pending), `claims{state="granted"} 0
claims{state="pending"} 1
claims_oldest_timestamp_seconds{state="pending"} 100`)
	// Granted is another state: since now. That it is asked for again is not.
	granted.Seq = 3
	expect(t, "it is granted", at(200, granted), `claims{state="granted"} 1
claims{state="pending"} 0
claims_oldest_timestamp_seconds{state="granted"} 200`)
	granted.Seq = 4
	expect(t, "another one", at(300, other, granted), `claims{state="granted"} 2
claims{state="pending"} 0
claims_oldest_timestamp_seconds{state="granted"} 200`)
	expect(t, "the first is gone", at(400, other), `claims{state="granted"} 1
claims{state="pending"} 0
claims_oldest_timestamp_seconds{state="granted"} 300`)
	at(500)
	expect(t, "what is remembered of none", len(c.first), 0)
}

// claimsAt collects claims at a time.
type claimsAt struct {
	*Collector
	claims []claim.Claim
	now    time.Time
}

func (c claimsAt) Collect(ch chan<- prometheus.Metric) { c.collectClaims(ch, c.claims, c.now) }

// A scrape must not fail as a whole for what cannot be listed yet.
func TestWhatCannotBeListedIsLeftOut(t *testing.T) {
	h := newHall(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCollector(h, func(context.Context) ([]claim.Claim, error) { return nil, errors.New("not in step") }, func() bool { return true }, logr.Discard()))
	expect(t, "gauges", gauges(t, registry), "")
}
