package admission

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/budget"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/decide"
)

// desk is everything around a Handler of cluster c1.
type desk struct {
	// live and cached are pod db-0 of namespace n; nil if there is none.
	live, cached         *corev1.Pod
	liveErr, cachedErr   error
	budgets              []v1alpha1.MeshPodDisruptionBudget
	budgetsErr, notReady error
	// refuse is what the cached view refuses with; nil if it does not.
	refuse *claim.Outcome
	decide func(decide.Request) claim.Outcome

	// node of the pod, set that owns it, and what else admission may find out.
	node                          *corev1.Node
	set                           *appsv1.DaemonSet
	native                        []policyv1.PodDisruptionBudget
	factsErr                      error
	terminating, glass, preempted bool
	reviewed                      []string

	refused, decided []decide.Request
	answered         []Answer
	liveLookups      int
}

var (
	yes = claim.Outcome{Allowed: true, Budget: "n/b", Sentence: "there is room", Decision: budget.Decision{Verdict: budget.Allow, Reason: budget.Enough}}
	no  = claim.Outcome{Budget: "n/b", Sentence: "there is no room", Decision: budget.Decision{Verdict: budget.Deny, Reason: budget.Insufficient}}
)

// newDesk has the running pod db-0 under budget n/b, and allows.
func newDesk() *desk {
	return &desk{
		live: pod(), cached: pod(), budgets: []v1alpha1.MeshPodDisruptionBudget{budgetOf("b")},
		decide: func(decide.Request) claim.Outcome { return yes },
		// No pod of the tests says which DaemonSet it belongs to, so any will do.
		set: &appsv1.DaemonSet{},
	}
}

func (d *desk) handler() *Handler { return &Handler{d.config()} }

func (d *desk) precondition() *Precondition { return &Precondition{d.config()} }

func (d *desk) config() Config {
	return Config{
		Cluster: "c1", Decider: (*deskDecider)(d), Pods: d, Facts: (*deskFacts)(d), Log: logr.Discard(), EnforcePreemption: d.preempted,
		Ready:    func() error { return d.notReady },
		Answered: func(a Answer) { d.answered = append(d.answered, a) },
	}
}

func (d *desk) CachedPod(context.Context, string, string) (*corev1.Pod, error) {
	return d.cached, d.cachedErr
}

func (d *desk) Pod(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	d.liveLookups++
	if namespace != "n" || name != "db-0" {
		return nil, errors.New("asked for another pod")
	}
	return d.live, d.liveErr
}

func (d *desk) BudgetsOf(context.Context, *corev1.Pod) ([]v1alpha1.MeshPodDisruptionBudget, error) {
	return d.budgets, d.budgetsErr
}

type deskFacts desk

func (d *deskFacts) Node(context.Context, string) (*corev1.Node, error) { return d.node, d.factsErr }

func (d *deskFacts) DaemonSet(context.Context, string, string) (*appsv1.DaemonSet, error) {
	return d.set, d.factsErr
}

func (d *deskFacts) Terminating(context.Context, string) bool { return d.terminating }

func (d *deskFacts) NativeBudgets(context.Context, *corev1.Pod) ([]policyv1.PodDisruptionBudget, error) {
	return d.native, d.factsErr
}

func (d *deskFacts) MayBreakGlass(_ context.Context, u authenticationv1.UserInfo, namespace, budget string) (bool, error) {
	d.reviewed = append(d.reviewed, u.Username+" "+namespace+"/"+budget)
	return d.glass, d.factsErr
}

type deskDecider desk

func (d *deskDecider) Refuse(r decide.Request) (claim.Outcome, bool) {
	d.refused = append(d.refused, r)
	if d.refuse == nil {
		return claim.Outcome{}, false
	}
	return *d.refuse, true
}

func (d *deskDecider) Decide(_ context.Context, r decide.Request) claim.Outcome {
	d.decided = append(d.decided, r)
	return d.decide(r)
}

func pod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "db-0", UID: "u0", Labels: map[string]string{"app": "db"}},
		Spec:       corev1.PodSpec{NodeName: "node1"},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
}

// podWith is pod, changed.
func podWith(change func(*corev1.Pod)) *corev1.Pod {
	p := pod()
	change(p)
	return p
}

// budgetOf takes part in c1 and c2 unless other clusters are named.
func budgetOf(name string, clusters ...string) v1alpha1.MeshPodDisruptionBudget {
	if len(clusters) == 0 {
		clusters = []string{"c2", "c1"}
	}
	one := intstr.FromInt32(1)
	return v1alpha1.MeshPodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name},
		Spec:       v1alpha1.MeshPodDisruptionBudgetSpec{Service: "db", MaxUnavailable: &one, Clusters: slices.Clone(clusters)},
	}
}

// fresh is a budget that no controller has looked at.
func fresh(name string) v1alpha1.MeshPodDisruptionBudget {
	b := budgetOf(name)
	b.Spec.Clusters = nil
	return b
}

func user(name string, groups ...string) authenticationv1.UserInfo {
	return authenticationv1.UserInfo{Username: name, Groups: groups}
}

// evicting is the review of an eviction of db-0 by a person.
func evicting(object string, changes ...func(*admission.Request)) admission.Request {
	r := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
		Operation: admissionv1.Create, Namespace: "n", Name: "db-0", SubResource: "eviction",
		Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
		UserInfo: user("jane"), Object: runtime.RawExtension{Raw: []byte(object)},
	}}
	for _, change := range changes {
		change(&r)
	}
	return r
}

// deleting is the review of a DELETE of p by a person.
func deleting(p *corev1.Pod, changes ...func(*admission.Request)) admission.Request {
	raw, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	r := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
		Operation: admissionv1.Delete, Namespace: "n", Name: p.Name,
		Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
		UserInfo: user("jane"), OldObject: runtime.RawExtension{Raw: raw},
	}}
	for _, change := range changes {
		change(&r)
	}
	return r
}

func by(u authenticationv1.UserInfo) func(*admission.Request) {
	return func(r *admission.Request) { r.UserInfo = u }
}

func dry(r *admission.Request) {
	is := true
	r.DryRun = &is
}

// uid is the precondition that the mutating webhook adds.
const uid = `"preconditions":{"uid":"u0"}`

const plain = `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"db-0","namespace":"n"},"deleteOptions":{` + uid + `}}`

var typed = types.UID("u0")

func handle(t *testing.T, h admission.Handler, r admission.Request) admission.Response {
	t.Helper()
	return h.Handle(t.Context(), r)
}
