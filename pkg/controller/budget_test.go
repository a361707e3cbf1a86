package controller

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/wire"
)

func TestScope(t *testing.T) {
	for name, c := range map[string]struct {
		budget *v1alpha1.MeshPodDisruptionBudget
		hall   func(*hall)
		want   string
	}{
		"as the spec says":              {newBudget("n", "b", "c9", "c1"), func(h *hall) { h.peers = []string{"c2"}; h.held["c2"] = true }, "[c1 c9]"},
		"the spec forgets":              {remembering(newBudget("n", "b", "c1"), "c2"), nil, "[c1]"},
		"alone":                         {newBudget("n", "b"), nil, "[c1]"},
		"peers that hold it":            {newBudget("n", "b"), func(h *hall) { h.peers, h.held["c2"], h.read["c3"] = []string{"c2", "c3"}, true, true }, "[c1 c2]"},
		"peers that were never read":    {newBudget("n", "b"), func(h *hall) { h.peers = []string{"c2"} }, "[c1 c2]"},
		"peers read without it":         {newBudget("n", "b"), func(h *hall) { h.peers, h.read["c2"] = []string{"c2"}, true }, "[c1]"},
		"peers that export the service": {newBudget("n", "b"), func(h *hall) { h.peers, h.read["c2"], h.exports["c2"] = []string{"c2"}, true, true }, "[c1 c2]"},
		"peers that may export it":      {newBudget("n", "b"), func(h *hall) { h.peers, h.read["c2"], h.exportsErr = []string{"c2"}, true, errors.New("timed out") }, "[c1 c2]"},
		// Once it has stated a bound a cluster stays, also when it left the mesh.
		"remembered by a bound": {remembering(newBudget("n", "b"), "c2"), nil, "[c1 c2]"},
		// It was only believed to take part, until it could be read.
		"remembered without one": {remembering(newBudget("n", "b"), "c2?"), func(h *hall) { h.peers, h.read["c2"] = []string{"c2"}, true }, "[c1]"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHall(t)
			if c.hall != nil {
				c.hall(h)
			}
			expect(t, "scope", h.budgets().scope(t.Context(), c.budget), c.want)
		})
	}
}

func TestExportsAreRememberedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHall(t)
		h.peers, h.read["c2"], h.exports["c2"] = []string{"c2"}, true, true
		r := h.budgets()
		for range 5 {
			expect(t, "scope", r.scope(t.Context(), newBudget("n", "b")), "[c1 c2]")
		}
		if h.asked != 1 {
			t.Errorf("asked %d times", h.asked)
		}
		<-time.After(21 * time.Second)
		// While it cannot be asked, the last answer stands.
		h.exports["c2"], h.exportsErr = false, errors.New("timed out")
		expect(t, "scope", r.scope(t.Context(), newBudget("n", "b")), "[c1 c2]")
		<-time.After(21 * time.Second)
		h.exportsErr = nil
		expect(t, "scope", r.scope(t.Context(), newBudget("n", "b")), "[c1]")
	})
}

// Every replica decides from the durable scope, so it comes before its
// publication; and nothing is enforced before the webhooks select the namespace.
func TestTheOrderOfReconciling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHall(t, newBudget("n", "b"), namespace("n"), globalService("n", "db"))
		h.peers = []string{"c2"}
		r := h.budgets()
		settle(t, r, "n", "b")
		expect(t, "calls", strings.Join(h.taken(), "\n"), strings.Join([]string{
			`patch n {"metadata":{"labels":{"meshpdb.io/budgeted":"true"}}}`,
			"status b [c1 c2] enforced=none",
			"set n/b [c1 c2]",
			"set n/b [c1 c2]",
			"status b [c1 c2] enforced=True Enforced",
		}, "\n"))
		settle(t, r, "n", "b")
		expect(t, "calls in a settled cluster", h.taken(), "[set n/b [c1 c2]]")
	})
	for name, c := range map[string]struct {
		step string
		err  error
		want []string
	}{
		"label fails":     {"patch", errors.New("broken"), []string{"patch n"}},
		"scope fails":     {"status", errors.New("broken"), []string{"patch n", "status b [c1] enforced=none"}},
		"scope conflicts": {"status", apierrors.NewConflict(schema.GroupResource{}, "b", nil), []string{"patch n", "status b [c1] enforced=none"}},
		"publish fails":   {"set", errors.New("broken"), []string{"patch n", "status b [c1] enforced=none", "set n/b [c1]"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHall(t, newBudget("n", "b"), namespace("n"), globalService("n", "db"))
			h.before[c.step] = func() error { return c.err }
			result, err := h.budgets().Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "n", Name: "b"}})
			if again := err != nil || result.RequeueAfter > 0 && result.RequeueAfter < resync; !again {
				t.Error("it is not tried again")
			}
			if apierrors.IsConflict(c.err) && err != nil {
				t.Errorf("that the informer is behind is no error: %v", err)
			}
			calls := h.taken()
			for i := range calls {
				calls[i], _, _ = strings.Cut(calls[i], " {")
			}
			expect(t, "calls", calls, c.want)
		})
	}
}

func TestConditions(t *testing.T) {
	noSelector := globalService("n", "db")
	noSelector.Spec.Selector = nil
	private := globalService("n", "db")
	private.Annotations["service.cilium.io/shared"] = "false"
	for name, c := range map[string]struct {
		namespace        string
		clusters         []string
		service          *corev1.Service
		problems         map[string]error
		enforced, shared string
		message          string
	}{
		"enforced":      {service: globalService("n", "db"), enforced: "True Enforced", shared: "False Shared"},
		"not exported":  {service: private, enforced: "True Enforced", shared: "True NotExported"},
		"no service":    {enforced: "False ServiceNotFound", shared: "True NotExported", message: "service n/db does not exist in this cluster"},
		"no selector":   {service: noSelector, enforced: "False ServiceHasNoSelector", shared: "False Shared|True NotExported", message: "service n/db has no selector"},
		"protected":     {namespace: "kube-system", service: globalService("kube-system", "db"), enforced: "False ProtectedNamespace", message: "namespace kube-system"},
		"not in scope":  {clusters: []string{"c2", "c3"}, service: globalService("n", "db"), enforced: "False ClusterNotInScope", message: "does not name this cluster, c1"},
		"named":         {clusters: []string{"c1", "c2"}, service: globalService("n", "db"), enforced: "True Enforced", shared: "False Shared"},
		"kvstore fails": {service: globalService("n", "db"), problems: map[string]error{"i2": errors.New("down"), "i1": errors.New("no route"), "i3": errors.New("down")}, enforced: "False KVStoreUnavailable", message: "instance i1 of the own ClusterMesh kvstore is not in service: no route"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ns := "n"
				if c.namespace != "" {
					ns = c.namespace
				}
				objects := []client.Object{newBudget(ns, "b", c.clusters...), namespace(ns)}
				if c.service != nil {
					objects = append(objects, c.service)
				}
				h := newHall(t, objects...)
				h.problems = c.problems
				r := h.budgets()
				settle(t, r, ns, "b")
				b := h.budget(t, ns, "b")
				if got := conditionOf(b, v1alpha1.ConditionEnforced); got != c.enforced {
					t.Errorf("Enforced is %q", got)
				}
				if got := conditionOf(b, v1alpha1.ConditionNotShared); c.shared != "" && !slices.Contains(strings.Split(c.shared, "|"), got) {
					t.Errorf("NotShared is %q", got)
				}
				for _, condition := range b.Status.Conditions {
					if condition.ObservedGeneration != 1 || condition.Message == "" || condition.LastTransitionTime.IsZero() {
						t.Errorf("condition %+v", condition)
					}
					if condition.Type == v1alpha1.ConditionEnforced && !strings.Contains(condition.Message, c.message) {
						t.Errorf("message: %s", condition.Message)
					}
				}
				_, reason, _ := strings.Cut(c.enforced, " ")
				kind := "Warning"
				if strings.HasPrefix(c.enforced, "True") {
					kind = "Normal"
				}
				if !has(h.events, "b "+kind+" "+reason+": ") {
					t.Errorf("events: %q", h.events)
				}
				// Nothing changes any more: no write, no event, whatever the order of a map.
				h.taken()
				h.events = nil
				for range 20 {
					settle(t, r, ns, "b")
				}
				if calls := h.taken(); slices.ContainsFunc(calls, func(c string) bool { return !strings.HasPrefix(c, "set ") }) || len(h.events) > 0 {
					t.Errorf("goes on writing: %q %q", calls, h.events)
				}
			})
		})
	}
}

func TestTheNamespaceLabel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other := namespace("n")
		other.Labels = map[string]string{"team": "a"}
		h := newHall(t, newBudget("n", "b"), newBudget("n", "b2"), other, newBudget("kube-system", "b"), namespace("kube-system"))
		r := h.budgets()
		settle(t, r, "n", "b")
		settle(t, r, "kube-system", "b")
		expect(t, "n", h.label(t, "n"), "true")
		expect(t, "kube-system", h.label(t, "kube-system"), "")
		for _, step := range []struct{ gone, want string }{{"b", "true"}, {"b2", ""}} {
			if err := h.Delete(t.Context(), h.budget(t, "n", step.gone)); err != nil {
				t.Fatal(err)
			}
			h.taken()
			settle(t, r, "n", step.gone)
			expect(t, "n without "+step.gone, h.label(t, "n"), step.want)
			if calls := h.taken(); len(calls) == 0 || calls[0] != "remove n/"+step.gone {
				t.Errorf("calls: %q", calls)
			}
		}
		var n corev1.Namespace
		if err := h.Get(t.Context(), types.NamespacedName{Name: "n"}, &n); err != nil || n.Labels["team"] != "a" {
			t.Errorf("labels: %v %v", n.Labels, err)
		}
		// The namespace may go before the budget does.
		settle(t, r, "gone", "b")
	})
	t.Run("of a budget that is going", func(t *testing.T) {
		going := newBudget("n", "b")
		now := metav1.Now()
		going.DeletionTimestamp, going.Finalizers = &now, []string{"x/y"}
		labelled := namespace("n")
		labelled.Labels = map[string]string{v1alpha1.NamespaceLabel: "true"}
		h := newHall(t, going, labelled)
		settle(t, h.budgets(), "n", "b")
		expect(t, "label", h.label(t, "n"), "")
		expect(t, "first call", h.taken()[0], "remove n/b")
	})
}

func TestWhatIsPublished(t *testing.T) {
	part := func(t *testing.T, h *hall) wire.Budget {
		t.Helper()
		return h.set[len(h.set)-1].Budget
	}
	expecting := func(b *v1alpha1.MeshPodDisruptionBudget) *v1alpha1.MeshPodDisruptionBudget {
		b.Status.Owners = []v1alpha1.OwnerStatus{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db", ExpectedPods: 3}}
		return b
	}
	synctest.Test(t, func(t *testing.T) {
		unready := readyPod("n", "p1")
		unready.Status.Conditions = nil
		h := newHall(t, newBudget("n", "b"), namespace("n"), globalService("n", "db"), readyPod("n", "p0"), unready, readyPod("other", "p2"))
		settle(t, h.budgets(), "n", "b")
		expect(t, "part", h.set[0], "{n b 1 {n/b db  1 2 [c1] true  false} [{n/p0 p0 [] } {n/p1 p1 [] NotReady}]}")
		expect(t, "owners", h.budget(t, "n", "b").Status.Owners, "[{v1 Pod p0 1 false} {v1 Pod p1 1 false}]")
		expect(t, "selector", h.budget(t, "n", "b").Status.Selector, "map[app:db]")
	})
	t.Run("without the service", func(t *testing.T) {
		h := newHall(t, expecting(remembering(newBudget("n", "b"), "c1")), namespace("n"))
		settle(t, h.budgets(), "n", "b")
		if b := part(t, h); b.Expected != 3 || b.Undecided != "" || len(h.set[0].Pods) > 0 {
			t.Errorf("got %+v: what was expected last still is", b)
		}
	})
	t.Run("where nothing is held up", func(t *testing.T) {
		h := newHall(t, newBudget("n", "b", "c2"), namespace("n"), globalService("n", "db"), readyPod("n", "p0"))
		settle(t, h.budgets(), "n", "b")
		if b := part(t, h); b.Undecided == "" || len(h.set[0].Pods) > 0 {
			t.Errorf("got %+v: others count on pods that may go at any time", b)
		}
	})
	t.Run("while pods cannot be listed", func(t *testing.T) {
		h := newHall(t, expecting(remembering(newBudget("n", "b"), "c1")), namespace("n"), globalService("n", "db"))
		h.before["list"] = func() error { return errors.New("informer down") }
		_, err := h.budgets().Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "n", Name: "b"}})
		if err == nil || !strings.Contains(err.Error(), "informer down") {
			t.Errorf("got %v", err)
		}
		if b := part(t, h); !strings.Contains(b.Undecided, "informer down") || b.Expected != 3 {
			t.Errorf("got %+v: nobody is told", b)
		}
	})
}

func TestStatusNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHall(t, newBudget("n", "b"), namespace("n"), globalService("n", "db"))
		h.peers, h.held["c2"] = []string{"c2"}, true
		h.snapshots["c1"] = shown("c1 +++", "c1", "c2")
		h.snapshots["c2"] = shown("c2 ++-", "c1", "c2")
		s := h.snapshots["c1"]
		s.Claims = []claim.Claim{{ID: "x", UID: "c1-0", State: claim.Granted}}
		h.snapshots["c1"] = s
		r := h.budgets()
		status := func() v1alpha1.MeshPodDisruptionBudgetStatus {
			settle(t, r, "n", "b")
			return h.budget(t, "n", "b").Status
		}
		row := func(s v1alpha1.MeshPodDisruptionBudgetStatus) string {
			return fmt.Sprintln(s.DisruptionsAllowed, s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods, s.DisruptionsInFlight, s.ClustersReachable)
		}
		first := status()
		expect(t, "numbers", row(first), "0 4 5 6 1 2/2\n")
		expect(t, "DisruptionAllowed", conditionOf(h.budget(t, "n", "b"), v1alpha1.ConditionDisruptionAllowed), "False "+policyv1.InsufficientPodsReason)
		h.snapshots["c1"], h.snapshots["c2"] = shown("c1 +++", "c1", "c2"), shown("c2 +++", "c1", "c2")
		<-time.After(time.Second)
		expect(t, "numbers", row(status()), "1 6 5 6 0 2/2\n")
		expect(t, "DisruptionAllowed", conditionOf(h.budget(t, "n", "b"), v1alpha1.ConditionDisruptionAllowed), "True "+policyv1.SufficientPodsReason)
		delete(h.snapshots, "c2")
		<-time.After(time.Second)
		last := status()
		expect(t, "numbers", row(last), "0 3 5 6 0 1/2\n")
		expect(t, "DisruptionAllowed", conditionOf(h.budget(t, "n", "b"), v1alpha1.ConditionDisruptionAllowed), "False "+policyv1.SyncFailedReason)
		// What it said last is kept, and it stays in scope by it.
		c2 := last.Clusters[1]
		if c2.Reachable || c2.Message != "no connection" || c2.ExpectedPods != 3 || c2.Bound != "maxUnavailable 1" || c2.CurrentHealthy != 0 {
			t.Errorf("got %+v", c2)
		}
		// Writing other numbers repeats no event.
		h.snapshots["c1"] = shown("c1 ++", "c1", "c2")
		<-time.After(time.Second)
		expect(t, "numbers", row(status()), "0 2 4 5 0 1/2\n")
		expect(t, "events", strings.Join(h.events, "\n"), strings.Join([]string{
			"b Normal Enforced: disruptions of the service's pods in this cluster are admitted by meshpdb",
			"b Warning ClusterNotRead: cluster c2: no connection",
		}, "\n"))
	})
}

// TestNewBudgetBeginsWithoutWarning: the own part is published a moment after
// the first status, which is nobody's trouble.
func TestNewBudgetBeginsWithoutWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHall(t, newBudget("n", "b"), namespace("n"), globalService("n", "db"))
		settle(t, h.budgets(), "n", "b")
		expect(t, "events", strings.Join(h.events, "\n"), "b Normal Enforced: disruptions of the service's pods in this cluster are admitted by meshpdb")
	})
}

func TestClusterStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bounds := []budget.Bound{{Kind: budget.MinAvailable, Value: 2}}
		read := budget.Cluster{Name: "c2", Expected: 3, Bounds: bounds, Pods: []budget.Pod{{Available: true}, {Available: true, Claim: budget.Granted}, {Claim: budget.Granted}, {Available: true, Claim: budget.PendingHigher}, {}}}
		first := clusterStatus(read, nil)
		if !first.Reachable || first.ExpectedPods != 3 || first.CurrentHealthy != 2 || first.DisruptionsInFlight != 2 || first.Bound != "minAvailable 2" || !first.Since.Time.Equal(time.Now()) {
			t.Errorf("read: %+v", first)
		}
		since := first.Since
		<-time.After(time.Minute)
		again := clusterStatus(read, []v1alpha1.ClusterStatus{{Name: "c1"}, first})
		if again != first {
			t.Errorf("read again: %+v", again)
		}
		lost := clusterStatus(budget.Cluster{Name: "c2", Unread: "no marker"}, []v1alpha1.ClusterStatus{first})
		if lost.Reachable || lost.Message != "no marker" || lost.ExpectedPods != 3 || lost.Bound != "minAvailable 2" || lost.CurrentHealthy != 0 || lost.DisruptionsInFlight != 0 || lost.Since == since {
			t.Errorf("lost: %+v", lost)
		}
		tighter := clusterStatus(budget.Cluster{Name: "c2", Unread: "no marker", Bounds: []budget.Bound{{Kind: budget.MinAvailable, Value: 5}}}, []v1alpha1.ClusterStatus{lost})
		if tighter.Bound != "minAvailable 5" || tighter.Since != lost.Since {
			t.Errorf("lost with its last bound: %+v", tighter)
		}
		back := clusterStatus(read, []v1alpha1.ClusterStatus{lost})
		if !back.Reachable || back.Message != "" || back.CurrentHealthy != 2 {
			t.Errorf("back: %+v", back)
		}
		// It may never have taken part; people are told what to do.
		if never := clusterStatus(budget.Cluster{Name: "c3", Unread: "never read"}, nil); never.Reachable || never.Bound != "" || !strings.Contains(never.Message, "never read; if it takes no part") {
			t.Errorf("never read: %+v", never)
		}
	})
}

// A busy budget does not write its status at every event.
func TestStatusIsNotWrittenTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHall(t, newBudget("n", "b"), namespace("n"), globalService("n", "db"))
		r := h.budgets()
		settle(t, r, "n", "b")
		<-time.After(time.Second)
		h.taken()
		request := ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "n", Name: "b"}}
		for i := range 30 {
			h.snapshots["c1"] = shown("c1 "+strings.Repeat("+", i+1), "c1")
			if _, err := r.Reconcile(t.Context(), request); err != nil {
				t.Fatal(err)
			}
			<-time.After(20 * time.Millisecond)
		}
		writes := slices.DeleteFunc(h.taken(), func(c string) bool { return !strings.HasPrefix(c, "status ") })
		if len(writes) != 2 {
			t.Errorf("%d writes in 600 ms", len(writes))
		}
		settle(t, r, "n", "b")
		if n := h.budget(t, "n", "b").Status.CurrentHealthy; n != 30 {
			t.Errorf("the last one is lost: %d", n)
		}
	})
}

// The status says what waits for the budget, of the pods that are held up here.
// While that is not known, what it says stands.
func TestTheStatusTellsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHall(t, newBudget("n", "b"), namespace("n"), globalService("n", "db"), readyPod("n", "p0"))
		since := metav1.NewTime(time.Now().Add(-time.Minute)).Rfc3339Copy()
		h.waiting = []v1alpha1.WaitingDisruption{{Kind: "Pod", Name: "p0", Reason: v1alpha1.WaitingTaintEviction, Since: since, Message: "node n1 is to be left"}}
		r := h.budgets()
		settle(t, r, "n", "b")
		told := func() string {
			s := h.budget(t, "n", "b").Status
			var names []string
			for _, w := range s.Waiting {
				names = append(names, fmt.Sprintf("%s %s %s", w.Kind, w.Name, time.Since(w.Since.Time).Round(time.Minute)))
			}
			return fmt.Sprint(s.WaitingDisruptions, names)
		}
		expect(t, "waiting", told(), "1 [Pod p0 1m0s]")
		expect(t, "pods that were asked for", len(h.observed), 1)
		h.waiting, h.waitingErr = nil, errors.New("nodes: not listed yet")
		settle(t, r, "n", "b")
		expect(t, "while it is not known", told(), "1 [Pod p0 1m0s]")
		h.waitingErr = nil
		settle(t, r, "n", "b")
		expect(t, "when nothing waits any more", told(), "0 []")
		h.waiting = []v1alpha1.WaitingDisruption{{Kind: "Pod", Name: "p0", Reason: v1alpha1.WaitingTaintEviction, Since: since, Message: "x"}}
		b := h.budget(t, "n", "b")
		b.Spec.Clusters = []string{"c9"}
		if err := h.WithWatch.Update(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		settle(t, r, "n", "b")
		expect(t, "pods of a budget that leaves this cluster out", len(h.observed), 0)
	})
}
