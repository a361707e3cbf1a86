package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/decide"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// Decider answers whether a pod may be disrupted.
type Decider interface {
	// Refuse denies what is known to be impossible, at once.
	Refuse(decide.Request) (claim.Outcome, bool)
	Decide(context.Context, decide.Request) claim.Outcome
}

// Pods finds pods and the budgets that cover them.
type Pods interface {
	// CachedPod and Pod return nil if there is none.
	CachedPod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	BudgetsOf(ctx context.Context, pod *corev1.Pod) ([]v1alpha1.MeshPodDisruptionBudget, error)
}

// Path is by which request a disruption came.
type Path string

// The paths that reach admission.
const (
	PathEviction Path = "eviction"
	PathDeletion Path = "deletion"
	// PathSystem is a DELETE by Kubernetes itself: accounted, not held.
	PathSystem Path = "system"
)

// Answer is a decision as it left for the API server.
type Answer struct {
	Path    Path
	User    string
	DryRun  bool
	Pod     *corev1.Pod
	Budgets []v1alpha1.MeshPodDisruptionBudget
	claim.Outcome
	Took time.Duration
}

// Config of the handlers; everything is required.
type Config struct {
	// Cluster is the own cluster's name.
	Cluster string
	Decider Decider
	Pods    Pods
	// Ready says why nothing can be decided yet; nil if it can.
	Ready func() error
	// Answered is told every decision about a covered pod. It must not block.
	Answered func(Answer)
	Log      logr.Logger
}

// lookupTimeout bounds the look-ups before a decision begins; with the
// Decider's own deadline it stays below the webhook's timeoutSeconds.
const lookupTimeout = 3 * time.Second

// Handler is the validating side.
type Handler struct{ Config }

// Handle answers one AdmissionReview. It never fails: a panic is a refusal.
func (h *Handler) Handle(ctx context.Context, r admission.Request) (response admission.Response) {
	defer func() {
		if p := recover(); p != nil {
			h.Log.Error(fmt.Errorf("panic: %v", p), "decide admission", "pod", r.Namespace+"/"+r.Name)
			response = refuse("meshpdb met an internal error; its log tells more")
		}
	}()
	switch {
	case r.Operation == admissionv1.Create && r.Resource.Resource == "pods" && r.SubResource == "eviction":
		return h.eviction(ctx, r)
	case r.Operation == admissionv1.Delete && r.Resource.Resource == "pods" && r.SubResource == "":
		return h.deletion(ctx, r)
	default:
		// The webhook configuration sends nothing else.
		return admission.Allowed("")
	}
}

func (h *Handler) deletion(ctx context.Context, r admission.Request) admission.Response {
	var pod corev1.Pod
	if err := json.Unmarshal(r.OldObject.Raw, &pod); err != nil {
		return refuse(fmt.Sprintf("the pod to be deleted could not be decoded: %v", err))
	}
	if pod.Name == "" || pod.UID == "" {
		// "null" and "{}" decode as well, into a pod that looks as if it had never been started.
		return refuse("the pod to be deleted could not be decoded: it has no name or no UID")
	}
	if isSystem(r.UserInfo) {
		h.account(ctx, r, &pod)
		return admission.Allowed("")
	}
	return h.decide(ctx, r, question{path: PathDeletion, pod: &pod, dryRun: isDryRun(r), start: time.Now()})
}

// question is a request to disrupt a pod.
type question struct {
	path   Path
	pod    *corev1.Pod
	dryRun bool
	start  time.Time
	// asked: the cached view was asked already and does not refuse.
	asked bool
}

// account takes note of a disruption by Kubernetes itself.
func (h *Handler) account(ctx context.Context, r admission.Request, pod *corev1.Pod) {
	if harmless(pod) {
		return
	}
	budgets, err := h.Pods.BudgetsOf(ctx, pod)
	if err != nil || len(budgets) == 0 {
		return
	}
	h.Answered(Answer{
		Path: PathSystem, User: r.UserInfo.Username, DryRun: isDryRun(r), Pod: pod, Budgets: budgets,
		Outcome: claim.Outcome{Allowed: true, Budget: nameOf(budgets[0]), Sentence: fmt.Sprintf("%s deletes %s, which is accounted and not held", r.UserInfo.Username, pod.Name)},
	})
}

// harmless reports whether the pod's going disrupts nothing: it is going
// already, has ended, was never started, or is a mirror.
func harmless(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil || workload.IsTerminal(pod) || workload.IsMirror(pod) ||
		pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodPending
}

func (h *Handler) decide(ctx context.Context, r admission.Request, q question) admission.Response {
	if harmless(q.pod) {
		return admission.Allowed("")
	}
	answer := Answer{Path: q.path, User: r.UserInfo.Username, DryRun: q.dryRun, Pod: q.pod}
	budgets, err := h.Pods.BudgetsOf(ctx, q.pod)
	if err != nil {
		return refuse(fmt.Sprintf("the budgets of pod %s could not be listed: %v", q.pod.Name, err))
	}
	if len(budgets) == 0 {
		return admission.Allowed("")
	}
	answer.Budgets = budgets
	if err := h.Ready(); err != nil {
		answer.Outcome = decide.Undecided("meshpdb in cluster %s cannot decide yet: %v", h.Cluster, err)
		return h.answer(answer)
	}
	request, unknown := h.request(q.pod, budgets, q.path)
	request.DryRun = q.dryRun
	switch {
	case unknown != "":
		answer.Outcome = decide.Undecided("budget %s is new and the clusters that take part are not known yet", unknown)
	case len(request.Budgets) == 0:
		return admission.Allowed("")
	default:
		answer.Outcome = h.ask(ctx, q, request)
	}
	answer.Took = time.Since(q.start)
	return h.answer(answer)
}

// ask asks the cached view first.
func (h *Handler) ask(ctx context.Context, q question, request decide.Request) claim.Outcome {
	if !q.asked {
		if outcome, refused := h.Decider.Refuse(request); refused {
			return outcome
		}
	}
	return h.Decider.Decide(ctx, request)
}

// request puts the question, or names a budget whose scope is not known yet. A
// budget that leaves the own cluster out does not cover its pods.
func (c *Config) request(pod *corev1.Pod, budgets []v1alpha1.MeshPodDisruptionBudget, path Path) (question decide.Request, unknown string) {
	r := decide.Request{Namespace: pod.Namespace, Pod: pod.Name, UID: string(pod.UID), Reason: "Eviction", Services: map[string]string{}}
	if path == PathDeletion {
		r.Reason = "Deletion"
	}
	for i := range budgets {
		covering := workload.Covering(&budgets[i])
		if len(covering.Clusters) == 0 {
			return r, nameOf(budgets[i])
		}
		if !slices.Contains(covering.Clusters, c.Cluster) {
			continue
		}
		r.Budgets = append(r.Budgets, covering)
		r.Services[budgets[i].Name] = budgets[i].Spec.Service
	}
	return r, ""
}

func (c *Config) answer(a Answer) admission.Response {
	c.Answered(a)
	if a.Allowed {
		return admission.Allowed(a.Sentence)
	}
	return refuse(a.Sentence)
}

func isDryRun(r admission.Request) bool { return r.DryRun != nil && *r.DryRun }

func nameOf(b v1alpha1.MeshPodDisruptionBudget) string { return b.Namespace + "/" + b.Name }

// maxSentence bounds an answer: what could not be decoded may be quoted in it.
const maxSentence = 4000

// refuse is a denial in the shape of the eviction API's own
// (pkg/registry/core/pod/storage/eviction.go). No Retry-After: client-go would
// sleep inside the caller, which blocks controllers and kubectl alike.
func refuse(sentence string) admission.Response {
	sentence = cut(sentence, maxSentence)
	response := admission.Denied("")
	response.Result = &metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusTooManyRequests,
		Reason:  metav1.StatusReasonTooManyRequests,
		Message: "Cannot evict pod as it would violate the pod's disruption budget: " + sentence,
		Details: &metav1.StatusDetails{
			Causes: []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause, Message: sentence}},
		},
	}
	return response
}
