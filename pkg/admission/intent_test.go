package admission

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// hall is everything around an Intents.
type hall struct {
	loss     workload.Loss
	err      error
	panics   bool
	asked    []string
	answered []IntentAnswer
}

func (h *hall) intents() *Intents {
	return &Intents{Dependents: h, Log: logr.Discard(), Answered: func(a IntentAnswer) { h.answered = append(h.answered, a) }}
}

func (h *hall) ask(ctx context.Context, what ...any) (workload.Loss, error) {
	h.asked = append(h.asked, strings.TrimSpace(fmt.Sprintln(what...)))
	if _, bounded := ctx.Deadline(); !bounded {
		return workload.Loss{}, errors.New("asked without a deadline")
	}
	if h.panics {
		panic("nil map")
	}
	return h.loss, h.err
}

func (h *hall) OfNode(ctx context.Context, name string) (workload.Loss, error) {
	return h.ask(ctx, "node", name)
}

func (h *hall) OfNamespace(ctx context.Context, name string) (workload.Loss, error) {
	return h.ask(ctx, "namespace", name)
}

func (h *hall) OfOwner(ctx context.Context, o workload.Owner) (workload.Loss, error) {
	return h.ask(ctx, o)
}

// losing is a Loss of as many pods for each of the budgets b0, b1, … as they are given protections.
func losing(pods int, protections ...v1alpha1.DeletionProtection) workload.Loss {
	loss := workload.Loss{Pods: pods * len(protections)}
	for i, protection := range protections {
		b := budgetOf(fmt.Sprint("b", i))
		b.Spec.DeletionProtection, b.Status.DisruptionsAllowed = protection, 1
		loss.Budgets = append(loss.Budgets, workload.BudgetLoss{Budget: &b, Pods: pods})
	}
	return loss
}

const (
	warn  = v1alpha1.DeletionProtectionWarn
	deny  = v1alpha1.DeletionProtectionDeny
	ready = `"status":{"conditions":[{"type":"DiskPressure","status":"False"},{"type":"Ready","status":"True"}]}`
)

// ending is the review of a DELETE of an object, given as the resource and what its JSON has besides name and UID.
func ending(resource, rest string, changes ...func(*admission.Request)) admission.Request {
	if rest != "" {
		rest = "," + rest
	}
	if !strings.Contains(rest, `"metadata"`) {
		rest = `,"metadata":{"name":"x","namespace":"n","uid":"u0"}` + rest
	}
	r := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
		Operation: admissionv1.Delete, Name: "x", UserInfo: user("jane"),
		Resource:  metav1.GroupVersionResource{Version: "v1", Resource: resource},
		OldObject: runtime.RawExtension{Raw: []byte(`{"apiVersion":"v1"` + rest + `}`)},
	}}
	if resource != "nodes" && resource != "namespaces" {
		r.Namespace = "n"
	}
	if r.Namespace != "" && resource != "replicationcontrollers" {
		r.Resource.Group = "apps"
	}
	for _, change := range changes {
		change(&r)
	}
	return r
}

// with gives a review DeleteOptions.
func with(options string) func(*admission.Request) {
	return func(r *admission.Request) { r.Options.Raw = []byte(options) }
}

// meta is metadata with more in it.
func meta(rest string) string {
	return `"metadata":{"name":"x","namespace":"n","uid":"u0",` + rest + `}`
}

const (
	background = `{"kind":"DeleteOptions","propagationPolicy":"Background"}`
	orphan     = `{"kind":"DeleteOptions","propagationPolicy":"Orphan"}`
	terminated = `"deletionTimestamp":"2026-01-01T00:00:00Z"`
	karpenter  = `"finalizers":["karpenter.sh/termination"]`
)

func TestIntents(t *testing.T) {
	for name, c := range map[string]struct {
		review admission.Request
		// asked is what Dependents was asked; empty if it was not.
		asked string
	}{
		"ready node":             {ending("nodes", ready), "node x"},
		"ready node, collection": {ending("nodes", ready, func(r *admission.Request) { r.Name = "" }), "node x"},
		// Nodes have nothing to orphan.
		"ready node, orphan":               {ending("nodes", ready, with(orphan)), "node x"},
		"node not ready":                   {ending("nodes", strings.Replace(ready, "True", "Unknown", 1)), ""},
		"node without conditions":          {ending("nodes", ""), ""},
		"terminating node":                 {ending("nodes", ready+","+meta(terminated)), ""},
		"node that Karpenter drains":       {ending("nodes", ready+","+meta(karpenter)), ""},
		"node, other finalizer":            {ending("nodes", ready+","+meta(`"finalizers":["example.com/x"]`)), "node x"},
		"namespace":                        {ending("namespaces", ""), "namespace x"},
		"namespace, orphan":                {ending("namespaces", "", with(orphan)), "namespace x"},
		"terminating namespace":            {ending("namespaces", meta(terminated)), ""},
		"deployment":                       {ending("deployments", `"spec":{"replicas":3}`, with(background)), "{Deployment n x u0}"},
		"deployment, foreground":           {ending("deployments", "", with(`{"propagationPolicy":"Foreground"}`)), "{Deployment n x u0}"},
		"deployment, collection":           {ending("deployments", "", func(r *admission.Request) { r.Name = "" }), "{Deployment n x u0}"},
		"deployment at zero":               {ending("deployments", `"spec":{"replicas":0}`), ""},
		"terminating deployment":           {ending("deployments", meta(terminated)), ""},
		"deployment, orphan":               {ending("deployments", "", with(orphan)), ""},
		"deployment, as of old":            {ending("deployments", "", with(`{"orphanDependents":true}`)), ""},
		"not orphaned, as of old":          {ending("deployments", meta(`"finalizers":["orphan"]`), with(`{"orphanDependents":false}`)), "{Deployment n x u0}"},
		"orphaned by finalizer":            {ending("deployments", meta(`"finalizers":["x","orphan"]`)), ""},
		"finalizer, overruled":             {ending("deployments", meta(`"finalizers":["orphan"]`), with(background)), "{Deployment n x u0}"},
		"statefulset":                      {ending("statefulsets", ""), "{StatefulSet n x u0}"},
		"daemonset":                        {ending("daemonsets", ""), "{DaemonSet n x u0}"},
		"replicaset":                       {ending("replicasets", ""), "{ReplicaSet n x u0}"},
		"controller":                       {ending("replicationcontrollers", "", with(background)), "{ReplicationController n x u0}"},
		"controller, foreground finalizer": {ending("replicationcontrollers", meta(`"finalizers":["foregroundDeletion"]`)), "{ReplicationController n x u0}"},
		// The default of v1.
		"controller, orphaned": {ending("replicationcontrollers", ""), ""},
		// Nothing that the configuration sends.
		"a job":     {ending("jobs", ""), ""},
		"an update": {ending("nodes", ready, func(r *admission.Request) { r.Operation = admissionv1.Update }), ""},
		"a status":  {ending("nodes", ready, func(r *admission.Request) { r.SubResource = "status" }), ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hall{loss: losing(2, deny)}
			response := handle(t, h.intents(), c.review)
			if got := strings.Join(h.asked, " and "); got != c.asked {
				t.Errorf("asked for %q, want %q", got, c.asked)
			}
			if response.Allowed != (c.asked == "") || len(response.Warnings) > 0 {
				t.Errorf("allowed is %t, warnings %q", response.Allowed, response.Warnings)
			}
			for _, a := range h.answered {
				if a.Object.Name != "x" || a.Object.UID != "u0" {
					t.Errorf("reported of %+v", a.Object)
				}
			}
		})
	}
}

// Kubernetes' own controllers are admitted whatever the budgets say, and nobody else is for his name.
func TestIntentsOfKubernetes(t *testing.T) {
	const account = "system:serviceaccount:kube-system:"
	for _, name := range []string{
		"system:kube-controller-manager", "system:cloud-controller-manager", account + "cloud-controller-manager",
		account + "cloud-node-lifecycle-controller", account + "node-controller", account + "generic-garbage-collector",
		account + "namespace-controller", account + "deployment-controller", account + "ttl-after-finished-controller",
	} {
		h := &hall{loss: losing(2, deny)}
		for _, r := range []admission.Request{ending("nodes", ready), ending("namespaces", ""), ending("replicasets", "")} {
			r.UserInfo = user(name)
			if response := handle(t, h.intents(), r); !response.Allowed || len(response.Warnings) > 0 {
				t.Errorf("%s: %+v", name, response)
			}
		}
		if len(h.asked) > 0 || len(h.answered) != 3 || h.answered[0].Verdict != IntentAdmitted {
			t.Errorf("%s: asked for %q, reported %+v", name, h.asked, h.answered)
		}
	}
	for _, name := range []string{"kubernetes-admin", account + "cluster-autoscaler", "system:serviceaccount:default:cloud-controller-manager"} {
		h := &hall{loss: losing(2, deny)}
		r := ending("nodes", ready, by(user(name, "system:masters")))
		if handle(t, h.intents(), r).Allowed {
			t.Errorf("%s was not refused", name)
		}
	}
}

func TestIntentVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		loss     workload.Loss
		err      error
		panics   bool
		verdict  IntentVerdict
		sentence string
	}{
		"nothing": {verdict: IntentAdmitted},
		"warn": {loss: losing(2, warn), verdict: IntentWarned,
			sentence: "deleting node x takes 2 available pods of budget n/b0, which allows 1; drain it first"},
		"none given": {loss: losing(1, ""), verdict: IntentWarned,
			sentence: "deleting node x takes 1 available pod of budget n/b0, which allows 1; drain it first"},
		"many": {loss: losing(1, warn, warn), verdict: IntentWarned,
			sentence: "deleting node x takes 2 available pods: 1 of n/b0, which allows 1; 1 of n/b1, which allows 1; drain it first"},
		// What the budget allows is no permission: nothing was claimed.
		"deny": {loss: losing(1, deny), verdict: IntentRefused,
			sentence: "deleting node x would take 1 available pod of budget n/b0, which allows 1; drain it first, delete the budget, or set deletionProtection of n/b0 to Warn"},
		"the strictest": {loss: losing(1, warn, deny), verdict: IntentRefused,
			sentence: "deleting node x would take 2 available pods: 1 of n/b1, which allows 1; 1 of n/b0, which allows 1; drain it first, delete the budget, or set deletionProtection of n/b1 to Warn"},
		"many deny": {loss: losing(1, deny, deny), verdict: IntentRefused,
			sentence: "deleting node x would take 2 available pods: 1 of n/b0, which allows 1; 1 of n/b1, which allows 1; drain it first, delete the budgets, or set deletionProtection of n/b0 and n/b1 to Warn"},
		"unknown": {err: errors.New("pods: not listed yet"), verdict: IntentUndecided,
			sentence: "meshpdb cannot tell which covered pods go with node x: pods: not listed yet"},
		"panic": {panics: true, verdict: IntentUndecided,
			sentence: "meshpdb cannot tell which covered pods go with node x: an internal error, of which the log of meshpdb tells more"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hall{loss: c.loss, err: c.err, panics: c.panics}
			response := handle(t, h.intents(), ending("nodes", ready))
			want := []IntentAnswer{{Object: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Namespace: "n", Name: "x", UID: "u0"}, User: "jane", Verdict: c.verdict, Budgets: c.loss.Budgets, Sentence: c.sentence}}
			if !reflect.DeepEqual(h.answered, want) {
				t.Errorf("reported\n%+v, want\n%+v", h.answered, want)
			}
			wantIntentResponse(t, response, c.verdict, c.sentence)
			// A dry-run is answered and told alike.
			h.answered, want[0].DryRun = nil, true
			wantIntentResponse(t, handle(t, h.intents(), ending("nodes", ready, dry)), c.verdict, c.sentence)
			if !reflect.DeepEqual(h.answered, want) {
				t.Errorf("a dry-run was reported as\n%+v, want\n%+v", h.answered, want)
			}
		})
	}
}

func wantIntentResponse(t *testing.T, response admission.Response, verdict IntentVerdict, sentence string) {
	t.Helper()
	switch {
	case verdict == IntentRefused:
		want := &metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusTooManyRequests, Reason: metav1.StatusReasonTooManyRequests, Message: sentence,
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause, Message: sentence}}},
		}
		if response.Allowed || !reflect.DeepEqual(response.Result, want) {
			t.Errorf("allowed is %t, status %+v, want %+v", response.Allowed, response.Result, want)
		}
	case !response.Allowed:
		t.Errorf("refused: %+v", response.Result)
	case sentence == "" && len(response.Warnings) > 0 || sentence != "" && !reflect.DeepEqual(response.Warnings, []string{sentence}):
		t.Errorf("warned %q, want %q", response.Warnings, sentence)
	}
}

// What cannot be read is admitted, with a warning: a guard against slips must not be in the way.
func TestIntentsUnreadable(t *testing.T) {
	for name, r := range map[string]admission.Request{
		"null":        ending("nodes", "", func(r *admission.Request) { r.OldObject.Raw = []byte("null") }),
		"empty":       ending("nodes", "", func(r *admission.Request) { r.OldObject.Raw = nil }),
		"no UID":      ending("nodes", `"metadata":{"name":"x"}`),
		"a list":      ending("nodes", "", func(r *admission.Request) { r.OldObject.Raw = []byte("[]") }),
		"bad options": ending("deployments", "", with(`{"propagationPolicy":7}`)),
	} {
		h := &hall{loss: losing(1, deny)}
		response := handle(t, h.intents(), r)
		if !response.Allowed || len(response.Warnings) != 1 || !strings.Contains(response.Warnings[0], "could not be decoded") {
			t.Errorf("%s: %+v", name, response)
		}
		if len(h.answered) != 1 || h.answered[0].Verdict != IntentUndecided {
			t.Errorf("%s is reported as %+v", name, h.answered)
		}
	}
}

func TestAlternatives(t *testing.T) {
	for name, c := range map[string]struct {
		review admission.Request
		want   string
	}{
		"node":        {ending("nodes", ready), "; drain it first, delete"},
		"namespace":   {ending("namespaces", ""), "; scale its workloads to zero first, delete"},
		"deployment":  {ending("deployments", ""), "; scale it to zero first, delete"},
		"daemonset":   {ending("daemonsets", ""), "; orphan its pods and evict them, delete"},
		"replicaset":  {ending("replicasets", ""), "; scale it to zero first, delete"},
		"its owner's": {ending("replicasets", meta(`"ownerReferences":[{"kind":"Deployment","name":"x"}]`)), "; evict its pods instead, delete"},
	} {
		h := &hall{loss: losing(1, deny)}
		if response := handle(t, h.intents(), c.review); response.Result == nil || !strings.Contains(response.Result.Message, c.want) {
			t.Errorf("%s: %+v lacks %q", name, response.Result, c.want)
		}
	}
}

// However long names are and however many budgets there are, a warning is one
// that the API server does not cut, and an Event has the whole refusal.
func TestIntentSentencesFit(t *testing.T) {
	long := strings.Repeat("long-name.", 25)
	for _, resource := range []string{"nodes", "namespaces", "deployments", "replicationcontrollers"} {
		for _, count := range []int{1, 2, 3, 7, 200} {
			loss := losing(100_000, make([]v1alpha1.DeletionProtection, count)...)
			for _, l := range loss.Budgets {
				l.Budget.Namespace, l.Budget.Name, l.Budget.Status.DisruptionsAllowed = long[:63], long+l.Budget.Name, 100_000
			}
			h := &hall{loss: loss}
			r := ending(resource, ready+`,"metadata":{"name":"`+long+`","uid":"u"}`, with(background))
			response := handle(t, h.intents(), r)
			if len(response.Warnings) != 1 || utf8.RuneCountInString(response.Warnings[0]) > 256 {
				t.Errorf("%s, %d budgets: %d runes: %q", resource, count, utf8.RuneCountInString(strings.Join(response.Warnings, "")), response.Warnings)
			} else if !strings.Contains(response.Warnings[0], ", which allows 100000") || !strings.HasSuffix(response.Warnings[0], "first") {
				t.Errorf("%s, %d budgets: %q lacks a budget or the advice", resource, count, response.Warnings[0])
			}
			for _, l := range loss.Budgets {
				l.Budget.Spec.DeletionProtection = deny
			}
			response = handle(t, h.intents(), r)
			if response.Result == nil || note(response.Result.Message) != response.Result.Message || !strings.HasSuffix(response.Result.Message, "to Warn") {
				t.Errorf("%s, %d budgets: %+v is too long", resource, count, response.Result)
			}
		}
	}
	loss := losing(1, make([]v1alpha1.DeletionProtection, 9)...)
	if got := warning(intent{kind: "Node"}, loss); !strings.Contains(got, "b5, which allows 1; 3 more budgets; drain") {
		t.Errorf("%q does not count the budgets that it leaves out", got)
	}
	h := &hall{err: errors.New(strings.Repeat("ü", 1000))}
	if response := handle(t, h.intents(), ending("nodes", ready)); utf8.RuneCountInString(response.Warnings[0]) != 256 {
		t.Errorf("a problem is told in %d runes", utf8.RuneCountInString(response.Warnings[0]))
	}
}
