package plugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubectl/pkg/drain"

	"github.com/meshpdb/meshpdb/pkg/plugin/drainplan"
	"github.com/meshpdb/meshpdb/pkg/plugin/hold"
)

type planOptions struct {
	*root
	output   *output
	contexts []string
	// selector of nodes; the rest are kubectl drain's flags of the same names.
	selector                                    string
	podSelector                                 string
	ignoreDaemonSets, deleteEmptyDirData, force bool
}

func (r *root) plan() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Say what something would do under the budgets, without doing it",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(r.planDrain())
	return cmd
}

func (r *root) planDrain() *cobra.Command {
	o := &planOptions{root: r}
	cmd := &cobra.Command{
		Use:   "drain NODE...",
		Short: "Say which pods would go at once if nodes were drained, and which would wait, for what",
		Long: long(`
			Say what kubectl drain of some nodes would do, in one cluster or in several at
			the same time: which pods it would evict by its own filters, which of them would
			go at once, and which would wait for what. Budgets are counted once over all
			contexts, as the mesh counts them. Nothing is cordoned, evicted or claimed.

			Name nodes as NODE, or as CONTEXT/NODE where several contexts have one of that
			name. Exit code 0: every pod goes in time by itself. 1: some pod is blocked, or
			a drain would give up.`),
		Example: examples(`
			# One node of the current cluster
			kubectl meshpdb plan drain n1 --ignore-daemonsets

			# Two nodes of two clusters at the same time
			kubectl meshpdb plan drain eu-1/n1 us-1/n3 --contexts eu-1,us-1 --ignore-daemonsets

			# A whole zone
			kubectl meshpdb plan drain -l topology.kubernetes.io/zone=a --ignore-daemonsets`),
		ValidArgsFunction: r.completeNames("nodes"),
		RunE:              run(o.run),
	}
	o.output = newOutput(cmd)
	contextsFlag(cmd, &o.contexts, "Contexts of the clusters in which the nodes are, all drained at the same time. Default: the current one.")
	cmd.Flags().StringVarP(&o.selector, "selector", "l", "", "Selector (label query) to filter on: the nodes to drain.")
	cmd.Flags().StringVar(&o.podSelector, "pod-selector", "", "Label selector to filter pods on the node")
	cmd.Flags().BoolVar(&o.ignoreDaemonSets, "ignore-daemonsets", false, "Ignore DaemonSet-managed pods.")
	cmd.Flags().BoolVar(&o.deleteEmptyDirData, "delete-emptydir-data", false, "Continue even if there are pods using emptyDir (local data that will be deleted when the node is drained).")
	cmd.Flags().BoolVar(&o.force, "force", false, "Continue even if there are pods that do not declare a controller.")
	return cmd
}

// drainPlan is what -o prints.
type drainPlan struct {
	drainplan.Plan
	Nodes []string `json:"nodes"`
	// GivesUp says on which nodes kubectl drain would give up, and why.
	GivesUp []string `json:"givesUp,omitempty"`
}

func (o *planOptions) run(ctx context.Context, args []string) error {
	printer, err := o.output.printer()
	if err != nil {
		return err
	}
	if (len(args) == 0) == (o.selector == "") {
		return errors.New("name nodes, or select them by --selector: one of the two, and not both")
	}
	clusters, err := openAll(o.Clusters, o.contexts)
	if err != nil {
		return err
	}
	nodes, err := o.nodes(ctx, clusters, args)
	if err != nil {
		return err
	}
	plan := drainPlan{}
	var question drainplan.Question
	var reports []hold.Report
	for i, c := range clusters {
		part, err := o.gather(ctx, c, nodes[i], &plan)
		if err != nil {
			return fmt.Errorf("context %s: %w", c.Context, err)
		}
		question.Pods = append(question.Pods, part.pods...)
		question.Natives = append(question.Natives, part.natives...)
		reports = append(reports, part.reports...)
	}
	question.Budgets, question.Now = drainplan.Merge(reports), o.Now()
	plan.Plan = drainplan.Make(question)
	if printer != nil {
		err = o.output.print(o.Out, printer, "DrainPlan", plan)
	} else {
		err = o.tell(plan, len(clusters) > 1)
	}
	if err == nil && plan.Blocked+plan.Never+len(plan.GivesUp) > 0 {
		err = ExitCode(1)
	}
	return err
}

// nodes finds the nodes that are meant, by cluster.
func (o *planOptions) nodes(ctx context.Context, clusters []*Cluster, args []string) ([][]string, error) {
	found := make([][]string, len(clusters))
	for i, c := range clusters {
		if o.selector == "" {
			break
		}
		list, err := c.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: o.selector})
		if err != nil {
			return nil, fmt.Errorf("context %s: %w", c.Context, err)
		}
		for _, n := range list.Items {
			found[i] = append(found[i], n.Name)
		}
	}
	for _, arg := range args {
		arg = strings.TrimPrefix(arg, "node/")
		var holders []string
		twice := false
		for i, c := range clusters {
			name, here := nodeIn(c.Context, arg)
			if !here {
				continue
			}
			_, err := c.Kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			switch {
			case apierrors.IsNotFound(err):
			case err != nil:
				return nil, fmt.Errorf("context %s: %w", c.Context, err)
			case slices.Contains(found[i], name):
				twice = true
			default:
				found[i] = append(found[i], name)
				holders = append(holders, c.Context+"/"+name)
			}
		}
		switch {
		case twice:
			return nil, fmt.Errorf("node %q is named twice", arg)
		case len(holders) == 0:
			return nil, fmt.Errorf("node %q not found", arg)
		case len(holders) > 1:
			return nil, fmt.Errorf("node %q is in several contexts: name it %s", arg, strings.Join(holders, " or "))
		}
	}
	return found, nil
}

// nodeIn reports whether an argument may name a node of a context. Names of
// contexts may have slashes.
func nodeIn(context, arg string) (name string, here bool) {
	if name, ok := strings.CutPrefix(arg, context+"/"); ok {
		return name, true
	}
	return arg, !strings.Contains(arg, "/")
}

// part is what one cluster adds to a plan.
type part struct {
	pods    []drainplan.Pod
	natives []drainplan.Native
	reports []hold.Report
}

func (o *planOptions) gather(ctx context.Context, c *Cluster, nodes []string, plan *drainPlan) (part, error) {
	var p part
	if len(nodes) == 0 {
		return p, nil
	}
	budgets, err := c.budgets(ctx, "")
	if err != nil {
		return p, err
	}
	for i := range budgets {
		p.reports = append(p.reports, hold.Of(&budgets[i]))
	}
	natives, err := c.natives(ctx, "")
	if err != nil {
		return p, err
	}
	for i := range natives {
		n := &natives[i]
		p.natives = append(p.natives, drainplan.Native{
			Context: c.Context, Name: n.fullName(), Allowed: n.Status.DisruptionsAllowed, Healthy: n.Status.CurrentHealthy, Desired: n.Status.DesiredHealthy, Expected: n.Status.ExpectedPods,
			Since: allowedSince(&n.PodDisruptionBudget), Frees: nativeFrees(&n.PodDisruptionBudget),
		})
	}
	covering := newCoverage(c)
	for _, node := range nodes {
		plan.Nodes = append(plan.Nodes, c.Context+"/"+node)
		for _, pod := range o.drained(ctx, c, node, plan) {
			planned := drainplan.Pod{Context: c.Context, Node: node, Namespace: pod.Namespace, Name: pod.Name, Ready: isReady(&pod), Free: free(&pod)}
			over, err := covering.of(ctx, budgets, &pod)
			if err != nil {
				return p, err
			}
			planned.AlwaysAllow = true
			for _, b := range over {
				planned.AlwaysAllow = planned.AlwaysAllow && alwaysAllow(b)
				name := b.Namespace + "/" + b.Name
				if b.Spec.Suspend {
					planned.Suspended = append(planned.Suspended, name)
				} else {
					planned.Budgets = append(planned.Budgets, name)
				}
			}
			for i := range natives {
				if natives[i].selects(&pod) {
					planned.Native = append(planned.Native, natives[i].fullName())
				}
			}
			slices.Sort(planned.Native)
			p.pods = append(p.pods, planned)
		}
	}
	return p, nil
}

// drained returns the pods that kubectl drain would evict, by its own filters.
func (o *planOptions) drained(ctx context.Context, c *Cluster, node string, plan *drainPlan) []corev1.Pod {
	helper := &drain.Helper{
		Ctx: ctx, Client: c.Kube, Force: o.force, GracePeriodSeconds: -1, IgnoreAllDaemonSets: o.ignoreDaemonSets,
		DeleteEmptyDirData: o.deleteEmptyDirData, PodSelector: o.podSelector, ChunkSize: 500, Out: o.Out, ErrOut: o.ErrOut,
	}
	list, problems := helper.GetPodsForDeletion(node)
	if len(problems) > 0 {
		// Then it evicts none of them.
		plan.GivesUp = append(plan.GivesUp, fmt.Sprintf("%s/%s: %v", c.Context, node, errors.Join(problems...)))
		return nil
	}
	if warnings := list.Warnings(); warnings != "" {
		fmt.Fprintf(o.ErrOut, "Warning: %s/%s: %s\n", c.Context, node, warnings)
	}
	return list.Pods()
}

func isReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (o *planOptions) tell(plan drainPlan, several bool) error {
	say := &sentences{w: o.Out}
	if len(plan.Steps) > 0 {
		columns := []string{"Namespace", "Pod", "Node", "Goes", "Waits For"}
		var rows [][]any
		for _, s := range plan.Steps {
			node := s.Node
			if several {
				node = s.Context + "/" + s.Node
			}
			rows = append(rows, []any{s.Namespace, s.Name, node, goes(s), cmp.Or(s.WaitsFor, "nothing")})
		}
		if err := table(o.Out, false, columns, rows); err != nil {
			return err
		}
		say.say("")
	}
	if len(plan.Steps) > 0 || len(plan.GivesUp) == 0 {
		say.say("%s.", upper(summary(plan)))
	}
	if plan.Later > 0 {
		say.say("Which pods of a budget go first is decided when they ask; these numbers are as of now.")
	}
	told := map[string]bool{}
	for _, s := range plan.Steps {
		if s.Frees != "" && !told[s.Holder] {
			told[s.Holder] = true
			say.say("What would free %s: %s.", s.Holder, s.Frees)
			say.say("  To see it: %s", s.See)
		}
	}
	for _, g := range plan.GivesUp {
		say.say("kubectl drain would give up before it evicts anything on %s.", strings.ReplaceAll(g, "\n", "; "))
	}
	return say.err
}

func goes(s drainplan.Step) string {
	switch s.Turn {
	case drainplan.AtOnce:
		return "at once"
	case drainplan.Later:
		return fmt.Sprintf("in round %d", s.Round)
	case drainplan.Never:
		return "never"
	}
	return "not now"
}

func summary(plan drainPlan) string {
	if len(plan.Steps) == 0 {
		return fmt.Sprintf("kubectl drain would find no pod to evict on %s", strings.Join(plan.Nodes, ", "))
	}
	words := []string{fmt.Sprintf("%d of %s would go at once", plan.AtOnce, count(len(plan.Steps), "pod"))}
	if plan.Later > 0 {
		words = append(words, fmt.Sprintf("%d after others", plan.Later))
	}
	if plan.Blocked > 0 {
		words = append(words, fmt.Sprintf("%d held back", plan.Blocked))
	}
	if plan.Never > 0 {
		words = append(words, fmt.Sprintf("%d never, as things are", plan.Never))
	}
	text := strings.Join(words, ", ")
	if plan.Rounds > 1 {
		text += fmt.Sprintf("; the drains take %d rounds, each as long as a pod takes to be Ready elsewhere", plan.Rounds)
	}
	return text
}
