package admission

import (
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/flow"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

func TestAnswerShown(t *testing.T) {
	yes := true
	of := podWith(func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": "db", "pod-template-hash": "7d9c"}
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "db-7d9c", Controller: &yes}}
		p.Status.PodIP = "10.1.0.7"
	})
	a := Answer{
		Path: paths.Eviction, User: "jane", UserPod: "p", Review: "r", DryRun: true, Pod: of, Took: time.Second, Outcome: no,
		Budgets: []v1alpha1.MeshPodDisruptionBudget{budgetOf("a"), budgetOf("b")},
	}
	a.Budgets[1].Generation = 3
	now := time.Unix(7, 0)
	want := flow.Decision{
		Time: now, Took: time.Second, Review: "r", Verdict: flow.Refused, Reason: "InsufficientPods", Sentence: "there is no room", Path: "eviction",
		DryRun: true, User: "jane", UserPod: "p", Arithmetic: no.Decision,
		Object: flow.Object{
			Version: "v1", Resource: "pods", Kind: "Pod", Namespace: "n", Name: "db-0", UID: "u0", Eviction: true,
			IP: "10.1.0.7", Labels: of.Labels, OwnerKind: "Deployment", OwnerName: "db",
		},
		// no names n/b as the decisive one.
		Budgets: []flow.Budget{{Namespace: "n", Name: "b", Generation: 3}, {Namespace: "n", Name: "a"}},
	}
	if got := a.Shown(now); !reflect.DeepEqual(got, want) {
		t.Errorf("shown as\n%+v, want\n%+v", got, want)
	}
}

func TestAnswersShownByVerdict(t *testing.T) {
	for name, c := range map[string]struct {
		answer Answer
		want   flow.Verdict
	}{
		"allowed":      {Answer{Outcome: yes}, flow.Allowed},
		"refused":      {Answer{Outcome: no}, flow.Refused},
		"from memory":  {Answer{Outcome: claim.Outcome{Cached: true}}, flow.Refused},
		"unread":       {Answer{Outcome: claim.Outcome{Undecidable: true, Decision: decision(budget.Deny, budget.ClusterUnread)}}, flow.Refused},
		"moot":         {Answer{Moot: true}, flow.Refused},
		"accounted":    {Answer{Accounted: true, Outcome: claim.Outcome{Allowed: true}}, flow.Allowed},
		"waived":       {Answer{Outcome: claim.Outcome{Allowed: true, Waived: true}}, flow.Allowed},
		"broken glass": {Answer{BrokenGlass: true, Outcome: claim.Outcome{Allowed: true, Waived: true}}, flow.Exempted},
		"undecided":    {Answer{Outcome: claim.Outcome{Undecidable: true}}, flow.Failed},
	} {
		c.answer.Pod = pod()
		if got := c.answer.Shown(time.Time{}); got.Verdict != c.want || got.Admitted != c.answer.Allowed || got.Reason != reason(c.answer) {
			t.Errorf("%s: shown as %d (%s), want %d", name, got.Verdict, got.Reason, c.want)
		}
	}
}

func TestOwnersShown(t *testing.T) {
	yes := true
	for name, c := range map[string]struct {
		labels map[string]string
		owner  metav1.OwnerReference
		want   string
	}{
		"deployment":  {map[string]string{"pod-template-hash": "x"}, metav1.OwnerReference{Kind: "ReplicaSet", Name: "db-x", Controller: &yes}, "Deployment/db"},
		"replicaset":  {nil, metav1.OwnerReference{Kind: "ReplicaSet", Name: "db-x", Controller: &yes}, "ReplicaSet/db-x"},
		"other hash":  {map[string]string{"pod-template-hash": "y"}, metav1.OwnerReference{Kind: "ReplicaSet", Name: "db-x", Controller: &yes}, "ReplicaSet/db-x"},
		"statefulset": {nil, metav1.OwnerReference{Kind: "StatefulSet", Name: "db", Controller: &yes}, "StatefulSet/db"},
		"none":        {nil, metav1.OwnerReference{Kind: "Node", Name: "n"}, "/"},
	} {
		kind, owner := ownerOf(podWith(func(p *corev1.Pod) { p.Labels, p.OwnerReferences = c.labels, []metav1.OwnerReference{c.owner} }))
		if got := kind + "/" + owner; got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestIntentsShown(t *testing.T) {
	for verdict, want := range map[IntentVerdict]flow.Decision{
		IntentAdmitted:  {Verdict: flow.Allowed, Admitted: true, Reason: "Admitted", Sentence: "deleting deployment db is no disruption that a budget could prevent"},
		IntentWarned:    {Verdict: flow.Exempted, Admitted: true, Reason: "Warned", Sentence: "it takes", Budgets: []flow.Budget{{Namespace: "n", Name: "b0"}, {Namespace: "n", Name: "b1"}}},
		IntentRefused:   {Verdict: flow.Refused, Reason: "Refused", Sentence: "it would", Budgets: []flow.Budget{{Namespace: "n", Name: "b1"}}},
		IntentUndecided: {Verdict: flow.Failed, Admitted: true, Reason: "Undecided", Sentence: "who knows"},
	} {
		a := IntentAnswer{
			Object: corev1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "n", Name: "db", UID: "u"}, User: "jane", Review: "r", Verdict: verdict, DryRun: true,
		}
		if verdict != IntentAdmitted {
			a.Sentence = want.Sentence
		}
		if len(want.Budgets) > 0 {
			a.Budgets = losing(1, warn, deny).Budgets
		}
		want.Review, want.User, want.Path, want.DryRun = "r", "jane", IntentPath, true
		want.Object = flow.Object{Group: "apps", Version: "v1", Resource: "deployments", Kind: "Deployment", Namespace: "n", Name: "db", UID: "u"}
		if got := a.Shown(time.Time{}); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: shown as\n%+v, want\n%+v", verdict, got, want)
		}
	}
}
