package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/decide"
	"github.com/meshpdb/meshpdb/pkg/workload"
)

// waived says why a pod goes whatever its budgets say; empty if they are to be asked.
func waived(q question, r decide.Request, budgets []v1alpha1.MeshPodDisruptionBudget) string {
	switch {
	case suspendedAll(budgets):
		return fmt.Sprintf("budget %s is suspended in this cluster, and does not hold %s", r.Budgets[0].Name, r.Pod)
	case workload.IsReady(q.pod):
		return ""
	case q.free:
		return fmt.Sprintf("%s is not ready, so its controller may replace it at any time", r.Pod)
	case asked(r, budgets, func(b *v1alpha1.MeshPodDisruptionBudget) bool {
		policy := b.Spec.UnhealthyPodEvictionPolicy
		return policy != nil && *policy == policyv1.AlwaysAllow
	}):
		return fmt.Sprintf("%s is not ready, and unhealthyPodEvictionPolicy is AlwaysAllow", r.Pod)
	}
	return ""
}

// stillUnready reads a pod afresh.
func (c *Config) stillUnready(ctx context.Context, pod *corev1.Pod) (bool, error) {
	now, err := c.Pods.Pod(ctx, pod.Namespace, pod.Name)
	if err != nil {
		return false, err
	}
	return now == nil || now.UID != pod.UID || !workload.IsReady(now), nil
}

// asked reports whether all budgets of a request are so.
func asked(r decide.Request, budgets []v1alpha1.MeshPodDisruptionBudget, so func(*v1alpha1.MeshPodDisruptionBudget) bool) bool {
	for i := range budgets {
		if _, part := r.Services[budgets[i].Name]; part && !so(&budgets[i]) {
			return false
		}
	}
	return true
}

func suspendedAll(budgets []v1alpha1.MeshPodDisruptionBudget) bool {
	return !slices.ContainsFunc(budgets, func(b v1alpha1.MeshPodDisruptionBudget) bool { return !b.Spec.Suspend })
}

// let allows what could not be claimed: to let go is what people asked for.
func let(waived, budget string, failed claim.Outcome) claim.Outcome {
	return claim.Outcome{
		Allowed: true, Waived: true, Budget: budget,
		Sentence: fmt.Sprintf("%s; other clusters do not know: %s", waived, failed.Sentence),
	}
}

// breakGlass turns a refusal into permission for a person who says on the pod
// that he wants it, and why, and whom RBAC allows it on every budget, one whose
// clusters are unknown included. Neither alone suffices: an administrator may
// do every verb, and his drains are to meet the budget.
func (h *Handler) breakGlass(ctx context.Context, r admission.Request, request decide.Request, unknown []string, a *Answer) {
	why := strings.TrimSpace(a.Pod.Annotations[v1alpha1.BreakGlassAnnotation])
	if why == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	budgets := unknown
	for _, b := range request.Budgets {
		budgets = append(budgets, b.Name)
	}
	for _, b := range budgets {
		namespace, name, _ := strings.Cut(b, "/")
		may, err := h.Facts.MayBreakGlass(ctx, r.UserInfo, namespace, name)
		if err != nil {
			a.Sentence += fmt.Sprintf("; whether %s may break the glass could not be found out: %v", r.UserInfo.Username, err)
			return
		}
		if !may {
			a.Sentence += fmt.Sprintf("; %s may not break the glass: that needs the verb break-glass on meshpoddisruptionbudgets.meshpdb.io %s", r.UserInfo.Username, b)
			return
		}
	}
	request.Waived = fmt.Sprintf("%s broke the glass for %s (%s), although %s", r.UserInfo.Username, request.Pod, note(why), a.Sentence)
	outcome := claim.Outcome{Sentence: "meshpdb cannot claim it yet"}
	if h.Ready() == nil && len(request.Budgets) > 0 {
		outcome = h.Decider.Decide(ctx, request)
	}
	if !outcome.Allowed {
		outcome = let(request.Waived, budgets[0], outcome)
	}
	a.Outcome, a.BrokenGlass = outcome, true
}
