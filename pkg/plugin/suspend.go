package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

// fieldManager of what the plugin writes.
const fieldManager = "kubectl-meshpdb"

type suspendOptions struct {
	*root
	cmd     *cobra.Command
	print   *genericclioptions.PrintFlags
	suspend bool
}

func (r *root) suspend() *cobra.Command {
	return r.suspendCommand(&suspendOptions{root: r, suspend: true, print: genericclioptions.NewPrintFlags("suspended")}, &cobra.Command{
		Use:   "suspend BUDGET...",
		Short: "Allow every disruption in this cluster, whatever a budget says",
		Long: long(`
			Set spec.suspend of budgets, in one cluster: every disruption of their pods in this
			cluster is allowed, and still counted. The other clusters still keep to the budget, by what is left.`),
		Example: examples(`
			# Stop holding anything for db in this cluster
			kubectl meshpdb suspend db -n prod

			# And again
			kubectl meshpdb resume db -n prod`),
	})
}

func (r *root) resume() *cobra.Command {
	return r.suspendCommand(&suspendOptions{root: r, print: genericclioptions.NewPrintFlags("resumed")}, &cobra.Command{
		Use:   "resume BUDGET...",
		Short: "Hold disruptions in this cluster again",
		Long:  long(`Take spec.suspend off budgets, in one cluster.`),
		Example: examples(`
			# Hold disruptions of db again
			kubectl meshpdb resume db -n prod`),
	})
}

func (r *root) suspendCommand(o *suspendOptions, cmd *cobra.Command) *cobra.Command {
	o.cmd = cmd
	cmd.Args = cobra.MinimumNArgs(1)
	cmd.ValidArgsFunction = r.completeNames(budgetResource.Resource)
	cmd.RunE = run(o.run)
	o.print.AddFlags(cmd)
	cmdutil.AddDryRunFlag(cmd)
	return cmd
}

func (o *suspendOptions) run(ctx context.Context, args []string) error {
	strategy, err := cmdutil.GetDryRunStrategy(o.cmd)
	if err != nil {
		return err
	}
	c, err := o.Clusters.Open("")
	if err != nil {
		return err
	}
	cmdutil.PrintFlagsWithDryRunStrategy(o.print, strategy)
	printer, err := o.print.ToPrinter()
	if err != nil {
		return err
	}
	for _, name := range args {
		object, err := c.set(ctx, c.Namespace, name, map[string]any{"suspend": o.suspend}, strategy)
		if err != nil {
			return err
		}
		if err := printer.PrintObj(object, o.Out); err != nil {
			return err
		}
	}
	if o.suspend && strategy != cmdutil.DryRunNone {
		_, err = fmt.Fprintf(o.ErrOut, "Warning: every disruption of their pods in context %s would be allowed; the other clusters would still keep to the budgets\n", c.Context)
	}
	if o.suspend && strategy == cmdutil.DryRunNone {
		_, err = fmt.Fprintf(o.ErrOut, "Warning: every disruption of their pods in context %s is allowed from now on; the other clusters still keep to the budgets\nTo enforce them again: kubectl meshpdb resume %s -n %s%s\n", c.Context, strings.Join(args, " "), c.Namespace, o.contextFlag())
	}
	return err
}

// set merges fields into the spec of a budget.
func (c *Cluster) set(ctx context.Context, namespace, name string, spec map[string]any, strategy cmdutil.DryRunStrategy) (*unstructured.Unstructured, error) {
	budgets := c.Dynamic.Resource(budgetResource).Namespace(namespace)
	if strategy == cmdutil.DryRunClient {
		object, err := budgets.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, c.explain(err)
		}
		for field, value := range spec {
			if err := unstructured.SetNestedField(object.Object, value, "spec", field); err != nil {
				return nil, fmt.Errorf("set spec.%s of budget %s: %w", field, name, err)
			}
		}
		return object, nil
	}
	body, err := json.Marshal(map[string]any{"spec": spec})
	if err != nil {
		return nil, fmt.Errorf("encode change of budget %s: %w", name, err)
	}
	options := metav1.PatchOptions{FieldManager: fieldManager}
	if strategy == cmdutil.DryRunServer {
		options.DryRun = []string{metav1.DryRunAll}
	}
	object, err := budgets.Patch(ctx, name, types.MergePatchType, body, options)
	if err != nil {
		return nil, c.explain(err)
	}
	return object, nil
}
