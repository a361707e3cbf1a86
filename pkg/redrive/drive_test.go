package redrive

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

var errSpent = apierrors.NewTooManyRequests("the budget is spent", 0)

// The taint manager has the first go; then pods are evicted as far as the
// budget allows, each one once, by its UID.
func TestTaintedPodsAreEvictedWithinTheBudget(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t, budget("b", 2), service(), node("maintenance"), readyPod("p0"), readyPod("p1"), readyPod("p2"))
		expect(t, "within the patience", s.run(4900*time.Millisecond), "[]")
		expect(t, "reads meanwhile", s.reads, 0)
		expect(t, "calls", s.run(500*time.Millisecond), "[5s eviction p0 uid-p0 5s eviction p1 uid-p1]")
		s.catchUp()
		s.put(budget("b", 0))
		expect(t, "while the budget is spent", s.run(4*time.Second), "[]")
		s.put(budget("b", 1))
		expect(t, "once it is not", len(s.run(time.Second)), 1)
		s.catchUp()
		expect(t, "when all are gone", s.run(time.Minute), "[]")
		expect(t, "metric", s.redriven("Pod", "evicted"), 3)
	})
}

func TestWhatIsNotEvicted(t *testing.T) {
	tolerating := readyPod("p0")
	tolerating.Spec.Tolerations = []corev1.Toleration{{Key: "maintenance", Operator: corev1.TolerationOpExists}}
	ended := readyPod("p0")
	ended.Status.Phase = corev1.PodSucceeded
	mirror := readyPod("p0")
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	failed := node("maintenance")
	failed.Status.Conditions[0].Status = corev1.ConditionUnknown
	elsewhere := readyPod("p0")
	elsewhere.Spec.NodeName = "n2"
	keepsOut := node()
	keepsOut.Spec.Taints = []corev1.Taint{{Key: "maintenance", Effect: corev1.TaintEffectNoSchedule}}
	guarded := func(reason string) *v1alpha1.MeshPodDisruptionBudget {
		b := budget("b", 1)
		b.Status.Conditions[0].Status, b.Status.Conditions[0].Reason = metav1.ConditionFalse, reason
		return b
	}
	for name, objects := range map[string][]client.Object{
		"its node is not tainted":       {budget("b", 1), node(), readyPod("p0")},
		"its node is unknown":           {budget("b", 1), readyPod("p0")},
		"only new pods are kept out":    {budget("b", 1), keepsOut, readyPod("p0")},
		"another node is tainted":       {budget("b", 1), node("maintenance"), elsewhere},
		"it tolerates the taint":        {budget("b", 1), node("maintenance"), tolerating},
		"it has ended":                  {budget("b", 1), node("maintenance"), ended},
		"it is a mirror":                {budget("b", 1), node("maintenance"), mirror},
		"its node has failed":           {budget("b", 1), failed, readyPod("p0")},
		"its node is unreachable":       {budget("b", 1), node(corev1.TaintNodeUnreachable), readyPod("p0")},
		"its node is not ready":         {budget("b", 1), node(corev1.TaintNodeNotReady), readyPod("p0")},
		"its node is out of service":    {budget("b", 1), node(corev1.TaintNodeOutOfService), readyPod("p0")},
		"the budget is not in scope":    {guarded(v1alpha1.ReasonClusterNotInScope), node("maintenance"), readyPod("p0")},
		"the namespace is protected":    {guarded(v1alpha1.ReasonProtectedNamespace), node("maintenance"), readyPod("p0")},
		"the budget is yet to be known": {&v1alpha1.MeshPodDisruptionBudget{ObjectMeta: named("b"), Spec: budget("b", 1).Spec}, node("maintenance"), readyPod("p0")},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newStage(t, append(objects, service())...)
				expect(t, "calls", s.run(time.Minute), "[]")
				expect(t, "waiting", s.waiting(objects[0].(*v1alpha1.MeshPodDisruptionBudget)), "[]")
				expect(t, "reads", s.reads, 0)
			})
		})
	}
}

// What the informers show is old: the API server itself has the last word.
func TestTheLiveTaintDecides(t *testing.T) {
	replaced := readyPod("p0")
	replaced.UID = "uid-successor"
	tolerating := readyPod("p0")
	tolerating.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	moved := readyPod("p0")
	moved.Status.Phase = corev1.PodFailed
	broken := node("maintenance")
	broken.Status.Conditions[0].Status = corev1.ConditionFalse
	for name, live := range map[string]client.Object{
		"untainted": node(), "tainted otherwise": node(corev1.TaintNodeOutOfService), "not ready any more": broken,
		"another pod": replaced, "tolerates by now": tolerating, "has ended": moved,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newStage(t, budget("b", 1), service(), node("maintenance"), readyPod("p0"))
				s.putLive(live)
				expect(t, "calls", s.run(30*time.Second), "[]")
				if s.reads == 0 {
					t.Error("the API server was not asked")
				}
			})
		})
	}
}

// A taint that is taken off is forgotten: should it come back, patience begins anew.
func TestAnUntaintedNodeIsForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t, budget("b", 0), service(), node("maintenance"), readyPod("p0"))
		s.run(9 * time.Second)
		expect(t, "waiting", s.waiting(budget("b", 0)), "[Pod/p0 TaintEviction 9s: node n1 has taint maintenance:NoExecute, which evicts it]")
		s.put(node())
		s.put(budget("b", 1))
		expect(t, "untainted", s.run(time.Minute), "[]")
		expect(t, "waiting", s.waiting(budget("b", 1)), "[]")
		s.put(node("maintenance"))
		expect(t, "tainted anew", s.run(4*time.Second), "[]")
		expect(t, "calls", s.run(2*time.Second), "[1m14s eviction p0 uid-p0]")
	})
}

func TestTolerationSecondsAreGranted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		minute := int64(60)
		pod := readyPod("p0")
		pod.Spec.Tolerations = []corev1.Toleration{{Key: "maintenance", Operator: corev1.TolerationOpExists, TolerationSeconds: &minute}}
		n := node("maintenance")
		n.Spec.Taints[0].TimeAdded = &metav1.Time{Time: time.Now().Add(-20 * time.Second)}
		s := newStage(t, budget("b", 1), service(), n, pod)
		expect(t, "calls", s.run(45500*time.Millisecond), "[45s eviction p0 uid-p0]")
		expect(t, "reads: node and pod", s.reads, 2)
	})
}

// A refusal is "later": the pod is asked for again, ever less often, and as
// soon as budget frees.
func TestRefusalsAreLater(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t, budget("b", 1), service(), node("maintenance"), readyPod("p0"), readyPod("p1"))
		s.answer = func(string) error { return errSpent }
		// Each at its own pace, the one that was tried longest ago first.
		expect(t, "calls", s.run(12*time.Second), "[5s eviction p0 uid-p0 6s eviction p1 uid-p1 7s eviction p0 uid-p0 8s eviction p1 uid-p1 9s eviction p0 uid-p0 10s eviction p1 uid-p1]")
		expect(t, "metric", s.redriven("Pod", "refused"), 6)
		s.put(budget("b", 0))
		s.run(time.Second)
		s.answer = func(string) error { return nil }
		s.put(budget("b", 1))
		expect(t, "when budget frees", s.run(500*time.Millisecond), "[13s eviction p0 uid-p0]")
	})
}

// Others give way to a pod that has waited long, if it is asked for again and
// again: one of them is, every 5 s, although the budget is spent.
func TestThePlaceIsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t, budget("b", 0), service(), node("maintenance"), readyPod("p0"), readyPod("p1"))
		s.answer = func(string) error { return errSpent }
		expect(t, "calls", s.run(22*time.Second), "[10s eviction p0 uid-p0 15s eviction p0 uid-p0 20s eviction p0 uid-p0]")
	})
}

// A pod that is not available takes nothing from the budget.
func TestBrokenPodsGoAnyway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		broken := readyPod("p1")
		broken.Status.Conditions[0].Status = corev1.ConditionFalse
		s := newStage(t, budget("b", 0), service(), node("maintenance"), readyPod("p0"), broken)
		expect(t, "calls", s.run(7*time.Second), "[5s eviction p1 uid-p1]")
	})
}

// A pod of several budgets goes when all of them allow it, and one of them alone asks.
func TestPodsOfSeveralBudgets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t, budget("a", 1), budget("b", 0), service(), node("maintenance"), readyPod("p0"))
		expect(t, "one is spent", s.run(8*time.Second, "a", "b"), "[]")
		s.put(budget("b", 1))
		s.answer = func(string) error { return errSpent }
		expect(t, "calls", s.run(500*time.Millisecond, "a", "b"), "[8s eviction p0 uid-p0]")
	})
}

// A suspended budget holds nothing up, whatever its numbers are.
func TestASuspendedBudgetAllowsAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := budget("b", 0)
		b.Spec.Suspend = true
		b.Status.Conditions[0].Status, b.Status.Conditions[0].Reason = metav1.ConditionFalse, v1alpha1.ReasonSuspended
		s := newStage(t, b, service(), node("maintenance"), readyPod("p0"), readyPod("p1"))
		expect(t, "calls", s.run(5500*time.Millisecond), "[5s eviction p0 uid-p0 5s eviction p1 uid-p1]")
	})
}

// Whatever else goes wrong is tried again, and told of.
func TestFailuresAreTriedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		result string
	}{
		"broken":   {errors.New("no route"), "failed"},
		"gone":     {apierrors.NewNotFound(corev1.Resource("pods"), "p0"), "gone"},
		"conflict": {apierrors.NewConflict(corev1.Resource("pods"), "p0", nil), "gone"},
		"refused":  {errSpent, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newStage(t, budget("b", 1), service(), node("maintenance"), readyPod("p0"))
				s.answer = func(string) error { return c.err }
				s.run(5 * time.Second)
				expect(t, "metric", s.redriven("Pod", c.result), 1)
				s.answer = func(string) error { return nil }
				expect(t, "tried again", len(s.run(5*time.Second)), 1)
			})
		})
	}
}

// A controller in back-off is told when budget frees, and not before; at most every 4 s.
func TestOwnersAreKickedWhenBudgetFrees(t *testing.T) {
	bubble(t, func(t *testing.T) {
		web := replicaSet(1)
		s := newStage(t, budget("b", 0), service(), node(), web, owned(readyPod("p0"), web, "ReplicaSet"), owned(readyPod("p1"), web, "ReplicaSet"))
		expect(t, "while the budget is spent", s.run(time.Minute), "[]")
		expect(t, "waiting", s.waiting(budget("b", 0)), "[ReplicaSet/web ScaleDownOrRollout 1m0s: 2 pods are left of which 1 are wanted]")
		s.put(budget("b", 1))
		expect(t, "once it is not", s.run(20*time.Second), "[1m0s kick ReplicaSet web 1m4s kick ReplicaSet web 1m12s kick ReplicaSet web]")
		s.put(budget("b", 0))
		s.run(time.Second)
		s.put(budget("b", 1))
		expect(t, "when it frees again", s.run(3900*time.Millisecond), "[1m21s kick ReplicaSet web]")
		var kicked = replicaSet(1)
		if err := s.live.Get(t.Context(), keyOf(kicked), kicked); err != nil {
			t.Fatal(err)
		}
		if at, err := time.Parse(time.RFC3339, kicked.Annotations[v1alpha1.KickedAtAnnotation]); err != nil || time.Since(at) > 5*time.Second {
			t.Errorf("annotated %v %v", kicked.Annotations, err)
		}
		s.put(replicaSet(2))
		expect(t, "when it has finished", s.run(time.Minute), "[]")
		expect(t, "metric", s.redriven("ReplicaSet", "kicked"), 4)
	})
}

// Pods beyond what owners ask for cost the budget nothing: they may go once it
// holds, although it allows no more than that.
func TestSurplusGoesWhenTheBudgetHolds(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*v1alpha1.MeshPodDisruptionBudget)
		kicked int
	}{
		"it holds":          {func(*v1alpha1.MeshPodDisruptionBudget) {}, 1},
		"it does not":       {func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.CurrentHealthy-- }, 0},
		"it has no surplus": {func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.Owners[0].ExpectedPods = 2 }, 0},
		"nobody knows": {func(b *v1alpha1.MeshPodDisruptionBudget) {
			b.Status.Conditions = append(b.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionDisruptionAllowed, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason})
		}, 0},
		"its owners are not known": {func(b *v1alpha1.MeshPodDisruptionBudget) { b.Status.Owners = nil }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				web, b := replicaSet(1), budget("b", 0)
				b.Status.Owners[0].ExpectedPods = 1
				c.change(b)
				s := newStage(t, b, service(), node(), web, owned(readyPod("p0"), web, "ReplicaSet"), owned(readyPod("p1"), web, "ReplicaSet"))
				expect(t, "kicks", len(s.run(4*time.Second)), c.kicked)
			})
		})
	}
}

func TestWhoIsNotKicked(t *testing.T) {
	surplus := func(web client.Object) []client.Object {
		return []client.Object{owned(readyPod("p0"), web, "ReplicaSet"), owned(readyPod("p1"), web, "ReplicaSet")}
	}
	t.Run("who finishes at once", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newStage(t, append(surplus(replicaSet(1)), budget("b", 1), service(), node(), replicaSet(1))...)
			s.run(1500 * time.Millisecond)
			s.put(replicaSet(2))
			expect(t, "calls", s.run(time.Minute), "[]")
			expect(t, "reads", s.reads, 0)
		})
	})
	t.Run("who was kicked by somebody else", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newStage(t, append(surplus(replicaSet(1)), budget("b", 1), service(), node(), replicaSet(1))...)
			kicked := replicaSet(1)
			kicked.Annotations = map[string]string{v1alpha1.KickedAtAnnotation: time.Now().UTC().Format(time.RFC3339)}
			kicked.Annotations[v1alpha1.KickedAtAnnotation] = time.Now().Add(time.Second).UTC().Format(time.RFC3339)
			s.put(kicked)
			expect(t, "calls", s.run(5*time.Second), "[]")
			expect(t, "calls", s.run(3*time.Second), "[6s kick ReplicaSet web]")
		})
	})
	t.Run("whose pods' owner is another one", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			other := replicaSet(1)
			other.UID = "uid-other"
			s := newStage(t, append(surplus(other), budget("b", 1), service(), node(), replicaSet(1))...)
			expect(t, "calls", s.run(30*time.Second), "[]")
		})
	})
}

// What waits and what was done is told, once each.
func TestEvents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t, budget("b", 0), service(), node("maintenance"), readyPod("p0"))
		s.run(9 * time.Second)
		s.put(budget("b", 1))
		s.run(time.Second)
		s.catchUp()
		s.run(time.Minute)
		expect(t, "events", strings.Join(s.events, "\n"), strings.Join([]string{
			"MeshPodDisruptionBudget/b Pod/p0 Normal DisruptionWaiting: Pod p0 waits until budget n/b lets it: node n1 has taint maintenance:NoExecute, which evicts it",
			"MeshPodDisruptionBudget/b Pod/p0 Normal DisruptionRedriven: Pod p0 was evicted after 9s: node n1 has taint maintenance:NoExecute, which evicts it",
		}, "\n"))
	})
}

// A new leader goes on where the one before it stopped: nothing begins anew.
func TestSinceSurvivesAChangeOfLeader(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := budget("b", 0)
		b.Status.WaitingDisruptions = 1
		b.Status.Waiting = []v1alpha1.WaitingDisruption{{Kind: "Pod", Name: "p0", Since: metav1.NewTime(time.Now().Add(-time.Minute)), Message: "node n1 has taint maintenance:NoExecute, which evicts it", Reason: v1alpha1.WaitingTaintEviction}}
		s := newStage(t, b, service(), node("maintenance"), readyPod("p0"))
		s.answer = func(string) error { return errSpent }
		expect(t, "waiting", s.waiting(b), "[Pod/p0 TaintEviction 1m0s: node n1 has taint maintenance:NoExecute, which evicts it]")
		s.run(100 * time.Millisecond)
		expect(t, "events", s.events, "[]")
		expect(t, "the status is true already: told", s.changed, 0)
		s.put(node())
		s.run(2 * time.Second)
		if s.changed == 0 {
			t.Error("nobody is told that nothing waits any more")
		}
	})
}

// The status names the ten that have waited longest, and counts all.
func TestTheStatusIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		objects := []client.Object{budget("b", 0), service(), node("maintenance")}
		for i := range 12 {
			objects = append(objects, readyPod(fmt.Sprintf("p%02d", i)))
		}
		s := newStage(t, objects...)
		s.run(3 * time.Second)
		s.put(readyPod("a-late-one"))
		s.run(9 * time.Second)
		all := s.waiting(budget("b", 0))
		if len(all) != 11 || all[10] != "13 in all" || slices.ContainsFunc(all, func(w string) bool { return strings.Contains(w, "late") }) {
			t.Errorf("got %v", all)
		}
		if s.changed == 0 {
			t.Error("nobody is told")
		}
	})
}

// What is not known must not look like nothing.
func TestNothingIsKnownBeforeNodesAreListed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t, budget("b", 1), service(), node("maintenance"), readyPod("p0"))
		s.driver.Taints = workload.NewTaints()
		if _, _, err := s.driver.Observe(t.Context(), budget("b", 1), nil); err == nil {
			t.Error("no error")
		}
	})
}
