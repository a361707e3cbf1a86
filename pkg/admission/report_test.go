package admission

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

// recorder notes events as "regarding<related type reason action note".
type recorder struct{ events []string }

func (r *recorder) Eventf(regarding, related runtime.Object, kind, reason, action, note string, args ...any) {
	r.events = append(r.events, fmt.Sprintf("%s<%s %s %s %s "+note, append([]any{objectName(regarding), objectName(related), kind, reason, action}, args...)...))
}

func objectName(o runtime.Object) string {
	reference, ok := o.(*corev1.ObjectReference)
	if !ok {
		return "none"
	}
	if reference.Kind == "" || reference.APIVersion == "" || reference.ResourceVersion != "" {
		return fmt.Sprintf("%+v", reference)
	}
	return reference.Name
}

func newReporter(t *testing.T) (*Reporter, *recorder, *prometheus.Registry, *[]string) {
	t.Helper()
	events, registry, lines := &recorder{}, prometheus.NewRegistry(), &[]string{}
	log := funcr.New(func(_, args string) { *lines = append(*lines, args) }, funcr.Options{})
	r, err := NewReporter(registry, events, log)
	if err != nil {
		t.Fatal(err)
	}
	return r, events, registry, lines
}

func decision(v budget.Verdict, r budget.Reason) budget.Decision {
	return budget.Decision{Verdict: v, Reason: r}
}

func TestMetrics(t *testing.T) {
	r, _, registry, _ := newReporter(t)
	for _, a := range []Answer{
		{Path: paths.Eviction, Outcome: yes, Took: 3 * time.Millisecond},
		{Path: paths.Eviction, Outcome: yes, Took: 30 * time.Millisecond},
		{Path: paths.Eviction, Outcome: no},
		{Path: paths.Eviction, Outcome: claim.Outcome{Allowed: true, Repeated: true}},
		{Path: paths.Eviction, Outcome: claim.Outcome{Undecidable: true, Sentence: "starting"}},
		{Path: paths.Deletion, Outcome: claim.Outcome{Undecidable: true, Decision: decision(budget.Deny, budget.ClusterUnread)}},
		{Path: paths.Deletion, Outcome: claim.Outcome{Undecidable: true, Decision: decision(budget.Deny, budget.ViewsDiffer)}},
		{Path: paths.Deletion, Outcome: claim.Outcome{Undecidable: true, Decision: decision(budget.Deny, budget.Unbounded)}},
		// A dry-run counts as well: it was asked and answered.
		{Path: paths.Deletion, Outcome: no, DryRun: true},
		{Path: paths.Eviction, Outcome: claim.Outcome{Allowed: true, Waived: true}, BrokenGlass: true},
		{Path: paths.ReplicaSet, Outcome: claim.Outcome{Allowed: true, Waived: true}},
		{Path: paths.Eviction, Outcome: claim.Outcome{Cached: true}},
		{Path: paths.Namespace, Accounted: true, Outcome: claim.Outcome{Allowed: true}},
	} {
		a.Pod = pod()
		r.Answered(a)
	}
	r.Phase(t.Context(), "ReadClusters", 2*time.Millisecond)
	want := []string{
		"path=deletion reason=ClusterNotRead verdict=refused: 1",
		"path=deletion reason=InsufficientPods verdict=refused: 1",
		"path=deletion reason=NoBound verdict=refused: 1",
		"path=deletion reason=ViewsDiffer verdict=refused: 1",
		"path=eviction reason=GlassBroken verdict=allowed: 1",
		"path=eviction reason=InsufficientPods verdict=refused: 1",
		"path=eviction reason=NativeBudget verdict=refused: 1",
		"path=eviction reason=Repeated verdict=allowed: 1",
		"path=eviction reason=SufficientPods verdict=allowed: 2",
		"path=eviction reason=Undecided verdict=refused: 1",
		"path=namespace reason=Accounted verdict=allowed: 1",
		"path=replicaset reason=Waived verdict=allowed: 1",
	}
	if got := gathered(t, registry, "meshpdb_decisions_total"); !slices.Equal(got, want) {
		t.Errorf("decisions:\n got %q\nwant %q", got, want)
	}
	durations := gathered(t, registry, "meshpdb_decision_duration_seconds")
	for _, want := range []string{"path=eviction verdict=allowed: 4 in 0.033s", "path=deletion verdict=refused: 4 in 0.000s", "path=namespace verdict=allowed: 1 in 0.000s"} {
		if !slices.Contains(durations, want) {
			t.Errorf("durations lack %q: %q", want, durations)
		}
	}
	if got := gathered(t, registry, "meshpdb_decision_phase_duration_seconds"); !slices.Equal(got, []string{"phase=ReadClusters: 1 in 0.002s"}) {
		t.Errorf("phases: %q", got)
	}
	if _, err := NewReporter(registry, &recorder{}, funcr.New(func(_, _ string) {}, funcr.Options{})); err == nil {
		t.Error("metrics were registered twice")
	}
}

// gathered reads a counter as "label=value: count" and a histogram as "label=value: count in sum".
func gathered(t *testing.T, registry *prometheus.Registry, name string) []string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			if c := m.GetCounter(); c != nil {
				rows = append(rows, fmt.Sprintf("%s: %.0f", strings.Join(labels, " "), c.GetValue()))
				continue
			}
			rows = append(rows, fmt.Sprintf("%s: %d in %.3fs", strings.Join(labels, " "), m.GetHistogram().GetSampleCount(), m.GetHistogram().GetSampleSum()))
		}
	}
	return rows
}

func TestEvents(t *testing.T) {
	two := []v1alpha1.MeshPodDisruptionBudget{budgetOf("b"), budgetOf("b2")}
	for name, c := range map[string]struct {
		answer Answer
		want   []string
	}{
		"refused": {
			Answer{Path: paths.Eviction, Outcome: no},
			[]string{"db-0<b Warning DisruptionRefused Disrupt there is no room", "b<none Warning DisruptionRefused Disrupt there is no room"},
		},
		"allowed": {
			Answer{Path: paths.Deletion, Outcome: yes},
			[]string{"db-0<b Normal DisruptionAllowed Disrupt there is room", "b<none Normal DisruptionAllowed Disrupt there is room"},
		},
		"no budget decided": {
			Answer{Path: paths.Deletion, Outcome: claim.Outcome{Sentence: "starting"}},
			[]string{
				"db-0<b Warning DisruptionRefused Disrupt starting", "b<none Warning DisruptionRefused Disrupt starting",
				"db-0<b2 Warning DisruptionRefused Disrupt starting", "b2<none Warning DisruptionRefused Disrupt starting",
			},
		},
		"dry-run": {Answer{Path: paths.Deletion, Outcome: no, DryRun: true}, nil},
		// Not a format.
		"percentage": {
			Answer{Path: paths.Eviction, Outcome: claim.Outcome{Budget: "n/b", Sentence: "needs 50% of %d"}},
			[]string{"db-0<b Warning DisruptionRefused Disrupt needs 50% of %d", "b<none Warning DisruptionRefused Disrupt needs 50% of %d"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, events, _, lines := newReporter(t)
			c.answer.Pod, c.answer.Budgets, c.answer.User = pod(), two, "jane"
			r.Answered(c.answer)
			if !slices.Equal(events.events, c.want) {
				t.Errorf("got  %q\nwant %q", events.events, c.want)
			}
			if len(*lines) != 1 || !strings.Contains((*lines)[0], fmt.Sprintf("%q", c.answer.Sentence)) || !strings.Contains((*lines)[0], `"user"="jane"`) {
				t.Errorf("log: %q", *lines)
			}
		})
	}
}

// Who drains a node finds on it why it does not become empty.
func TestABlockedDrainIsToldOnTheNode(t *testing.T) {
	cordoned := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "n1-uid"}, Spec: corev1.NodeSpec{Unschedulable: true}}
	running := pod()
	running.Spec.NodeName = "n1"
	for name, c := range map[string]struct {
		answer Answer
		node   *corev1.Node
		want   bool
	}{
		"drained":             {Answer{Path: paths.Eviction, Outcome: no}, cordoned, true},
		"undecided":           {Answer{Path: paths.Eviction, Outcome: claim.Outcome{Undecidable: true, Sentence: "there is no room"}}, cordoned, true},
		"not cordoned":        {Answer{Path: paths.Eviction, Outcome: no}, &corev1.Node{}, false},
		"unknown":             {Answer{Path: paths.Eviction, Outcome: no}, nil, false},
		"allowed":             {Answer{Path: paths.Eviction, Outcome: yes}, cordoned, false},
		"deleted by somebody": {Answer{Path: paths.Deletion, Outcome: no}, cordoned, false},
		"dry-run":             {Answer{Path: paths.Eviction, Outcome: no, DryRun: true}, cordoned, false},
	} {
		t.Run(name, func(t *testing.T) {
			r, events, _, _ := newReporter(t)
			asked := ""
			r.Node = func(name string) *corev1.Node { asked = name; return c.node }
			c.answer.Pod, c.answer.Budgets = running, []v1alpha1.MeshPodDisruptionBudget{budgetOf("b")}
			r.Answered(c.answer)
			const event = "n1<b Warning DrainBlocked Evict pod n/db-0 cannot be evicted yet: there is no room"
			if got := slices.Contains(events.events, event); got != c.want || len(events.events) != 2 && !c.want && !c.answer.DryRun {
				t.Errorf("got %q", events.events)
			}
			if c.want && asked != "n1" {
				t.Errorf("node %q was looked at", asked)
			}
		})
	}
	t.Run("a storm", func(t *testing.T) {
		r, events, _, _ := newReporter(t)
		r.Node = func(string) *corev1.Node { return cordoned }
		for range 500 {
			r.Answered(Answer{Path: paths.Eviction, Outcome: no, Pod: running, Budgets: []v1alpha1.MeshPodDisruptionBudget{budgetOf("b")}})
		}
		told := 0
		for _, e := range events.events {
			if strings.Contains(e, "DrainBlocked") {
				told++
			}
		}
		if told < podEventsBurst || told > podEventsBurst+5 {
			t.Errorf("%d Events on the node", told)
		}
	})
}

// A storm of requests must not become a storm of Events; the budget's are one series.
func TestEventsOnPodsAreBounded(t *testing.T) {
	r, events, _, _ := newReporter(t)
	for range 500 {
		r.Answered(Answer{Path: paths.Eviction, Outcome: no, Pod: pod(), Budgets: []v1alpha1.MeshPodDisruptionBudget{budgetOf("b")}})
	}
	pods := 0
	for _, e := range events.events {
		if strings.HasPrefix(e, "db-0<") {
			pods++
		}
	}
	if pods < podEventsBurst || pods > podEventsBurst+5 || len(events.events)-pods != 500 {
		t.Errorf("%d Events on pods and %d on the budget", pods, len(events.events)-pods)
	}
}

// events.k8s.io refuses notes above 1 KiB; half a character must not spoil it either.
func TestNotesAreCut(t *testing.T) {
	for _, sentence := range []string{strings.Repeat("x", 5000), strings.Repeat("ü", 5000), "x" + strings.Repeat("ü", 5000)} {
		cut := note(sentence)
		if len(cut) > 1024 || !utf8.ValidString(cut) || !strings.HasSuffix(cut, "…") || len(cut) < 900 {
			t.Errorf("%d bytes: %q", len(cut), cut)
		}
	}
	whole := strings.Repeat("x", 1000)
	if note(whole) != whole {
		t.Error("a note that fits was cut")
	}
}
