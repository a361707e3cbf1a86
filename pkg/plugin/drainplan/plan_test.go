package drainplan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/pkg/plugin/hold"
)

func budget(name string, allowed, available, desired, expected int32, held ...hold.Holder) hold.Report {
	return hold.Report{
		Namespace: "prod", Name: name, Bound: fmt.Sprintf("minAvailable %d", desired), Allowed: allowed, Available: available, Desired: desired, Expected: expected, HeldBackBy: held,
	}
}

func pod(context, name string, budgets ...string) Pod {
	p := Pod{Context: context, Node: "n1", Namespace: "prod", Name: name, Ready: true}
	for _, b := range budgets {
		p.Budgets = append(p.Budgets, "prod/"+b)
	}
	return p
}

func changed(p Pod, change func(*Pod)) Pod {
	change(&p)
	return p
}

func TestMake(t *testing.T) {
	never := hold.Holder{Reason: hold.Never, Sentence: "budget prod/all wants all"}
	c3 := hold.Holder{Cluster: "c3", Reason: hold.Unread, Sentence: "cluster c3 cannot be read"}
	budgets := Merge([]hold.Report{
		budget("one", 1, 9, 8, 9), budget("two", 2, 9, 7, 9), budget("spent", 0, 6, 6, 9, c3), budget("all", 0, 3, 3, 3, never), budget("broken", 0, 5, 6, 9, c3),
	})
	natives := []Native{{Context: "c1", Name: "prod/web", Allowed: 1, Healthy: 3, Desired: 2}, {Context: "c1", Name: "prod/shut", Desired: 3, Healthy: 3}, {Context: "c2", Name: "prod/shut", Allowed: 5}}
	unready := func(p *Pod) { p.Ready = false }
	for _, c := range []struct {
		name string
		pods []Pod
		// want is turn and round of each pod; says are words of what the last one waits for.
		want, says string
		rounds     int
	}{
		{"nothing", nil, "", "", 0},
		{"no budget", []Pod{pod("c1", "a")}, "AtOnce1", "no budget covers it", 1},
		{"one after the other over clusters", []Pod{pod("c2", "c", "one"), pod("c1", "a", "one"), pod("c1", "b", "one")}, "AtOnce1 Later2 Later3", "once the successors of 2 other pods are Ready: budget prod/one allows 1 now: 9 of 9 pods available, it needs 8 (minAvailable 8)", 3},
		{"two at a time", []Pod{pod("c1", "a", "two"), pod("c1", "b", "two"), pod("c1", "c", "two")}, "AtOnce1 AtOnce1 Later2", "once the successors of 2 other pods are Ready", 2},
		{"two budgets", []Pod{pod("c1", "a", "one"), pod("c1", "b", "two"), pod("c1", "c", "one", "two"), pod("c1", "d", "two")}, "AtOnce1 AtOnce1 Later2 AtOnce1", "", 2},
		{"held back", []Pod{pod("c1", "a", "one"), pod("c1", "b", "spent")}, "AtOnce1 Blocked0", "budget prod/spent allows 0 now: 6 of 9 pods available, it needs 6 (minAvailable 6); cluster c3 cannot be read", 0},
		{"never", []Pod{pod("c1", "a", "one", "all")}, "Never0", "wants all: it can never allow it", 0},
		{"suspended", []Pod{changed(pod("c1", "a"), func(p *Pod) { p.Suspended = []string{"prod/spent"} })}, "AtOnce1", "prod/spent is suspended", 1},
		{"finished", []Pod{changed(pod("c1", "a", "all"), func(p *Pod) { p.Free = "it has finished" })}, "AtOnce1", "nothing: it has finished", 1},
		{"not ready costs nothing", []Pod{changed(pod("c1", "a", "one"), unready), pod("c1", "b", "one"), changed(pod("c1", "c", "spent"), unready)}, "AtOnce1 AtOnce1 AtOnce1", "costs no budget", 1},
		{"not ready and the budget not met", []Pod{changed(pod("c1", "a", "broken"), unready)}, "Blocked0", "budget prod/broken is not met: 5 available, it needs 6", 0},
		{"not ready and always allowed", []Pod{changed(pod("c1", "a", "broken"), func(p *Pod) { p.Ready, p.AlwaysAllow = false, true })}, "AtOnce1", "costs no budget", 1},
		{"native", []Pod{changed(pod("c1", "a", "two"), native("web")), changed(pod("c1", "b", "two"), native("web"))}, "AtOnce1 Later2", "PodDisruptionBudget prod/web of c1 allows 1 now: it needs 2 healthy pods and has 3 of 0", 2},
		{"native that is shut", []Pod{changed(pod("c2", "b"), native("shut")), changed(pod("c1", "a"), native("shut"))}, "Blocked0 AtOnce1", "", 0},
		{"two natives", []Pod{changed(pod("c1", "a"), func(p *Pod) { p.Native = []string{"prod/shut", "prod/web"} })}, "Never0", "more than one PodDisruptionBudget (prod/shut and prod/web)", 0},
	} {
		plan := Make(Question{Pods: c.pods, Budgets: budgets, Natives: natives})
		var got []string
		says := ""
		for _, s := range plan.Steps {
			got = append(got, fmt.Sprintf("%s%d", s.Turn, s.Round))
			says = s.WaitsFor
		}
		if strings.Join(got, " ") != c.want || !strings.Contains(says, c.says) || plan.Rounds != c.rounds {
			t.Errorf("%s: got %v in %d rounds, and %q", c.name, got, plan.Rounds, says)
		}
		if plan.AtOnce+plan.Later+plan.Blocked+plan.Never != len(c.pods) {
			t.Errorf("%s: %+v does not add up", c.name, plan)
		}
	}
}

func native(names ...string) func(*Pod) {
	return func(p *Pod) {
		for _, n := range names {
			p.Native = append(p.Native, "prod/"+n)
		}
	}
}

// TestMergeTakesTheStrictest: what one cluster refuses, nobody counts on.
func TestMergeTakesTheStrictest(t *testing.T) {
	reports := []hold.Report{budget("a", 2, 9, 7, 9), budget("a", 0, 6, 7, 9), budget("a", 1, 9, 8, 9), budget("b", 1, 3, 2, 3)}
	for range 2 {
		all := Merge(reports)
		if len(all) != 2 || all["prod/a"].Allowed != 0 || all["prod/b"].Allowed != 1 {
			t.Errorf("merged to %+v", all)
		}
		slices.Reverse(reports)
	}
}

// TestSaysSinceWhenAndWhatFrees: of what is blocked, and of what never goes.
func TestSaysSinceWhenAndWhatFrees(t *testing.T) {
	noon := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	since := metav1.NewTime(noon.Add(-time.Minute))
	c3 := hold.Holder{Cluster: "c3", Reason: hold.InFlight, Since: &since, Sentence: "1 of 3 pods is on the way out", Frees: "its successor"}
	never := budget("all", 0, 3, 3, 3, hold.Holder{Reason: hold.Never, Sentence: "budget prod/all wants all", Frees: "more pods"})
	never.Since = &since
	q := Question{
		Budgets: Merge([]hold.Report{budget("broken", 0, 5, 6, 9, c3), budget("spent", 0, 6, 6, 9, c3), never}), Now: noon,
		Natives: []Native{{Context: "c1", Name: "prod/shut", Since: &since}},
	}
	for _, c := range []struct {
		pod                 Pod
		says, holder, frees string
	}{
		{pod("c1", "a", "spent"), "(minAvailable 6); 1 of 3 pods is on the way out, since 11:59:00Z (60s ago)", "budget prod/spent", "its successor"},
		{changed(pod("c1", "a", "broken"), func(p *Pod) { p.Ready = false }), "it needs 6; 1 of 3 pods is on the way out, since 11:59:00Z (60s ago)", "budget prod/broken", "its successor"},
		{pod("c1", "a", "all"), "wants all: it can never allow it; it allows nothing since 11:59:00Z (60s ago)", "budget prod/all", "more pods"},
		{changed(pod("c1", "a"), native("shut")), "has 0 of 0; it allows nothing since 11:59:00Z (60s ago)", "PodDisruptionBudget prod/shut of c1", "more healthy pods"},
	} {
		q.Pods = []Pod{c.pod}
		if s := Make(q).Steps[0]; !strings.HasSuffix(s.WaitsFor, c.says) || s.Holder != c.holder || s.Frees != c.frees {
			t.Errorf("%+v\nwaits for %q of %q, freed by %q", c.pod, s.WaitsFor, s.Holder, s.Frees)
		}
	}
}
