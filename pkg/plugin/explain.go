package plugin

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/kubectl/pkg/util/completion"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/plugin/hold"
)

type explainOptions struct {
	*root
	output *output
}

func (r *root) explain() *cobra.Command {
	o := &explainOptions{root: r}
	cmd := &cobra.Command{
		Use:   "explain pod/NAME",
		Short: "Say whether a pod would go now, and if not, why",
		Long: long(`
			Ask the API server to evict a pod, as a dry-run: the question takes the same way
			as an eviction, through the same webhook, and claims nothing. What is printed
			for a refusal is the sentence that an eviction would be refused with. "By a view at
			most 2s old" says how old the knowledge of the other clusters may be that it rests on.

			Exit code 0: it would go. 1: it would not, or there is no answer.`),
		Example: examples(`
			# Would this pod go now?
			kubectl meshpdb explain pod/db-0

			# Only the sentence
			kubectl meshpdb explain db-0 -n prod -o jsonpath='{.sentence}'`),
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completion.SpecifiedResourceTypeAndNameNoRepeatCompletionFunc(r.factory, []string{"pods"}),
		RunE:              run(o.run),
	}
	o.output = newOutput(cmd)
	return cmd
}

// explanation is what -o prints.
type explanation struct {
	Context   string `json:"context"`
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	// Allowed now; nothing is reserved by that.
	Allowed bool `json:"allowed"`
	// Sentence is the eviction's own, if it would be refused.
	Sentence string `json:"sentence,omitempty"`
	// Free says why no budget is asked, if so.
	Free string `json:"free,omitempty"`
	// Budgets that cover the pod.
	Budgets []hold.Report `json:"budgets"`
	// Native are this cluster's PodDisruptionBudgets of the pod that allow nothing.
	Native []native `json:"podDisruptionBudgets,omitempty"`
}

func (o *explainOptions) run(ctx context.Context, args []string) error {
	printer, err := o.output.printer()
	if err != nil {
		return err
	}
	name, err := podName(args[0])
	if err != nil {
		return err
	}
	c, err := o.Clusters.Open("")
	if err != nil {
		return err
	}
	e, err := c.explainPod(ctx, name)
	if err != nil {
		return err
	}
	o.namePods(ctx, c, e.Budgets)
	if printer != nil {
		err = o.output.print(o.Out, printer, "Explanation", e)
	} else {
		err = o.tell(e)
	}
	if err == nil && !e.Allowed {
		err = ExitCode(1)
	}
	return err
}

// podName takes pod/NAME, po/NAME, pods/NAME or NAME.
func podName(arg string) (string, error) {
	kind, name, typed := strings.Cut(arg, "/")
	switch {
	case !typed:
		return arg, nil
	case name == "" || strings.Contains(name, "/"):
		return "", fmt.Errorf("%q: want pod/NAME", arg)
	case kind != "pod" && kind != "pods" && kind != "po":
		return "", fmt.Errorf("%q: only pods can be explained; budgets are explained by: kubectl meshpdb status", arg)
	}
	return name, nil
}

func (c *Cluster) explainPod(ctx context.Context, name string) (*explanation, error) {
	pod, err := c.Kube.CoreV1().Pods(c.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	e := &explanation{Context: c.Context, Namespace: c.Namespace, Pod: name, Budgets: []hold.Report{}, Free: free(pod)}
	budgets, err := c.budgets(ctx, c.Namespace)
	if err != nil {
		return nil, err
	}
	covering, err := newCoverage(c).of(ctx, budgets, pod)
	if err != nil {
		return nil, err
	}
	for _, b := range covering {
		e.Budgets = append(e.Budgets, hold.Of(b))
	}
	e.Sentence, err = refusal(c.DryRunEvict(ctx, c.Namespace, name))
	e.Allowed = e.Sentence == ""
	if !e.Allowed && err == nil {
		e.Native = c.exhausted(ctx, pod)
	}
	return e, err
}

// native is a PodDisruptionBudget that allows nothing.
type native struct {
	Name    string       `json:"name"`
	Healthy int32        `json:"currentHealthy"`
	Desired int32        `json:"desiredHealthy"`
	Since   *metav1.Time `json:"since,omitempty"`
}

// exhausted are the PodDisruptionBudgets of a pod that allow nothing; none if they may not be read.
func (c *Cluster) exhausted(ctx context.Context, pod *corev1.Pod) []native {
	list, err := c.Kube.PolicyV1().PodDisruptionBudgets(pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil
	}
	var all []native
	for i := range list.Items {
		b := &list.Items[i]
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) && b.Status.DisruptionsAllowed <= 0 {
			all = append(all, native{b.Name, b.Status.CurrentHealthy, b.Status.DesiredHealthy, allowedSince(b)})
		}
	}
	return all
}

// free says why nothing holds a pod; empty if its budgets are asked.
func free(pod *corev1.Pod) string {
	switch {
	case pod.DeletionTimestamp != nil:
		return "it is terminating already"
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return "it has finished"
	case pod.Status.Phase == corev1.PodPending || pod.Spec.NodeName == "":
		return "it has not started"
	}
	return ""
}

// refusal takes the sentence out of an eviction's answer: empty if it was let
// go, an error if it was not answered.
func refusal(err error) (string, error) {
	if err == nil {
		return "", nil
	}
	if !apierrors.IsTooManyRequests(err) {
		if strings.Contains(err.Error(), "failed calling webhook") {
			return "", fmt.Errorf("%w\nNobody answers for budgets in this cluster, so evictions fail until its controllers do. What is wrong with them: kubectl meshpdb doctor", err)
		}
		return "", err
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Details != nil {
		for _, cause := range status.Status().Details.Causes {
			if cause.Type == policyv1.DisruptionBudgetCause && cause.Message != "" {
				return cause.Message, nil
			}
		}
	}
	return err.Error(), nil
}

func (o *explainOptions) tell(e *explanation) error {
	say := &sentences{w: o.Out}
	now := o.Now()
	if !e.Allowed {
		say.say("In context %s, pod/%s would not go now:", e.Context, e.Pod)
		say.say("%s", e.Sentence)
		for _, r := range e.Budgets {
			if len(r.HeldBackBy) > 0 {
				say.say("")
			}
			o.holders(say, r, "")
		}
		for _, n := range e.Native {
			since := ""
			if n.Since != nil {
				since = " since " + hold.Ago(*n.Since, now)
			}
			say.say("\nPodDisruptionBudget %s/%s, which counts this cluster only, allows nothing%s: it needs %d healthy pods and has %d.", e.Namespace, n.Name, since, n.Desired, n.Healthy)
			say.say("  What would free it: more healthy pods in this cluster, or a change of it.")
			say.say("  To change it: kubectl edit poddisruptionbudget %s -n %s%s", n.Name, e.Namespace, o.contextFlag())
		}
		if len(e.Budgets)+len(e.Native) == 0 {
			say.say("\nNo MeshPodDisruptionBudget covers it: this is a PodDisruptionBudget's answer, or another webhook's.\nTo see what the PodDisruptionBudgets allow: kubectl get poddisruptionbudgets -n %s%s", e.Namespace, o.contextFlag())
		}
		return say.err
	}
	switch {
	case e.Free != "":
		say.say("In context %s, pod/%s would go now, whatever its budgets say: %s.", e.Context, e.Pod, e.Free)
	case len(e.Budgets) == 0:
		say.say("In context %s, pod/%s would go now: no MeshPodDisruptionBudget covers it.", e.Context, e.Pod)
	default:
		say.say("In context %s, pod/%s would go now:", e.Context, e.Pod)
		for _, r := range e.Budgets {
			if r.Suspended {
				say.say("  budget %s is suspended in this cluster, and does not hold it.", r.FullName())
			} else {
				say.say("  %s.", r.Summary(now))
			}
		}
		if _, err := fmt.Fprintln(o.ErrOut, "Warning: nothing is reserved: who evicts first has it"); err != nil {
			return err
		}
	}
	return say.err
}

// alwaysAllow reports whether pods that are not ready go, whatever the budget says.
func alwaysAllow(b *v1alpha1.MeshPodDisruptionBudget) bool {
	return b.Spec.UnhealthyPodEvictionPolicy != nil && *b.Spec.UnhealthyPodEvictionPolicy == policyv1.AlwaysAllow
}
