package plugin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshpdb/meshpdb/pkg/plugin/hold"
)

// native is a PodDisruptionBudget that allows nothing.
type native struct {
	Name string `json:"name"`
	// Healthy, Desired and Expected as in its status.
	Healthy  int32 `json:"currentHealthy"`
	Desired  int32 `json:"desiredHealthy"`
	Expected int32 `json:"expectedPods"`
	// Since is when it began to allow nothing; none if its status does not tell.
	Since *metav1.Time `json:"since,omitempty"`
	// Frees says what would let it allow something.
	Frees string `json:"frees"`
}

// exhausted are the PodDisruptionBudgets of a pod that allow nothing.
func (c *Cluster) exhausted(ctx context.Context, pod *corev1.Pod) ([]native, error) {
	list, err := c.Kube.PolicyV1().PodDisruptionBudgets(pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var all []native
	for i := range list.Items {
		n := &list.Items[i]
		selector, err := metav1.LabelSelectorAsSelector(n.Spec.Selector)
		if err != nil {
			return nil, fmt.Errorf("decode PodDisruptionBudget %s: %w", n.Name, err)
		}
		if selector.Matches(labels.Set(pod.Labels)) && n.Status.DisruptionsAllowed <= 0 {
			all = append(all, native{n.Name, n.Status.CurrentHealthy, n.Status.DesiredHealthy, n.Status.ExpectedPods, allowedSince(n), nativeFrees(n)})
		}
	}
	return all, nil
}

// nativeFrees says what would let a PodDisruptionBudget allow something that allows nothing.
func nativeFrees(n *policyv1.PodDisruptionBudget) string {
	s := &n.Status
	switch more := s.DesiredHealthy + 1 - s.CurrentHealthy; {
	case s.DesiredHealthy >= s.ExpectedPods && n.Spec.MinAvailable != nil && n.Spec.MinAvailable.Type == intstr.Int:
		return fmt.Sprintf("a smaller minAvailable, for it wants all of its pods; or more pods than %d", s.DesiredHealthy)
	case s.DesiredHealthy >= s.ExpectedPods:
		return "a change of it, for it wants all of its pods: a larger maxUnavailable or a smaller minAvailable"
	case more == 1:
		return "1 more of its pods that is Ready"
	default:
		return fmt.Sprintf("%d more of its pods that are Ready", more)
	}
}

// others says who else than a budget of the mesh refuses a pod, since when, and what would free it.
func (o *explainOptions) others(say *sentences, e *explanation) {
	for _, n := range e.Native {
		since := ""
		if n.Since != nil {
			since = " since " + hold.Ago(*n.Since, o.Now())
		}
		say.say("\nPodDisruptionBudget %s/%s, which counts this cluster only, allows nothing%s: %d of its %s healthy, and it needs %d.", e.Namespace, n.Name, since, n.Healthy, count(int(n.Expected), "pod"), n.Desired)
		say.say("  What would free it: %s.", n.Frees)
		say.say("  To change it: kubectl edit poddisruptionbudget %s -n %s%s", n.Name, e.Namespace, o.contextFlag())
	}
	switch {
	case len(e.Native) > 0 || slices.ContainsFunc(e.Budgets, func(r hold.Report) bool { return len(r.HeldBackBy) > 0 }):
	case e.NativeUnread != "":
		say.say("\nWhether a PodDisruptionBudget of this cluster holds it back could not be read: %s.", e.NativeUnread)
	case len(e.Budgets) == 0:
		say.say("\nNo budget covers it that allows nothing now, of the mesh or of this cluster: another webhook of this cluster may have refused it.")
		say.say("  To see which there are: kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations%s", o.contextFlag())
	default:
		for _, r := range e.Budgets {
			say.say("\nAs this cluster's controller sees it now, %s.", r.Summary(o.Now()))
		}
		say.say("  What would free it: what that sentence names; or the next try, if that has just come.")
		say.say("  To ask again: kubectl meshpdb explain pod/%s -n %s%s", e.Pod, e.Namespace, o.contextFlag())
	}
}

// unanswered says of an eviction that was neither let go nor refused who is the cause, since when, and what would end it.
func (o *explainOptions) unanswered(ctx context.Context, c *Cluster, pod string, err error) error {
	if !strings.Contains(err.Error(), "failed calling webhook") {
		return fmt.Errorf("the API server did not say whether pod/%s would go: %w", pod, err)
	}
	heard := ""
	if last := c.heardOf(ctx); last != nil {
		heard = ", which were heard of last at " + hold.Ago(metav1.NewTime(*last), o.Now())
	}
	return fmt.Errorf("%w\nA webhook of this cluster does not answer, so the eviction of pod/%s fails. If its name ends in meshpdb.io, it is that of this cluster's controllers%s.\n  What would free it: one of them that answers.\n  What is wrong with them: kubectl meshpdb doctor%s", err, pod, heard, o.contextFlag())
}

// heardOf is when a controller told of itself last; nil if that is not known.
func (c *Cluster) heardOf(ctx context.Context) *time.Time {
	var last *time.Time
	replicas := c.replicas(ctx)
	for i := range replicas {
		if at := &replicas[i].Written; last == nil || at.After(*last) {
			last = at
		}
	}
	return last
}
