package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/paths"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// deletion treats a DELETE of a pod by who asks for it (package paths).
func (h *Handler) deletion(ctx context.Context, r admission.Request) admission.Response {
	start := time.Now()
	var pod corev1.Pod
	if err := json.Unmarshal(r.OldObject.Raw, &pod); err != nil {
		return h.unable(r, fmt.Sprintf("the pod to be deleted could not be decoded: %v", err))
	}
	if pod.Name == "" || pod.UID == "" {
		// "null" and "{}" decode as well, into a pod that looks as if it had never been started.
		return h.unable(r, "the pod to be deleted could not be decoded: it has no name or no UID")
	}
	if harmless(&pod) {
		return admission.Allowed("")
	}
	budgets, unread := h.Pods.BudgetsOf(ctx, &pod)
	if unread == nil && !h.coveredHere(&pod, budgets) {
		return admission.Allowed("")
	}
	path := paths.OfDeletion(r.UserInfo)
	verdict, err := h.judge(ctx, path, &pod)
	answer := answerFor(r, path, &pod)
	answer.Budgets = budgets
	switch {
	case err != nil:
		answer.Sentence = err.Error()
		return h.unasked(answer, start)
	case verdict.Refuse != "":
		answer.Sentence, answer.Moot = verdict.Refuse, true
		return h.unasked(answer, start)
	case verdict.Treatment == paths.Account || verdict.Treatment == paths.Skip:
		h.account(answer)
		return admission.Allowed("")
	}
	if unread != nil {
		return h.unlisted(r, &pod, unread)
	}
	return h.decide(ctx, r, question{
		path: path, pod: &pod, budgets: budgets, dryRun: isDryRun(r), start: start, free: verdict.Free, retryAfter: verdict.RetryAfter,
	})
}

// judge finds out how a deletion is to be treated. An error is a refusal: what
// a controller does about it, it does about every other refusal.
func (h *Handler) judge(ctx context.Context, path paths.Path, pod *corev1.Pod) (paths.Verdict, error) {
	facts := paths.Facts{Ready: workload.IsReady(pod), Tolerations: pod.Spec.Tolerations, EnforcePreemption: h.EnforcePreemption}
	if h.Facts.Terminating(ctx, pod.Namespace) {
		// The namespace controller deletes what is left around a pod that is held.
		return paths.Verdict{Treatment: paths.Account}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	if paths.NodeMatters(path) {
		node, err := h.Facts.Node(ctx, pod.Spec.NodeName)
		if err != nil {
			return paths.Verdict{}, fmt.Errorf("node %s of pod %s could not be looked up: %w", pod.Spec.NodeName, pod.Name, err)
		}
		facts.Node = node
	}
	if owner := metav1.GetControllerOfNoCopy(pod); path == paths.DaemonSet && owner != nil {
		set, err := h.Facts.DaemonSet(ctx, pod.Namespace, owner.Name)
		if err != nil {
			return paths.Verdict{}, fmt.Errorf("daemonset %s of pod %s could not be looked up: %w", owner.Name, pod.Name, err)
		}
		facts.Unselected = set == nil || set.UID != owner.UID || !paths.Wants(set, facts.Node, pod.Spec.Tolerations)
	}
	return paths.Judge(path, facts), nil
}

// coveredHere reports whether a budget covers the pod in this cluster, or may.
func (h *Handler) coveredHere(pod *corev1.Pod, budgets []v1alpha1.MeshPodDisruptionBudget) bool {
	request, unknown := h.request(pod, budgets, paths.Deletion)
	return len(unknown) > 0 || len(request.Budgets) > 0
}

// unasked refuses, and tells of it, without a question to the budgets.
func (h *Handler) unasked(a Answer, start time.Time) admission.Response {
	if len(a.Budgets) > 0 {
		a.Budget = nameOf(a.Budgets[0])
	}
	a.Took = time.Since(start)
	return h.answer(a)
}

// account takes note of a disruption that goes whatever the budgets say.
func (h *Handler) account(a Answer) {
	if len(a.Budgets) == 0 {
		return
	}
	a.Accounted = true
	a.Outcome = claim.Outcome{Allowed: true, Budget: nameOf(a.Budgets[0]), Sentence: fmt.Sprintf("%s deletes %s, which is accounted and not held", a.User, a.Pod.Name)}
	h.Answered(a)
}
