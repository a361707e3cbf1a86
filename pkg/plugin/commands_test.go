package plugin

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/flow"
	"github.com/meshpdb/meshpdb/pkg/plugin/hold"
)

func TestStatus(t *testing.T) {
	f := newFleet(t)
	f.order = []string{"c1"}
	suspendedBudget := func(b *v1alpha1.MeshPodDisruptionBudget) {
		b.Spec.Suspend = true
		setCondition(b, v1alpha1.ConditionEnforced, metav1.ConditionFalse, v1alpha1.ReasonSuspended, "spec.suspend is set: disruptions in this cluster go whatever the budget says; the other clusters still keep to it", before(time.Hour))
	}
	suspended, spentAndSuspended := named("cache", suspendedBudget), named("idle", spent, suspendedBudget)
	waits := named("queue", spent, func(b *v1alpha1.MeshPodDisruptionBudget) {
		b.Status.WaitingDisruptions = 1
		b.Status.Waiting = []v1alpha1.WaitingDisruption{{Kind: "Pod", Name: "queue-0", Reason: v1alpha1.WaitingTaintEviction, Since: before(time.Minute), Message: "node n1 has taint maintenance:NoExecute, which evicts it"}}
	})
	strict := named("strict", func(b *v1alpha1.MeshPodDisruptionBudget) {
		none := intstr.FromInt32(0)
		b.Spec.MaxUnavailable = &none
		b.Status.DisruptionsAllowed, b.Status.DesiredHealthy = 0, 9
		setCondition(b, v1alpha1.ConditionDisruptionAllowed, metav1.ConditionFalse, "InsufficientPods", "evicting a pod would leave 8 of 9 pods available, budget prod/strict needs 9 (maxUnavailable 0; c1 3/3; c2 3/3; c3 3/3)", before(3*time.Hour))
		for i := range b.Status.Clusters {
			b.Status.Clusters[i].Bound = "maxUnavailable 0"
		}
	})
	other := named("mail", cutOff, elsewhere)
	other.Namespace = "office"
	f.add(t, "c1", budgetOf(spent), suspended, spentAndSuspended, waits, strict, other)
	f.add(t, "c2")
	f.wantGolden(t, "status", "status", "status db", "status cache --context c1", "status -A --no-headers", "status none", "status -A db", "status db -o yaml", "status db -o name")
	f.add(t, "c1", budgetOf())
	f.wantGolden(t, "status-well", "status", "status -o jsonpath={.budgets[0].disruptionsAllowed}")
	f.add(t, "c1")
	f.wantGolden(t, "status-none", "status", "status -A")
}

// denied is a refusal in the shape of the eviction API's own.
func denied(sentence string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusTooManyRequests, Reason: metav1.StatusReasonTooManyRequests,
		Message: "Cannot evict pod as it would violate the pod's disruption budget: " + sentence,
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause, Message: sentence}}},
	}}
}

func TestExplain(t *testing.T) {
	const sentence = "evicting db-0 would leave 7 of 9 pods available, budget prod/db needs 8 (maxUnavailable 1; c1 3/3; c2 2/3, 1 in flight; c3 3/3), by a view at most 2s old"
	f := newFleet(t)
	f.order = []string{"c1"}
	objects := []runtime.Object{
		serviceOf("db"), serviceOf("web"), podOf("db-0", "db", "n1"), podOf("web-0", "web", "n1"), podOf("alone-0", "alone", "n1"),
		podOf("old-0", "db", "n1", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
	}
	f.add(t, "c1", append(objects, budgetOf(spent), named("web"))...)
	f.add(t, "c2")
	f.answers["prod/db-0"] = denied(sentence)
	f.wantGolden(t, "explain", "explain pod/db-0", "explain db-0 -o jsonpath={.sentence}", "explain pods/web-0", "explain alone-0", "explain pod/old-0", "explain web-0 -o json", "explain mpdb/db", "explain pod/none")
	if len(f.evictions) != 6 {
		t.Errorf("asked for %v", f.evictions)
	}
}

// TestExplainOthers: who else than a budget of the mesh keeps a pod, since when, and what would free it.
func TestExplainOthers(t *testing.T) {
	nativeBudget := func(name string, healthy, expected int32) *policyv1.PodDisruptionBudget {
		return &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Namespace: "prod", Name: name}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}},
			Status: policyv1.PodDisruptionBudgetStatus{DesiredHealthy: 3, CurrentHealthy: healthy, ExpectedPods: expected, Conditions: []metav1.Condition{{
				Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason, LastTransitionTime: before(20 * time.Minute),
			}}},
		}
	}
	three := intstr.FromInt32(3)
	many := nativeBudget("many", 3, 3)
	many.Spec.MinAvailable = &three
	f := newFleet(t)
	f.order = []string{"c1"}
	kube := f.add(t, "c1", installed(t, "c1", budgetOf(), serviceOf("db"), nativeBudget("alone", 2, 4), nativeBudget("whole", 3, 3), many, podOf("many-0", "many", "n1"),
		podOf("db-0", "db", "n1"), podOf("alone-0", "alone", "n1"), podOf("whole-0", "whole", "n1"), podOf("none-0", "none", "n1"), podOf("web-0", "web", "n1"), podOf("old-0", "old", "n1"))...).Kube.(*kubefake.Clientset)
	f.answers["prod/db-0"] = denied("evicting db-0 gives way to db-7 in cluster c2, which has waited longer for budget prod/db to have 8 of 9 pods available and is about to be asked for again")
	f.answers["prod/alone-0"] = denied("The disruption budget alone needs 3 healthy pods and has 2 currently")
	f.answers["prod/whole-0"] = denied("The disruption budget whole needs 3 healthy pods and has 3 currently")
	f.answers["prod/many-0"] = denied("The disruption budget many needs 3 healthy pods and has 3 currently")
	f.answers["prod/none-0"] = denied("not on a Friday")
	f.answers["prod/web-0"] = apierrors.NewInternalError(errNoServer)
	f.answers["prod/old-0"] = apierrors.NewInternalError(wrap("failed calling webhook \"evictions.meshpdb.io\": failed to call webhook: connection refused"))
	f.wantGolden(t, "explain-others", "explain db-0", "explain alone-0", "explain whole-0", "explain many-0", "explain none-0", "explain web-0", "explain old-0", "explain alone-0 -o jsonpath={.podDisruptionBudgets}")
	kube.PrependReactor("list", "poddisruptionbudgets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(policyv1.Resource("poddisruptionbudgets"), "", wrap("you may not"))
	})
	f.wantGolden(t, "explain-unread", "explain alone-0")
}

type wrap string

func (w wrap) Error() string { return string(w) }

func TestPlanDrain(t *testing.T) {
	f := newFleet(t)
	f.order = []string{"c1"}
	daemon := func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "DaemonSet" }
	sick := named("sick", func(b *v1alpha1.MeshPodDisruptionBudget) {
		since := before(5 * time.Minute)
		b.Status.DisruptionsAllowed, b.Status.CurrentHealthy = 0, 8
		b.Status.Clusters[0].CurrentHealthy, b.Status.Clusters[0].ShortSince = 2, &since
	})
	f.add(t, "c1", budgetOf(), named("queue", cutOff, elsewhere), sick, serviceOf("db"), serviceOf("queue"), serviceOf("sick"), nodeOf("n1", "zone-a"), nodeOf("n2"),
		podOf("db-0", "db", "n1"), podOf("db-1", "db", "n1"), podOf("queue-0", "queue", "n1"), podOf("web-0", "web", "n1"),
		podOf("db-2", "db", "n2"),
		podOf("done-0", "db", "n1", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }),
		podOf("sick-0", "sick", "n1", func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }),
		podOf("mirror-0", "db", "n1", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }),
		podOf("scratch-0", "web", "n2", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		}),
	)
	f.add(t, "c2", budgetOf(), serviceOf("db"), nodeOf("n1", "zone-a"), nodeOf("m1"),
		&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "prod", Name: "agent"}},
		podOf("db-0", "db", "m1"), podOf("web-0", "web", "m1"), podOf("agent-0", "agent", "m1", daemon), podOf("idle-0", "idle", "n1"),
		&policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Namespace: "prod", Name: "web"}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
			Status: policyv1.PodDisruptionBudgetStatus{DesiredHealthy: 2, CurrentHealthy: 2, ExpectedPods: 3, Conditions: []metav1.Condition{{
				Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason, LastTransitionTime: before(20 * time.Minute),
			}}},
		})
	f.wantGolden(t, "plan-drain",
		"plan drain n1", "plan drain n2", "plan drain n2 --delete-emptydir-data", "plan drain m1 --contexts c2", "plan drain m1 --contexts c2 --ignore-daemonsets",
		"plan drain c1/n1 m1 --contexts c1,c2 --pod-selector app=db", "plan drain n1 --contexts c1,c2", "plan drain -l zone-a=true --contexts c1,c2 --pod-selector app=idle",
		"plan drain none", "plan drain", "plan drain m1 --contexts c2,c2", "plan drain n2 --pod-selector app=db -o json")
	if len(f.evictions) > 0 {
		t.Errorf("evictions were asked for: %v", f.evictions)
	}
	for name, c := range f.clusters {
		for _, a := range c.Kube.(*kubefake.Clientset).Actions() {
			if verb := a.GetVerb(); verb != "get" && verb != "list" {
				t.Errorf("%s: the plan does %s %s", name, verb, a.GetResource().Resource)
			}
		}
	}
}

func TestTop(t *testing.T) {
	f := newFleet(t)
	f.order = []string{"c1"}
	f.add(t, "c1", budgetOf(spent), named("mail", cutOff, elsewhere))
	f.wantGolden(t, "top", "top --count 1", "top db --count 3 --interval 100ms", "top --interval 1ms")
	f.terminal = true
	f.wantGolden(t, "top-terminal", "top db --count 2 --interval 100ms")
}

func TestTopTellsWhatChanges(t *testing.T) {
	o := topOptions{statusOptions: statusOptions{root: &root{Config: Config{Now: func() time.Time { return noon }}}}}
	var out strings.Builder
	o.Out = &out
	told := map[string]string{}
	for _, b := range [][]*v1alpha1.MeshPodDisruptionBudget{{budgetOf()}, {budgetOf()}, {budgetOf(spent)}, {budgetOf(spent)}, {}} {
		var reports []hold.Report
		for _, one := range b {
			reports = append(reports, hold.Of(one))
		}
		if err := o.lines(told, reports); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || !strings.Contains(lines[0], "allowed=1 ") || !strings.Contains(lines[1], `allowed=0 available=8 desired=8 expected=9 inFlight=1 state="held back by c2 since 2026-11-22T11:58:00Z" c1=3/3 c2=2/3 c3=3/3 frees="the pod's successor, once it is Ready in c2"`) || !strings.HasSuffix(lines[2], "budget=prod/db deleted") {
		t.Errorf("told\n%s", out.String())
	}
}

func TestHistory(t *testing.T) {
	event := func(name, kind, object, note string, at time.Duration, change func(*eventsv1.Event)) *eventsv1.Event {
		e := &eventsv1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: "prod", Name: name}, EventTime: metav1.NewMicroTime(noon.Add(-at)), ReportingController: "meshpdb-controller",
			Type: "Warning", Reason: "DisruptionRefused", Note: note, Regarding: corev1.ObjectReference{Kind: kind, Name: object, Namespace: "prod"},
		}
		if change != nil {
			change(e)
		}
		return e
	}
	f := newFleet(t)
	f.order = []string{"c1"}
	f.add(t, "c1", budgetOf(spent),
		event("a", "MeshPodDisruptionBudget", "db", "evicting db-0 would leave 7 of 9 pods available, budget prod/db needs 8 (maxUnavailable 1; c1 3/3; c2 2/3, 1 in flight; c3 3/3)", 50*time.Minute, func(e *eventsv1.Event) {
			e.Series = &eventsv1.EventSeries{Count: 12, LastObservedTime: metav1.NewMicroTime(noon.Add(-time.Minute))}
		}),
		event("b", "Pod", "db-0", "evicting db-0 leaves 8 of 9 pods available, budget prod/db needs 8 (maxUnavailable 1; c1 3/3; c2 3/3; c3 3/3)", 30*time.Minute, func(e *eventsv1.Event) {
			e.Type, e.Reason = "Normal", "DisruptionAllowed"
			e.Related = &corev1.ObjectReference{Kind: "MeshPodDisruptionBudget", Name: "db"}
		}),
		event("c", "Pod", "db-0", "Started container", time.Minute, func(e *eventsv1.Event) { e.ReportingController = "kubelet" }),
		event("d", "MeshPodDisruptionBudget", "web", "of another budget", time.Minute, nil),
		event("e", "MeshPodDisruptionBudget", "db", "evicting db-1 would leave 7 of 9 pods available, budget prod/db needs 8 (maxUnavailable 1; c1 2/3; c2 3/3; c3 3/3)", 0, func(e *eventsv1.Event) {
			e.EventTime, e.DeprecatedCount = metav1.MicroTime{}, 3
			e.DeprecatedFirstTimestamp, e.DeprecatedLastTimestamp = before(time.Hour), before(30*time.Second)
		}),
	)
	f.wantGolden(t, "history", "history db", "history pod/db-0", "history mpdb/db --since 90s", "history none", "history node/n1", "history db-1 -o yaml", "history pod/db-0 -o json")
}

// flowLog writes decisions as controllers export them, and returns the file.
func flowLog(t *testing.T, all ...flow.Decision) string {
	t.Helper()
	var log strings.Builder
	for i := range all {
		line, err := json.Marshal(&observerpb.ExportEvent{NodeName: "c1/controller-0", ResponseTypes: &observerpb.ExportEvent_Flow{Flow: all[i].Flow()}})
		if err != nil {
			t.Fatal(err)
		}
		log.Write(append(line, '\n'))
	}
	log.WriteString(`{"lost_events":{"num_events_lost":"3"}}` + "\n")
	t.Chdir(t.TempDir())
	if err := os.WriteFile("decisions.log", []byte(log.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return log.String()
}

// TestHistoryOfFlows: each sentence, out of a flow log.
func TestHistoryOfFlows(t *testing.T) {
	decide := func(at time.Duration, cluster, pod, sentence string, change ...func(*flow.Decision)) flow.Decision {
		d := flow.Decision{
			Time: noon.Add(-at), Cluster: cluster, Controller: "controller-0", Verdict: flow.Refused, Reason: "InsufficientPods", Path: "eviction", Sentence: sentence, User: "jane",
			Object:  flow.Object{Version: "v1", Resource: "pods", Kind: "Pod", Namespace: "prod", Name: pod, Eviction: true},
			Budgets: []flow.Budget{{Namespace: "prod", Name: "db"}},
		}
		for _, c := range change {
			c(&d)
		}
		return d
	}
	allowed := func(d *flow.Decision) { d.Verdict, d.Admitted, d.Reason = flow.Allowed, true, "SufficientPods" }
	const (
		refused = "evicting db-1 would leave 7 of 9 pods available, budget prod/db needs 8 (maxUnavailable 1; c1 3/3; c2 2/3, 1 in flight; c3 3/3)"
		later   = "evicting db-1 would leave 7 of 9 pods available, budget prod/db needs 8 (maxUnavailable 1; c1 3/3; c2 3/3; c3 2/3)"
	)
	testdata, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	log := flowLog(t,
		decide(40*time.Minute, "c2", "db-0", "evicting db-0 leaves 8 of 9 pods available, budget prod/db needs 8 (maxUnavailable 1; c1 3/3; c2 3/3; c3 3/3)", allowed),
		decide(39*time.Minute, "c1", "db-1", refused), decide(38*time.Minute, "c3", "db-1", refused), decide(37*time.Minute, "c1", "db-1", refused),
		decide(time.Minute, "c1", "db-1", later),
		decide(30*time.Second, "c1", "db-1", "a dry-run", func(d *flow.Decision) { d.DryRun = true }),
		decide(20*time.Second, "c1", "node", "deleting node n1 takes 2 available pods", func(d *flow.Decision) {
			d.Verdict, d.Admitted, d.Path, d.Object = flow.Exempted, true, "intent", flow.Object{Version: "v1", Resource: "nodes", Kind: "Node", Name: "n1"}
		}),
		decide(10*time.Second, "c1", "web-0", "of another", func(d *flow.Decision) { d.Budgets[0].Name = "web" }),
	)
	f := newFleet(t)
	f.order, f.testdata, f.stdin = []string{"c1"}, testdata, log
	// A file needs no cluster, so none is asked.
	f.add(t, "c1")
	f.wantGolden(t, "history-flows",
		"history db --input-file decisions.log", "history pod/db-1 --input-file -", "history db --since 10m --no-headers --input-file decisions.log", "history none --input-file decisions.log",
		"history db --input-file none.log", "history db --input-file decisions.log --hubble-server localhost:1", "history db --since 30s --input-file decisions.log -o json")
	if actions := f.clusters["c1"].Kube.(*kubefake.Clientset).Actions(); len(actions) > 0 {
		t.Errorf("asks the cluster for %v", actions)
	}
}

func TestSuspendAndResume(t *testing.T) {
	f := newFleet(t)
	f.order = []string{"c1"}
	c := f.add(t, "c1", budgetOf(), named("web"))
	suspended := func(name string) bool {
		b, err := c.budget(t.Context(), "prod", name)
		if err != nil {
			t.Fatal(err)
		}
		return b.Spec.Suspend
	}
	f.wantGolden(t, "suspend-dry-run", "suspend db --dry-run=client", "suspend db --dry-run=server", "suspend none", "suspend", "suspend db --dry-run=client -o jsonpath={.spec.suspend}")
	if suspended("web") {
		t.Error("a budget that was not named is suspended")
	}
	f.wantGolden(t, "suspend", "suspend db web")
	if !suspended("db") || !suspended("web") {
		t.Error("they are not suspended")
	}
	f.wantGolden(t, "resume", "resume db")
	if suspended("db") || !suspended("web") {
		t.Error("not the one that was named is resumed")
	}
}

func TestForget(t *testing.T) {
	newMesh := func(change ...func(*v1alpha1.MeshPodDisruptionBudget)) *fleet {
		f := newFleet(t)
		f.order = []string{"c1", "c2"}
		named1 := named("named", cutOff, func(b *v1alpha1.MeshPodDisruptionBudget) { b.Spec.Clusters = []string{"c3", "c1"} })
		f.add(t, "c1", budgetOf(change...), named1)
		f.add(t, "c2", budgetOf(change...))
		return f
	}
	left := func(f *fleet, context, name string) string {
		b, err := f.clusters[context].budget(t.Context(), "prod", name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(b.Spec.Clusters, " ")
	}
	f := newMesh(cutOff)
	f.wantGolden(t, "forget-asks", "forget c3 --contexts c1,c2", "forget c3 --contexts c1,c2 --yes --dry-run=client", "forget c9 -A --yes")
	if got := left(f, "c1", "db") + left(f, "c2", "db"); got != "" || left(f, "c1", "named") != "c3 c1" {
		t.Fatalf("without --yes: %q", got)
	}
	f.wantGolden(t, "forget", "forget c3 --contexts c1,c2 --yes")
	for _, where := range []string{"c1 db", "c2 db"} {
		context, name, _ := strings.Cut(where, " ")
		if got := left(f, context, name); got != "c1 c2" {
			t.Errorf("%s is left to %q", where, got)
		}
	}
	if got := left(f, "c1", "named"); got != "c1" {
		t.Errorf("named is left to %q", got)
	}
	f = newMesh()
	f.wantGolden(t, "forget-reachable", "forget c3 --contexts c2 --yes", "forget c3 --contexts c2 --yes --reachable")
	alone := named("alone", cutOff, func(b *v1alpha1.MeshPodDisruptionBudget) { b.Spec.Clusters = []string{"c3"} })
	f.add(t, "c1", alone)
	f.wantGolden(t, "forget-last", "forget c3 --yes")
}

// TestObjects: what -o json prints is one object with a kind, whole numbers and nothing that is not documented.
func TestObjects(t *testing.T) {
	f := newFleet(t)
	f.order = []string{"c1"}
	f.add(t, "c1", budgetOf(), serviceOf("db"), podOf("db-0", "db", "n1"), nodeOf("n1"))
	for kind, call := range map[string]string{
		"BudgetStatusList": "status", "Explanation": "explain db-0", "DrainPlan": "plan drain n1", "DecisionList": "history db", "Diagnosis": "doctor",
	} {
		out, _, _ := f.call(t, append(strings.Fields(call), "-o", "json")...)
		var object map[string]any
		if err := json.Unmarshal([]byte(out), &object); err != nil || object["kind"] != kind || object["apiVersion"] != dataVersion {
			t.Errorf("%s prints %v %v, %v", call, object["kind"], object["apiVersion"], err)
		}
		if _, stderr, code := f.call(t, append(strings.Fields(call), "-o", "xml")...); code == 0 || !strings.Contains(stderr, "unable to match a printer") {
			t.Errorf("%s -o xml: %d, %s", call, code, stderr)
		}
	}
}
