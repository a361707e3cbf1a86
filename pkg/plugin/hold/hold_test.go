package hold

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) *metav1.Time {
	t := metav1.NewTime(noon.Add(-d))
	return &t
}

type change = func(*v1alpha1.MeshPodDisruptionBudget)

// budgetOf is prod/db, maxUnavailable 1 over nine pods of three clusters, one of which is missing.
func budgetOf(changes ...change) *v1alpha1.MeshPodDisruptionBudget {
	one := intstr.FromInt32(1)
	b := &v1alpha1.MeshPodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "prod", Name: "db", Generation: 2},
		Spec:       v1alpha1.MeshPodDisruptionBudgetSpec{Service: "db", MaxUnavailable: &one},
		Status: v1alpha1.MeshPodDisruptionBudgetStatus{
			ObservedGeneration: 2, CurrentHealthy: 8, DesiredHealthy: 8, ExpectedPods: 9,
			Conditions: []metav1.Condition{
				{Type: v1alpha1.ConditionEnforced, Status: metav1.ConditionTrue},
				{Type: v1alpha1.ConditionDisruptionAllowed, Status: metav1.ConditionFalse, Reason: "InsufficientPods", LastTransitionTime: *ago(time.Minute), Message: "said"},
			},
		},
	}
	for _, name := range []string{"c3", "c1", "c2"} {
		b.Status.Clusters = append(b.Status.Clusters, v1alpha1.ClusterStatus{Name: name, Reachable: true, Since: *ago(time.Hour), ExpectedPods: 3, CurrentHealthy: 3, Bound: "maxUnavailable 1"})
	}
	for _, c := range changes {
		c(b)
	}
	return b
}

// cluster changes the row of c2.
func cluster(change func(*v1alpha1.ClusterStatus)) change {
	return func(b *v1alpha1.MeshPodDisruptionBudget) { change(&b.Status.Clusters[2]) }
}

func short(healthy, inFlight int32) change {
	return cluster(func(c *v1alpha1.ClusterStatus) {
		c.CurrentHealthy, c.DisruptionsInFlight, c.ShortSince = healthy, inFlight, ago(2*time.Minute)
	})
}

func lost(b *v1alpha1.MeshPodDisruptionBudget) {
	c := &b.Status.Clusters[0]
	c.Reachable, c.CurrentHealthy, c.Message, c.Since = false, 0, "its kvstore does not answer in time", *ago(90 * time.Second)
}

func allowed(n int32) change {
	return func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.DisruptionsAllowed = n }
}

func TestWhoHoldsItBack(t *testing.T) {
	for _, c := range []struct {
		name    string
		changes []change
		// want is cluster, reason and since of each holder; says and frees are words of the first.
		want, says, frees, state string
	}{
		{"free", []change{allowed(1)}, "", "", "", "free"},
		{"on the way out", []change{short(2, 1)}, "c2 InFlight 2m0s", "1 of 3 pods in cluster c2 is in flight (on the way out, and not replaced yet)", "the pod's successor, once it is Ready in c2", "held back by c2 since 11:58:00Z (2m ago)"},
		{"several on the way out", []change{short(1, 2)}, "c2 InFlight 2m0s", "2 of 3 pods in cluster c2 are in flight (on the way out, and not replaced yet)", "the pods' successors, once they are Ready in c2", "held back by c2 since 11:58:00Z (2m ago)"},
		{"more in flight than missing", []change{short(2, 3)}, "c2 InFlight 2m0s", "1 of 3 pods in cluster c2 is in flight", "the pod's successor, once it is Ready in c2", "held back by c2 since 11:58:00Z (2m ago)"},
		{"not available", []change{short(1, 0)}, "c2 Unavailable 2m0s", "2 of 3 pods in cluster c2 are not available", "the missing pods, once they are Ready in c2", "held back by c2 since 11:58:00Z (2m ago)"},
		{"both", []change{short(1, 1)}, "c2 Unavailable 2m0s", "2 of 3 pods in cluster c2 are not available, 1 of them in flight (on the way out)", "Ready", "held back by c2 since 11:58:00Z (2m ago)"},
		{"unread, and those that people can free first", []change{short(2, 1), lost}, "c3 Unread 1m30s, c2 InFlight 2m0s", "cluster c3 cannot be read: its kvstore does not answer in time", "if c3 is gone for ever, forgetting it", "held back by c3 since 11:58:30Z (90s ago), c2 since 11:58:00Z (2m ago)"},
		{"never", []change{short(2, 1), func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.DesiredHealthy = 9 }}, " Never 1m0s, c2 InFlight 2m0s", "budget prod/db with maxUnavailable 1 wants all of its 9 pods available", "a larger maxUnavailable, in every cluster that holds the budget (c1, c2, c3); or more pods than 9", "allows nothing since 11:59:00Z (60s ago), and cannot allow any with 9 pods: maxUnavailable 1 wants all 9"},
		{"another cluster's bound", []change{func(b *v1alpha1.MeshPodDisruptionBudget) {
			b.Status.DesiredHealthy, b.Status.Clusters[1].Bound = 9, "minAvailable 100%"
		}}, " Never 1m0s", "with minAvailable 100% of cluster c1 wants", "a smaller minAvailable, in every cluster that holds the budget (c1, c2, c3)", "allows nothing since 11:59:00Z (60s ago), and can never allow any: minAvailable 100% of cluster c1 wants all 9"},
		{"no pods", []change{func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.ExpectedPods = 0 }}, " NoPods 1m0s", "no cluster expects a pod of service db", "pods", "no pods since 11:59:00Z (60s ago)"},
		{"new", []change{func(b *v1alpha1.MeshPodDisruptionBudget) { b.Generation = 3 }}, " Unobserved ", "no controller has looked at budget prod/db", "once it has looked", "not looked at yet"},
		{"never looked at", []change{func(b *v1alpha1.MeshPodDisruptionBudget) {
			b.Status = v1alpha1.MeshPodDisruptionBudgetStatus{}
			b.Generation = 0
		}}, " Unobserved ", "no controller", "once it has looked", "not looked at yet"},
		{"they disagree", []change{func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.Conditions[1].Reason = "SyncFailed" }}, " Undecided 1m0s", "said", "the same spec.clusters", "undecided since 11:59:00Z (60s ago)"},
		{"nobody knows", nil, " Undecided 1m0s", "said", "controllers", "undecided since 11:59:00Z (60s ago)"},
		{"suspended", []change{short(2, 1), func(b *v1alpha1.MeshPodDisruptionBudget) { b.Spec.Suspend = true }}, "c2 InFlight 2m0s", "", "", "suspended in this cluster, elsewhere held back by c2 since 11:58:00Z (2m ago)"},
		{"suspended and free", []change{allowed(1), func(b *v1alpha1.MeshPodDisruptionBudget) { b.Spec.Suspend = true }}, "", "", "", "suspended in this cluster, free elsewhere"},
		{"not enforced", []change{allowed(1), func(b *v1alpha1.MeshPodDisruptionBudget) {
			b.Status.Conditions[0] = metav1.Condition{Type: v1alpha1.ConditionEnforced, Status: metav1.ConditionFalse, Message: "no service"}
		}}, "", "", "", "not enforced: no service"},
	} {
		r := Of(budgetOf(c.changes...))
		var got []string
		for _, h := range r.HeldBackBy {
			since := ""
			if h.Since != nil {
				since = noon.Sub(h.Since.Time).String()
			}
			got = append(got, h.Cluster+" "+string(h.Reason)+" "+since)
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: held back by %q, want %q", c.name, got, c.want)
			continue
		}
		if len(got) > 0 && (!strings.Contains(r.HeldBackBy[0].Sentence, c.says) || !strings.Contains(r.HeldBackBy[0].Frees, c.frees)) {
			t.Errorf("%s: %+v", c.name, r.HeldBackBy[0])
		}
		if state := r.State(noon); state != c.state {
			t.Errorf("%s: state is %q, want %q", c.name, state, c.state)
		}
	}
}

func TestRows(t *testing.T) {
	r := Of(budgetOf(short(1, 1), lost))
	want := map[string]string{"c1": "complete", "c2": "2 not available, 1 of them in flight since 11:58:00Z (2m ago)", "c3": "cannot be read since 11:58:30Z (90s ago)"}
	last := ""
	for _, c := range r.Clusters {
		if got := c.State(noon); got != want[c.Name] || c.Name < last {
			t.Errorf("%s after %s: %q, want %q", c.Name, last, got, want[c.Name])
		}
		last = c.Name
	}
	if len(r.Clusters) != 3 || r.Clusters[2].Unavailable != 0 || r.Clusters[1].Unavailable != 2 {
		t.Errorf("rows are %+v", r.Clusters)
	}
}

func TestSummary(t *testing.T) {
	if got, want := Of(budgetOf(short(2, 1))).Summary(noon), "budget prod/db allows no disruption since 11:59:00Z (60s ago): 8 of 9 pods available, it needs 8 (maxUnavailable 1)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	two := Of(budgetOf(allowed(2), func(b *v1alpha1.MeshPodDisruptionBudget) {
		share := intstr.FromString("60%")
		b.Spec.MaxUnavailable, b.Spec.MinAvailable = nil, &share
		b.Status.Conditions = nil
	}))
	if got := two.Summary(noon); !strings.HasPrefix(got, "budget prod/db allows 2 disruptions: ") || !strings.HasSuffix(got, "(minAvailable 60%)") || two.Enforced {
		t.Errorf("got %q", got)
	}
	if got := Ago(*ago(2 * time.Minute), time.Time{}); got != "2026-11-22T11:58:00Z" {
		t.Errorf("without a clock got %q", got)
	}
	if got := Ago(*ago(30 * time.Hour), noon); got != "2026-11-21T06:00:00Z (30h ago)" {
		t.Errorf("got %q", got)
	}
}

// TestSaid: who holds a budget back, since when, before a cause that may be long.
func TestSaid(t *testing.T) {
	r := Of(budgetOf(short(2, 1), lost))
	for i, want := range []string{
		"cluster c3 cannot be read since 11:58:30Z (90s ago): its kvstore does not answer in time",
		"1 of 3 pods in cluster c2 is in flight (on the way out, and not replaced yet), since 11:58:00Z (2m ago)",
	} {
		if got := r.HeldBackBy[i].Said(noon); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	both := Of(budgetOf(short(1, 1))).HeldBackBy[0]
	if got := both.Said(noon); got != "2 of 3 pods in cluster c2 are not available since 11:58:00Z (2m ago), 1 of them in flight (on the way out)" {
		t.Errorf("said %q", got)
	}
	if frees := r.Frees(); !strings.Contains(frees, "forgetting it; the pod's successor, once it is Ready in c2") {
		t.Errorf("would be freed by %q", frees)
	}
	if (Holder{Sentence: "x"}).Said(noon) != "x" {
		t.Error("a time that is not known is told")
	}
}

// TestCommands: each helps with what is wrong, and stands alone.
func TestCommands(t *testing.T) {
	never := func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.DesiredHealthy = 9 }
	hopeless := func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.Clusters[1].Bound = "minAvailable 100%" }
	for want, changes := range map[string][]change{
		"kubectl meshpdb doctor, kubectl meshpdb forget c3 -A": {lost},
		"kubectl edit meshpoddisruptionbudget db -n prod":      {never},
		"kubectl meshpdb doctor":                               {func(b *v1alpha1.MeshPodDisruptionBudget) { b.Generation = 3 }},
		"":                                                     {short(2, 1)},
	} {
		h := Of(budgetOf(changes...)).HeldBackBy[0]
		var got []string
		for _, c := range h.Commands {
			got = append(got, c.Run)
			if !strings.HasPrefix(c.Purpose, "to ") {
				t.Errorf("%s is for %q", c.Run, c.Purpose)
			}
		}
		if strings.Join(got, ", ") != want || strings.Contains(h.Frees, "kubectl") {
			t.Errorf("got %q and %q, want %q", h.Frees, got, want)
		}
	}
	if got := Of(budgetOf(never, hopeless)).HeldBackBy[0].Frees; strings.Contains(got, "more pods") {
		t.Errorf("however many pods there are, it allows none: %q", got)
	}
}

// TestCounted: what cannot be read may be there.
func TestCounted(t *testing.T) {
	for want, b := range map[string]*v1alpha1.MeshPodDisruptionBudget{"8 of 9 pods available": budgetOf(), "at least 8 of 9 pods available": budgetOf(lost)} {
		if got := Of(b).Counted(); got != want || !strings.Contains(Of(b).Summary(noon), ": "+want+", it needs 8") {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestManyHolders: a table names a few of them.
func TestManyHolders(t *testing.T) {
	r := Report{}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		r.HeldBackBy = append(r.HeldBackBy, Holder{Cluster: name, Reason: InFlight, Frees: "the pods of " + name})
	}
	if got := r.State(noon); got != "held back by a, b, c, and 2 more" {
		t.Errorf("state is %q", got)
	}
	if got := r.Frees(); got != "the pods of a; the pods of b; the pods of c; and what 2 more clusters wait for" {
		t.Errorf("freed by %q", got)
	}
}
