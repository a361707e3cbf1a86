package plugin

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshpdb/meshpdb/pkg/claim"
	"github.com/meshpdb/meshpdb/pkg/plugin/hold"
	"github.com/meshpdb/meshpdb/pkg/roster"
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
	// Selector of its pods, as kubectl takes it.
	Selector string `json:"selector"`
	// Frees says what would let it allow something.
	Frees string `json:"frees"`
}

// selecting is a PodDisruptionBudget with its selector decoded.
type selecting struct {
	policyv1.PodDisruptionBudget
	selector labels.Selector
}

func (s *selecting) fullName() string { return s.Namespace + "/" + s.Name }

func (s *selecting) selects(pod *corev1.Pod) bool {
	return s.Namespace == pod.Namespace && s.selector.Matches(labels.Set(pod.Labels))
}

// natives are the PodDisruptionBudgets of a namespace, of all if it is empty.
func (c *Cluster) natives(ctx context.Context, namespace string) ([]selecting, error) {
	list, err := c.Kube.PolicyV1().PodDisruptionBudgets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var all []selecting
	for _, n := range list.Items {
		selector, err := metav1.LabelSelectorAsSelector(n.Spec.Selector)
		if err != nil {
			return nil, fmt.Errorf("decode PodDisruptionBudget %s/%s: %w", n.Namespace, n.Name, err)
		}
		all = append(all, selecting{n, selector})
	}
	return all, nil
}

// exhausted are the PodDisruptionBudgets of a pod that allow nothing.
func (c *Cluster) exhausted(ctx context.Context, pod *corev1.Pod) ([]native, error) {
	natives, err := c.natives(ctx, pod.Namespace)
	var all []native
	for i := range natives {
		n := &natives[i]
		if n.selects(pod) && n.Status.DisruptionsAllowed <= 0 {
			all = append(all, native{n.Name, n.Status.CurrentHealthy, n.Status.DesiredHealthy, n.Status.ExpectedPods, allowedSince(&n.PodDisruptionBudget), metav1.FormatLabelSelector(n.Spec.Selector), nativeFrees(&n.PodDisruptionBudget)})
		}
	}
	return all, err
}

// allowedSince is when a PodDisruptionBudget began to allow something, or nothing.
func allowedSince(n *policyv1.PodDisruptionBudget) *metav1.Time {
	if c := meta.FindStatusCondition(n.Status.Conditions, policyv1.DisruptionAllowedCondition); c != nil && !c.LastTransitionTime.IsZero() {
		return &c.LastTransitionTime
	}
	return nil
}

// nativeFrees says what would let a PodDisruptionBudget allow something that allows nothing.
func nativeFrees(n *policyv1.PodDisruptionBudget) string {
	s := &n.Status
	switch {
	case s.DesiredHealthy >= s.ExpectedPods && n.Spec.MinAvailable != nil && n.Spec.MinAvailable.Type == intstr.Int:
		return fmt.Sprintf("a smaller minAvailable, because it requires all of its pods; or more pods than %d", s.DesiredHealthy)
	case s.DesiredHealthy >= s.ExpectedPods:
		return "changing it, because it requires all of its pods: a larger maxUnavailable or a smaller minAvailable"
	}
	return fmt.Sprintf("%d of its pods Ready, which leaves %d when one goes", s.DesiredHealthy+1, s.DesiredHealthy)
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
		say.say("  To see its pods: kubectl get pods -n %s -l '%s'%s", e.Namespace, n.Selector, o.contextFlag())
		say.say("  To change it: kubectl edit poddisruptionbudget %s -n %s%s", n.Name, e.Namespace, o.contextFlag())
	}
	switch {
	case len(e.Native) > 0 || slices.ContainsFunc(e.Budgets, func(r hold.Report) bool { return len(r.HeldBackBy) > 0 }):
	case e.NativeUnread != "":
		say.say("\nIf a PodDisruptionBudget of this cluster holds it back, since when and what would free it is not known, for they could not be listed: %s.", e.NativeUnread)
		say.say("  To be asked by somebody who may: kubectl describe poddisruptionbudgets -n %s%s", e.Namespace, o.contextFlag())
	case len(e.Budgets) == 0:
		say.say("\nNo budget holds it up, of the mesh or of this cluster: another webhook of this cluster may have refused it.")
		say.say("  To see which there are: kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations%s", o.contextFlag())
	default:
		o.passing(say, e)
	}
}

// passing is a refusal of which the budget's status shows nothing.
func (o *explainOptions) passing(say *sentences, e *explanation) {
	say.say("")
	for _, r := range e.Budgets {
		say.say("%s.", upper(r.Summary(o.Now())))
	}
	if strings.Contains(e.Sentence, claim.GivesWay) {
		say.say("  An older request has first claim to that, since now and for 2s at most.")
		say.say("  What would free it: the older one's next try: it goes then, and this one once its successor is Ready. If it is not asked for again, this one goes.")
	} else {
		say.say("  Since when: not known; the status of the budget does not show what the refusal says, so most likely it came just now.")
		say.say("  What would free it: an end of what the refusal says.")
	}
	say.say("  To ask again: %s", o.again(e.Pod, e.Namespace))
}

// again is the command that explains a pod.
func (o *explainOptions) again(pod, namespace string) string {
	return fmt.Sprintf("kubectl meshpdb explain pod/%s -n %s%s", pod, namespace, o.contextFlag())
}

// unanswered says of an eviction that was neither let go nor refused who is the cause, since when, and what would end it.
func (o *explainOptions) unanswered(ctx context.Context, c *Cluster, pod string, err error) error {
	if !strings.Contains(err.Error(), "failed calling webhook") {
		return fmt.Errorf("the API server did not say whether pod/%s would go: %w\n  To ask again: %s", pod, err, o.again(pod, c.Namespace))
	}
	if !ownWebhook.MatchString(err.Error()) {
		return fmt.Errorf("%w\nA webhook of this cluster that is not meshpdb's does not answer, so the eviction of pod/%s fails.\n  What would free it: an answer of that webhook, or its end.\n  To see who serves it: kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations -o yaml%s", err, pod, o.contextFlag())
	}
	heard := "Its controllers report nothing"
	if last := c.heardOf(ctx); last != nil && o.Now().Sub(*last) < roster.Stale {
		heard = fmt.Sprintf("Its controllers reported at %s, so they have stopped since, or the API server has no way to them", hold.Ago(metav1.NewTime(*last), o.Now()))
	} else if last != nil {
		heard = "Its controllers have reported nothing since " + hold.Ago(metav1.NewTime(*last), o.Now())
	}
	return fmt.Errorf("%w\nThe webhook of meshpdb does not answer in context %s, so the eviction of pod/%s fails. %s.\n  What would free it: a controller of this cluster that answers.\n  To see what is wrong: kubectl meshpdb doctor%s", err, c.Context, pod, heard, o.contextFlag())
}

// ownWebhook is how the API server names one of meshpdb's webhooks that does not answer.
var ownWebhook = regexp.MustCompile(`failed calling webhook "[a-z.-]+\.meshpdb\.io"`)

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
