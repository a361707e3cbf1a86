package plugin

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// TestNamesPods: those of the cluster that is asked, by what is the matter with them, and no others.
func TestNamesPods(t *testing.T) {
	f := newFleet(t)
	f.order = []string{"c1"}
	here := func(b *v1alpha1.MeshPodDisruptionBudget) {
		spent(b)
		since := before(2 * time.Minute)
		row := &b.Status.Clusters[0]
		row.CurrentHealthy, row.DisruptionsInFlight, row.ShortSince = 0, 2, &since
		b.Status.CurrentHealthy, b.Status.DisruptionsInFlight = 5, 3
	}
	ledger := &v1alpha1.DisruptionLedger{
		ObjectMeta: metav1.ObjectMeta{Name: "prod"},
		Claims:     []v1alpha1.DisruptionClaim{{UID: "u1", Pod: "db-1", State: "Granted"}, {UID: "u3", Pod: "db-3", State: "Pending"}},
	}
	f.add(t, "c1", budgetOf(here), serviceOf("db"), ledger,
		podOf("db-0", "db", "n1", func(p *corev1.Pod) { at := before(0); p.DeletionTimestamp = &at }),
		podOf("db-1", "db", "n2", func(p *corev1.Pod) { p.UID = "u1" }),
		podOf("db-2", "db", "n3", func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }),
		podOf("db-3", "db", "n3", func(p *corev1.Pod) { p.UID = "u3" }),
		podOf("done-0", "db", "n3", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }),
		podOf("web-0", "web", "n1", func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }))
	f.add(t, "c2", budgetOf())
	f.wantGolden(t, "status-pods", "status db", "status db -o jsonpath={.budgets[0].heldBackBy[0].pods}")
}
