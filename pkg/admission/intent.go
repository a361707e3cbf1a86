package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/paths"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// Dependents finds the available covered pods that go with an object, in memory.
type Dependents interface {
	OfNode(ctx context.Context, name string) (workload.Loss, error)
	OfNamespace(ctx context.Context, name string) (workload.Loss, error)
	OfOwner(context.Context, workload.Owner) (workload.Loss, error)
}

// Intents meets the deletion of what covered pods live by: nodes, namespaces
// and owners. When Kubernetes' own controllers come to delete the pods, those
// are past saving and are let through, so this is where a person can still be
// warned or refused.
//
// It is a guard against slips and no part of the claim protocol: it reserves
// nothing, and what it cannot tell it admits. Everything is required.
type Intents struct {
	Dependents Dependents
	// Answered is told every answer. It must not block.
	Answered func(IntentAnswer)
	Log      logr.Logger
}

// IntentVerdict is what became of a deletion.
type IntentVerdict string

// The verdicts.
const (
	// IntentAdmitted: it takes no available covered pod, or Kubernetes itself asks.
	IntentAdmitted IntentVerdict = "admitted"
	IntentWarned   IntentVerdict = "warned"
	IntentRefused  IntentVerdict = "refused"
	// IntentUndecided: what goes with it could not be told; admitted with a warning that says so.
	IntentUndecided IntentVerdict = "undecided"
)

// IntentAnswer is an answer as it left for the API server.
type IntentAnswer struct {
	// Object is what was to be deleted.
	Object corev1.ObjectReference
	User   string
	// UserPod is the pod whose token the user presented; empty if that is not known.
	UserPod string
	// Review is the UID of the API server's question.
	Review  types.UID
	DryRun  bool
	Verdict IntentVerdict
	// Budgets that lose pods.
	Budgets []workload.BudgetLoss
	// Sentence is empty for what was admitted.
	Sentence string
}

// kinds by resource. Jobs are none of them: their pods are meant to end.
var kinds = map[metav1.GroupResource]string{
	{Resource: "nodes"}:                       "Node",
	{Resource: "namespaces"}:                  "Namespace",
	{Resource: "replicationcontrollers"}:      "ReplicationController",
	{Group: "apps", Resource: "deployments"}:  "Deployment",
	{Group: "apps", Resource: "statefulsets"}: "StatefulSet",
	{Group: "apps", Resource: "daemonsets"}:   "DaemonSet",
	{Group: "apps", Resource: "replicasets"}:  "ReplicaSet",
}

// kindOf is the kind of what is deleted, empty if it is none of kinds.
func kindOf(r admission.Request) string {
	return kinds[metav1.GroupResource{Group: r.Resource.Group, Resource: r.Resource.Resource}]
}

// cloudControllers delete the Nodes of machines that are gone
// (cloud-provider, controllers/nodelifecycle). They have an account of their
// own, that of the cloud-controller-manager, or its certificate.
var cloudControllers = []string{
	"system:cloud-controller-manager",
	"system:serviceaccount:kube-system:cloud-controller-manager",
	"system:serviceaccount:kube-system:cloud-node-lifecycle-controller",
}

// isKubernetes reports whether the deletion follows from what happened before.
func isKubernetes(user authenticationv1.UserInfo) bool {
	return paths.BySystem(user) || slices.Contains(cloudControllers, user.Username)
}

// intentTimeout bounds an answer: below the webhooks' timeoutSeconds, so that
// what takes longer is admitted with a warning rather than without.
const intentTimeout = 2 * time.Second

// intent is a request to delete an object.
type intent struct {
	kind   string
	object intentObject
	// orphans: the pods stay behind.
	orphans bool
}

// intentObject is what matters of any of the objects.
type intentObject struct {
	metav1.ObjectMeta `json:"metadata"`

	Spec struct {
		Replicas *int32 `json:"replicas"`
	} `json:"spec"`
	Status struct {
		Conditions []struct {
			Type   string                 `json:"type"`
			Status corev1.ConditionStatus `json:"status"`
		} `json:"conditions"`
	} `json:"status"`
}

func readIntent(r admission.Request) (intent, error) {
	i := intent{kind: kindOf(r)}
	if err := json.Unmarshal(r.OldObject.Raw, &i.object); err != nil {
		return i, err
	}
	if i.object.Name == "" || i.object.UID == "" {
		// "null" and "{}" decode as well.
		return i, errors.New("it has no name or no UID")
	}
	var options metav1.DeleteOptions
	if len(r.Options.Raw) > 0 {
		if err := json.Unmarshal(r.Options.Raw, &options); err != nil {
			return i, fmt.Errorf("its options: %w", err)
		}
	}
	i.orphans = i.owner() && orphans(i.kind, &i.object.ObjectMeta, &options)
	return i, nil
}

// owner reports whether the object is one by whose end the garbage collector deletes pods.
func (i intent) owner() bool { return i.kind != "Node" && i.kind != "Namespace" }

// orphans reports whether the API server leaves the dependents of an object
// behind, by its own rules (shouldOrphanDependents in
// k8s.io/apiserver/pkg/registry/generic/registry/store.go).
func orphans(kind string, object *metav1.ObjectMeta, options *metav1.DeleteOptions) bool {
	//lint:ignore SA1019 It still counts first.
	if orphan := options.OrphanDependents; orphan != nil {
		return *orphan
	}
	if policy := options.PropagationPolicy; policy != nil {
		return *policy == metav1.DeletePropagationOrphan
	}
	for _, finalizer := range object.Finalizers {
		switch finalizer {
		case metav1.FinalizerOrphanDependents:
			return true
		case metav1.FinalizerDeleteDependents:
			return false
		}
	}
	// The default of v1, the only version there is (pkg/registry/core/replicationcontroller/strategy.go).
	return kind == "ReplicationController"
}

// drainingFinalizer is on Nodes that Karpenter drains, by evictions, once they
// were deleted and before they go. Its own removals of nodes begin that way.
const drainingFinalizer = "karpenter.sh/termination"

// harmless reports whether the deletion takes no pod that would otherwise
// stay: the object is going already, its pods are left behind or were not asked
// for any more, or they have failed with the node or will be evicted.
func (i intent) harmless() bool {
	o := &i.object
	switch {
	case o.DeletionTimestamp != nil || i.orphans:
		return true
	case i.kind == "Node":
		return !o.isReady() || slices.Contains(o.Finalizers, drainingFinalizer)
	default:
		return o.Spec.Replicas != nil && *o.Spec.Replicas == 0
	}
}

func (o *intentObject) isReady() bool {
	for _, c := range o.Status.Conditions {
		if c.Type == string(corev1.NodeReady) {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Handle answers one AdmissionReview. It never fails: after a panic the deletion is admitted.
func (h *Intents) Handle(ctx context.Context, r admission.Request) (response admission.Response) {
	defer func() {
		if p := recover(); p != nil {
			h.Log.Error(fmt.Errorf("panic: %v", p), "decide intent", "resource", r.Resource.Resource, "object", r.Namespace+"/"+r.Name)
			response = h.undecided(r, errors.New("an internal error, of which the log of meshpdb tells more"))
		}
	}()
	if r.Operation != admissionv1.Delete || r.SubResource != "" || kindOf(r) == "" {
		// The webhook configuration sends nothing else.
		return admission.Allowed("")
	}
	if isKubernetes(r.UserInfo) {
		return h.admit(r)
	}
	i, err := readIntent(r)
	if err != nil {
		return h.undecided(r, fmt.Errorf("what is to be deleted could not be decoded: %w", err))
	}
	if i.harmless() {
		return h.admit(r)
	}
	ctx, cancel := context.WithTimeout(ctx, intentTimeout)
	defer cancel()
	loss, err := h.loss(ctx, i)
	switch {
	case err != nil:
		return h.undecided(r, err)
	case loss.Pods == 0:
		return h.admit(r)
	default:
		return h.protect(r, i, loss)
	}
}

func (h *Intents) loss(ctx context.Context, i intent) (workload.Loss, error) {
	o := &i.object
	switch i.kind {
	case "Node":
		return h.Dependents.OfNode(ctx, o.Name)
	case "Namespace":
		return h.Dependents.OfNamespace(ctx, o.Name)
	default:
		return h.Dependents.OfOwner(ctx, workload.Owner{Kind: i.kind, Namespace: o.Namespace, Name: o.Name, UID: o.UID})
	}
}

// protect answers what the budgets say. The strictest counts, how many pods
// they allow does not: nothing has claimed those that would go.
func (h *Intents) protect(r admission.Request, i intent, loss workload.Loss) admission.Response {
	answer := answerTo(r)
	answer.Budgets = loss.Budgets
	if denying := denying(loss.Budgets); len(denying) > 0 {
		answer.Verdict, answer.Sentence = IntentRefused, refusal(i, loss, denying)
		h.Answered(answer)
		response := refuse(answer.Sentence)
		// Nobody evicts here, so what remains of the eviction API's words is their shape.
		response.Result.Message = answer.Sentence
		return response
	}
	answer.Verdict, answer.Sentence = IntentWarned, warning(i, loss)
	h.Answered(answer)
	return admission.Allowed("").WithWarnings(answer.Sentence)
}

func denying(losses []workload.BudgetLoss) []workload.BudgetLoss {
	return slices.DeleteFunc(slices.Clone(losses), func(l workload.BudgetLoss) bool {
		return l.Budget.Spec.DeletionProtection != v1alpha1.DeletionProtectionDeny
	})
}

func (h *Intents) admit(r admission.Request) admission.Response {
	answer := answerTo(r)
	answer.Verdict = IntentAdmitted
	h.Answered(answer)
	return admission.Allowed("")
}

func (h *Intents) undecided(r admission.Request, why error) admission.Response {
	answer := answerTo(r)
	answer.Verdict = IntentUndecided
	answer.Sentence = atMost(warningRunes, fmt.Sprintf("meshpdb cannot tell which covered pods go with %s %s: %v", strings.ToLower(answer.Object.Kind), short(answer.Object.Name), why))
	h.Answered(answer)
	return admission.Allowed("").WithWarnings(answer.Sentence)
}

func answerTo(r admission.Request) IntentAnswer {
	apiVersion, kind := schema.GroupVersionKind{Group: r.Resource.Group, Version: r.Resource.Version, Kind: kindOf(r)}.ToAPIVersionAndKind()
	a := IntentAnswer{
		User: r.UserInfo.Username, UserPod: userPod(r.UserInfo), Review: r.UID, DryRun: isDryRun(r),
		Object: corev1.ObjectReference{APIVersion: apiVersion, Kind: kind, Name: r.Name},
	}
	// Where a collection is deleted, there is one review for each object, without its name.
	var object metav1.PartialObjectMetadata
	if json.Unmarshal(r.OldObject.Raw, &object) == nil && object.Name != "" {
		a.Object.Namespace, a.Object.Name, a.Object.UID = object.Namespace, object.Name, object.UID
	}
	return a
}
