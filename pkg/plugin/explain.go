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
	// NativeUnread says why those could not be read.
	NativeUnread string `json:"podDisruptionBudgetsUnread,omitempty"`
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
	e, err := o.explainPod(ctx, c, name)
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
		return "", fmt.Errorf("%q: only pods can be explained; budgets are explained by: kubectl meshpdb status %s", arg, name)
	}
	return name, nil
}

func (o *explainOptions) explainPod(ctx context.Context, c *Cluster, name string) (*explanation, error) {
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
	if e.Sentence, err = refusal(c.DryRunEvict(ctx, c.Namespace, name)); err != nil {
		return nil, o.unanswered(ctx, c, name, err)
	}
	if e.Allowed = e.Sentence == ""; !e.Allowed {
		if e.Native, err = c.exhausted(ctx, pod); err != nil {
			e.NativeUnread = err.Error()
		}
	}
	return e, nil
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
		o.others(say, e)
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
				say.say("  budget %s is suspended in this cluster, and does not hold it up.", r.FullName())
			} else {
				say.say("  %s.", r.Summary(now))
			}
		}
		if _, err := fmt.Fprintln(o.ErrOut, "Warning: nothing is reserved: whoever evicts first gets it"); err != nil {
			return err
		}
	}
	return say.err
}

// alwaysAllow reports whether pods that are not ready go, whatever the budget says.
func alwaysAllow(b *v1alpha1.MeshPodDisruptionBudget) bool {
	return b.Spec.UnhealthyPodEvictionPolicy != nil && *b.Spec.UnhealthyPodEvictionPolicy == policyv1.AlwaysAllow
}
