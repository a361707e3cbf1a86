package plugin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/plugin/hold"
)

type forgetOptions struct {
	*root
	cmd       *cobra.Command
	contexts  []string
	all       bool
	yes       bool
	reachable bool
}

func (r *root) forget() *cobra.Command {
	o := &forgetOptions{root: r}
	cmd := &cobra.Command{
		Use:   "forget CLUSTER",
		Short: "Take a cluster that is gone for ever out of budgets",
		Long: long(`
			A cluster that takes part in a budget is remembered, so that an outage does not
			make the budget larger. One that never comes back holds up every disruption under
			maxUnavailable and percentages until somebody says so. This names the clusters that
			are left in spec.clusters of each budget, in every context given: name them all,
			for the clusters of a budget must agree on who takes part, and until they do nothing is allowed.

			Without --yes it only says what it would do. A cluster that can still be read is
			not forgotten: take its workload and its budget away there first, or say --reachable.`),
		Example: examples(`
			# What would be changed
			kubectl meshpdb forget us-2 -A --contexts eu-1,us-1

			# Change it
			kubectl meshpdb forget us-2 -A --contexts eu-1,us-1 --yes`),
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return r.clusterNames(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: run(o.run),
	}
	o.cmd = cmd
	contextsFlag(cmd, &o.contexts, "Contexts of the clusters that are left. Default: the current one.")
	cmd.Flags().BoolVarP(&o.all, "all-namespaces", "A", false, "If present, the budgets of all namespaces are changed.")
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "Do it.")
	cmd.Flags().BoolVar(&o.reachable, "reachable", false, "Forget it although it can be read.")
	cmdutil.AddDryRunFlag(cmd)
	return cmd
}

// clusterNames are those that budgets of the current context name.
func (r *root) clusterNames(ctx context.Context) []string {
	c, err := r.Clusters.Open("")
	if err != nil {
		return nil
	}
	budgets, err := c.budgets(ctx, "")
	if err != nil {
		return nil
	}
	var names []string
	for i := range budgets {
		names = append(names, scope(&budgets[i])...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// scope is who takes part in a budget, as its cluster knows it.
func scope(b *v1alpha1.MeshPodDisruptionBudget) []string {
	names := slices.Clone(b.Spec.Clusters)
	if len(names) == 0 {
		for _, c := range b.Status.Clusters {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	return names
}

// change of one budget.
type change struct {
	cluster         *Cluster
	namespace, name string
	left            []string
	// unread is since when the cluster to forget cannot be read; none if it can be, or that is not known.
	unread *metav1.Time
}

func (o *forgetOptions) run(ctx context.Context, args []string) error {
	strategy, err := cmdutil.GetDryRunStrategy(o.cmd)
	if err != nil {
		return err
	}
	clusters, err := openAll(o.Clusters, o.contexts)
	if err != nil {
		return err
	}
	changes, err := o.changes(ctx, clusters, args[0])
	if err != nil {
		return err
	}
	if len(changes) == 0 {
		_, err := fmt.Fprintf(o.ErrOut, "No budget counts on cluster %s.\n", args[0])
		return err
	}
	do := o.yes && strategy != cmdutil.DryRunClient
	say := &sentences{w: o.Out}
	for _, change := range changes {
		verb := "would count on"
		if do {
			left := make([]any, 0, len(change.left))
			for _, name := range change.left {
				left = append(left, name)
			}
			if _, err := change.cluster.set(ctx, change.namespace, change.name, map[string]any{"clusters": left}, strategy); err != nil {
				return fmt.Errorf("context %s: budget %s/%s: %w; run it again: what is done is done, and until all clusters agree nothing is allowed", change.cluster.Context, change.namespace, change.name, err)
			}
			verb = "counts on"
			if strategy == cmdutil.DryRunServer {
				verb = "would count on (server dry run)"
			}
		}
		word := "clusters"
		if len(change.left) == 1 {
			word = "cluster"
		}
		say.say("%s: budget %s/%s %s %s %s only", change.cluster.Context, change.namespace, change.name, verb, word, strings.Join(change.left, ", "))
	}
	if say.err != nil {
		return say.err
	}
	return o.next(args[0], changes, do && strategy == cmdutil.DryRunNone)
}

// next says what is left to do.
func (o *forgetOptions) next(gone string, changes []change, done bool) error {
	var left []string
	var contexts []string
	for _, c := range changes {
		left, contexts = append(left, c.left...), append(contexts, c.cluster.Context)
	}
	slices.Sort(left)
	slices.Sort(contexts)
	left, contexts = slices.Compact(left), slices.Compact(contexts)
	say := &sentences{w: o.ErrOut}
	if !done {
		say.say("Nothing was changed. %s", o.risk(gone, changes))
	}
	partial := len(contexts) < len(left)
	if partial {
		say.say("The budgets must be changed in all clusters that are left (%s), and this is %s only: until they agree nothing is allowed. Name a context of each by --contexts.", strings.Join(left, ", "), strings.Join(contexts, ", "))
	}
	target := o.contexts
	complete := partial && o.areContexts(left)
	if complete {
		contexts, target = left, left
	}
	switch {
	case !done:
		say.say("To do it in %s: %s --yes", strings.Join(contexts, ", "), o.command(gone, target))
	case complete:
		say.say("To change them all: %s --yes", o.command(gone, target))
	}
	if done {
		say.say("Their controllers count anew within seconds. What is allowed then: kubectl meshpdb status%s --context %s", o.where(), changes[0].cluster.Context)
	}
	return say.err
}

// risk of forgetting a cluster, and since when it cannot be read.
func (o *forgetOptions) risk(gone string, changes []change) string {
	text := fmt.Sprintf("The risk: if cluster %s still runs, its pods and those of the others may be disrupted at the same time, beyond what the budget allows.", gone)
	told := map[string]bool{}
	for _, c := range changes {
		if context := c.cluster.Context; c.unread != nil && !told[context] {
			told[context] = true
			text += fmt.Sprintf(" Context %s cannot read it since %s.", context, hold.Ago(*c.unread, o.Now()))
		}
	}
	return text
}

// contextsOf are those of the clusters that are left of a budget, if each has one of its name; else those that were named.
func (o *forgetOptions) contextsOf(clusters []string, gone string) []string {
	left := slices.DeleteFunc(slices.Clone(clusters), func(name string) bool { return name == gone })
	if o.areContexts(left) {
		return left
	}
	return o.contexts
}

// areContexts reports whether there is a context of the name of each cluster.
func (o *forgetOptions) areContexts(clusters []string) bool {
	return !slices.ContainsFunc(clusters, func(name string) bool {
		_, err := o.Clusters.Open(name)
		return err != nil
	})
}

// where are the budgets that are meant.
func (o *forgetOptions) where() string {
	switch {
	case o.all:
		return " -A"
	case *o.flags.Namespace != "":
		return " -n " + *o.flags.Namespace
	}
	return ""
}

// command is this one, in contexts, without --yes.
func (o *forgetOptions) command(gone string, contexts []string) string {
	text := "kubectl meshpdb forget " + gone + o.where()
	if len(contexts) > 0 {
		text += " --contexts " + strings.Join(contexts, ",")
	} else {
		text += o.contextFlag()
	}
	if o.reachable {
		text += " --reachable"
	}
	return text
}

func (o *forgetOptions) changes(ctx context.Context, clusters []*Cluster, gone string) ([]change, error) {
	var all []change
	for _, c := range clusters {
		namespace := c.Namespace
		if o.all {
			namespace = ""
		}
		budgets, err := c.budgets(ctx, namespace)
		if err != nil {
			return nil, fmt.Errorf("context %s: %w", c.Context, err)
		}
		for i := range budgets {
			b := &budgets[i]
			names := scope(b)
			if !slices.Contains(names, gone) {
				continue
			}
			change := change{cluster: c, namespace: b.Namespace, name: b.Name}
			for _, s := range b.Status.Clusters {
				switch {
				case s.Name != gone:
				case !s.Reachable:
					change.unread = &s.Since
				case !o.reachable:
					return nil, fmt.Errorf("nothing was changed: context %s can read cluster %s, and budget %s/%s counts on its pods. If %s is to be retired, take the workload and the budget away in cluster %s first. To see what forgetting it while it runs would change, and risk: %s --reachable", c.Context, gone, b.Namespace, b.Name, gone, gone, o.command(gone, o.contextsOf(names, gone)))
				}
			}
			change.left = slices.DeleteFunc(names, func(name string) bool { return name == gone })
			if len(change.left) == 0 {
				return nil, fmt.Errorf("nothing was changed: no cluster would be left of budget %s/%s, which guards nothing then. Delete it, and run this again for the others: kubectl delete meshpoddisruptionbudget %s -n %s --context %s", b.Namespace, b.Name, b.Name, b.Namespace, c.Context)
			}
			all = append(all, change)
		}
	}
	return all, nil
}
