package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/paths"
)

// eviction is what matters of a policy/v1 Eviction.
type eviction struct {
	dryRun bool
	// uid of the pod that is meant; empty if any pod of that name is.
	uid types.UID
	// added: the caller named no UID, the mutating side did.
	added bool
}

func readEviction(r admission.Request) (eviction, error) {
	var object policyv1.Eviction
	if err := json.Unmarshal(r.Object.Raw, &object); err != nil {
		return eviction{}, err
	}
	e := eviction{dryRun: isDryRun(r), added: object.Annotations[addedAnnotation] != ""}
	if o := object.DeleteOptions; o != nil {
		e.dryRun = e.dryRun || slices.Contains(o.DryRun, metav1.DryRunAll)
		if o.Preconditions != nil && o.Preconditions.UID != nil {
			e.uid = *o.Preconditions.UID
		}
	}
	return e, nil
}

func (c *Config) undecodable(r admission.Request, err error) admission.Response {
	return c.unable(r, fmt.Sprintf("the eviction of %s could not be decoded: %v", r.Name, err))
}

// eviction decides. Its pod is read afresh: an allowed one must not rest on what the informer has missed.
func (h *Handler) eviction(ctx context.Context, r admission.Request) admission.Response {
	start := time.Now()
	e, err := readEviction(r)
	if err != nil {
		return h.undecodable(r, err)
	}
	if e.uid == "" {
		// R12: without it, a pod recreated under the name could be evicted unclaimed.
		return h.unable(r, fmt.Sprintf("the eviction of %s carries no UID precondition: meshpdb's mutating webhook, which adds it, was not called", r.Name))
	}
	cached, err := h.Pods.CachedPod(ctx, r.Namespace, r.Name)
	asked := err == nil && cached != nil && cached.UID == e.uid
	if asked {
		if answer, refused := h.refuseCached(ctx, r, cached, e.dryRun, start); refused {
			return answer
		}
	}
	lookup, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	pod, err := h.Pods.Pod(lookup, r.Namespace, r.Name)
	switch {
	case err != nil:
		return h.unable(r, fmt.Sprintf("pod %s could not be looked up: %v", r.Name, err))
	case pod == nil:
		return admission.Allowed("the pod does not exist")
	case pod.UID != e.uid && e.added:
		// The informer has shown its predecessor. Let through, the eviction would end as a conflict, on which drains give up.
		return h.unable(r, fmt.Sprintf("pod %s was replaced a moment ago by another one of the same name", r.Name))
	case pod.UID != e.uid:
		return admission.Allowed("the pod has been replaced; the API server refuses by the UID precondition")
	}
	budgets, err := h.Pods.BudgetsOf(ctx, pod)
	if err != nil {
		return h.unlisted(r, pod, err)
	}
	return h.decide(ctx, r, question{path: paths.Eviction, pod: pod, budgets: budgets, dryRun: e.dryRun, start: start, asked: asked})
}

// refuseCached answers what the cached view refuses, without a write or a network call.
func (c *Config) refuseCached(ctx context.Context, r admission.Request, pod *corev1.Pod, dryRun bool, start time.Time) (admission.Response, bool) {
	if _, glass := pod.Annotations[v1alpha1.BreakGlassAnnotation]; glass || harmless(pod) || c.Ready() != nil {
		return admission.Response{}, false
	}
	budgets, err := c.Pods.BudgetsOf(ctx, pod)
	if err != nil || len(budgets) == 0 {
		return admission.Response{}, false
	}
	request, unknown := c.request(pod, budgets, paths.Eviction)
	if len(unknown) > 0 || len(request.Budgets) == 0 || waived(question{pod: pod}, request, budgets) != "" {
		return admission.Response{}, false
	}
	request.DryRun = dryRun
	outcome, refused := c.native(ctx, pod, request)
	if !refused {
		outcome, refused = c.Decider.Refuse(request)
	}
	if !refused {
		return admission.Response{}, false
	}
	answer := answerFor(r, paths.Eviction, pod)
	answer.DryRun, answer.Budgets, answer.Outcome, answer.Took = dryRun, budgets, outcome, time.Since(start)
	return c.answer(answer), true
}
