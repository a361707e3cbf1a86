package admission

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/decide"
	"github.com/meshpdb/meshpdb/pkg/paths"
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

// Facts of the own cluster that the treatment of a request rests on.
type Facts interface {
	// Node and DaemonSet read afresh; nil if there is none.
	Node(ctx context.Context, name string) (*corev1.Node, error)
	DaemonSet(ctx context.Context, namespace, name string) (*appsv1.DaemonSet, error)
	// Terminating reports whether a namespace is, as the informer shows it.
	Terminating(ctx context.Context, namespace string) bool
	// NativeBudgets returns the PodDisruptionBudgets of a pod, as the informer shows them.
	NativeBudgets(ctx context.Context, pod *corev1.Pod) ([]policyv1.PodDisruptionBudget, error)
	// MayBreakGlass reports whether a user may let a pod go in spite of a budget.
	MayBreakGlass(ctx context.Context, user authenticationv1.UserInfo, namespace, budget string) (bool, error)
}

// Answer is a decision as it left for the API server.
type Answer struct {
	Path paths.Path
	User string
	// UserPod is the pod whose token the user presented; empty if that is not known.
	UserPod string
	// Review is the UID of the API server's question.
	Review types.UID
	DryRun bool
	// Pod is what was asked for; only its name is known where it could not be looked up.
	Pod *corev1.Pod
	// Accounted: it goes whatever the budgets say, which were not asked.
	Accounted bool
	// BrokenGlass: it goes although the budgets refused, for somebody who may do that asked for it.
	BrokenGlass bool
	// Moot: it is refused because what asked for it is no more; the budgets were not asked.
	Moot bool
	// Budgets that cover the pod; empty if they are not known.
	Budgets []v1alpha1.MeshPodDisruptionBudget
	claim.Outcome
	Took time.Duration
	// RetryAfter of a refusal, in seconds; none if 0.
	RetryAfter int32
}

// Config of the handlers; everything is required.
type Config struct {
	// Cluster is the own cluster's name.
	Cluster string
	Decider Decider
	Pods    Pods
	Facts   Facts
	// EnforcePreemption holds the scheduler to the budgets as well.
	EnforcePreemption bool
	// Ready says why nothing can be decided yet; nil if it can.
	Ready func() error
	// Answered is told every decision about a covered pod, and every refusal that came
	// before one. It must not block.
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
			response = h.panicked(r)
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

// question is a request to disrupt a pod.
type question struct {
	path    paths.Path
	pod     *corev1.Pod
	budgets []v1alpha1.MeshPodDisruptionBudget
	dryRun  bool
	start   time.Time
	// free: the pod is not available and its controller may always replace it.
	free bool
	// retryAfter of a refusal, in seconds.
	retryAfter int32
	// asked: the cached view was asked already and does not refuse.
	asked bool
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
	request, unknown := h.request(q.pod, q.budgets, q.path)
	request.DryRun = q.dryRun
	if len(unknown) == 0 && len(request.Budgets) == 0 {
		return admission.Allowed("")
	}
	answer := answerFor(r, q.path, q.pod)
	answer.DryRun, answer.Budgets, answer.RetryAfter = q.dryRun, q.budgets, q.retryAfter
	if len(unknown) > 0 {
		answer.Outcome = decide.Undecided("budget %s is new and the clusters that take part are not known yet", unknown[0])
	} else {
		answer.Outcome = h.ask(ctx, q, request)
	}
	if !answer.Allowed {
		h.breakGlass(ctx, r, request, unknown, &answer)
	}
	answer.Took = time.Since(q.start)
	return h.answer(answer)
}

// unlisted refuses: whether any budget covers the pod is not known.
func (c *Config) unlisted(r admission.Request, pod *corev1.Pod, err error) admission.Response {
	return c.unable(r, fmt.Sprintf("the budgets of pod %s could not be listed: %v", pod.Name, err))
}

// ask asks what costs least first.
func (h *Handler) ask(ctx context.Context, q question, request decide.Request) claim.Outcome {
	request.Waived = waived(q, request, q.budgets)
	suspended := suspendedAll(q.budgets)
	if err := h.Ready(); err != nil {
		undecided := decide.Undecided("meshpdb in cluster %s cannot decide yet: %v", h.Cluster, err)
		if suspended {
			return let(request.Waived, request.Budgets[0].Name, undecided)
		}
		return undecided
	}
	if request.Waived != "" {
		if !suspended {
			request.StillFree = func(ctx context.Context) (bool, error) { return h.stillUnready(ctx, q.pod) }
		}
		outcome := h.Decider.Decide(ctx, request)
		if suspended && !outcome.Allowed {
			return let(request.Waived, request.Budgets[0].Name, outcome)
		}
		return outcome
	}
	if q.path == paths.Eviction {
		if outcome, refused := h.native(ctx, q.pod, request); refused {
			return outcome
		}
	}
	if !q.asked {
		if outcome, refused := h.Decider.Refuse(request); refused {
			return outcome
		}
	}
	return h.Decider.Decide(ctx, request)
}

// request puts the question, and names the budgets whose scope is not known yet. A
// budget that leaves the own cluster out does not cover its pods, and one that is
// suspended beside others is not asked.
func (c *Config) request(pod *corev1.Pod, budgets []v1alpha1.MeshPodDisruptionBudget, path paths.Path) (question decide.Request, unknown []string) {
	r := decide.Request{Namespace: pod.Namespace, Pod: pod.Name, UID: string(pod.UID), Reason: "Eviction", Services: map[string]string{}}
	if path != paths.Eviction {
		r.Reason = "Deletion"
	}
	all := suspendedAll(budgets)
	for i := range budgets {
		if budgets[i].Spec.Suspend && !all {
			continue
		}
		covering := workload.Covering(&budgets[i])
		if len(covering.Clusters) == 0 && !all {
			unknown = append(unknown, nameOf(budgets[i]))
			continue
		}
		if len(covering.Clusters) > 0 && !slices.Contains(covering.Clusters, c.Cluster) {
			continue
		}
		r.Budgets = append(r.Budgets, covering)
		r.Services[budgets[i].Name] = budgets[i].Spec.Service
	}
	return r, unknown
}

// userPod names the pod that a service account's token is bound to (pkg/serviceaccount/claims.go).
func userPod(user authenticationv1.UserInfo) string {
	if names := user.Extra["authentication.kubernetes.io/pod-name"]; len(names) == 1 {
		return names[0]
	}
	return ""
}

func answerFor(r admission.Request, path paths.Path, pod *corev1.Pod) Answer {
	return Answer{Path: path, User: r.UserInfo.Username, UserPod: userPod(r.UserInfo), Review: r.UID, DryRun: isDryRun(r), Pod: pod}
}

// panicked refuses. Telling of it may be what panics.
func (c *Config) panicked(r admission.Request) (response admission.Response) {
	const sentence = "meshpdb met an internal error; its log tells more"
	response = refuse(sentence)
	defer func() { _ = recover() }()
	return c.unable(r, sentence)
}

// unable refuses, and tells of it, where the question to the budgets could not be put.
func (c *Config) unable(r admission.Request, sentence string) admission.Response {
	path := paths.Eviction
	if r.Operation == admissionv1.Delete {
		path = paths.OfDeletion(r.UserInfo)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: r.Name}}
	answer := answerFor(r, path, pod)
	answer.Outcome = claim.Outcome{Undecidable: true, Sentence: sentence}
	return c.answer(answer)
}

func (c *Config) answer(a Answer) admission.Response {
	c.Answered(a)
	if !a.Allowed {
		response := refuse(a.Sentence)
		response.Result.Details.RetryAfterSeconds = a.RetryAfter
		return response
	}
	response := admission.Allowed(a.Sentence)
	if a.BrokenGlass {
		// Into the audit log of the API server, as evictions.meshpdb.io/break-glass or deletions.meshpdb.io/break-glass.
		response.AuditAnnotations = map[string]string{"break-glass": a.Sentence}
	}
	return response
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
