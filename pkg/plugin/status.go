package plugin

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshpdb/meshpdb/pkg/plugin/hold"
)

type statusOptions struct {
	*root
	output    *output
	all       bool
	noHeaders bool
}

func (r *root) status() *cobra.Command {
	o := &statusOptions{root: r}
	cmd := &cobra.Command{
		Use:   "status [BUDGET...]",
		Short: "Show who holds a budget back, since when, and what would free it",
		Long: long(`
			Show the budgets of a namespace, over the mesh and cluster by cluster, as the
			controller of this cluster sees them. For each that allows nothing: which
			cluster holds it back, since when, and what would free it.

			A pod is in flight from when its eviction was allowed, or it began to terminate,
			until it is replaced. A number with + is at least so many: some cluster
			cannot be read. Of -o: unavailable counts those in flight as well, unavailableSince
			is since when pods are missing, and reachableSince or unreachableSince
			since when the cluster can be read or not.`),
		Example: examples(`
			# The budgets of the current namespace
			kubectl meshpdb status

			# One budget, as another cluster sees it
			kubectl meshpdb status db -n prod --context us-1

			# All budgets that allow nothing now
			kubectl meshpdb status -A -o jsonpath='{range .budgets[?(@.disruptionsAllowed==0)]}{.namespace}/{.name}{"\n"}{end}'`),
		ValidArgsFunction: r.completeNames(budgetResource.Resource),
		RunE:              run(o.run),
	}
	o.output = newOutput(cmd)
	cmd.Flags().BoolVarP(&o.all, "all-namespaces", "A", false, "If present, list the budgets of all namespaces. Namespace in current context is ignored even if specified with --namespace.")
	cmd.Flags().BoolVar(&o.noHeaders, "no-headers", false, "When using the default output format, don't print headers.")
	return cmd
}

// statuses is what -o prints.
type statuses struct {
	Context string        `json:"context"`
	Budgets []hold.Report `json:"budgets"`
}

func (o *statusOptions) run(ctx context.Context, args []string) error {
	printer, err := o.output.printer()
	if err != nil {
		return err
	}
	if o.all && len(args) > 0 {
		return fmt.Errorf("a budget cannot be named across all namespaces")
	}
	c, err := o.Clusters.Open("")
	if err != nil {
		return err
	}
	reports, err := c.reports(ctx, o.all, args)
	if err != nil {
		return err
	}
	o.namePods(ctx, c, reports)
	if printer != nil {
		return o.output.print(o.Out, printer, "BudgetStatusList", statuses{c.Context, reports})
	}
	if len(reports) == 0 {
		_, err := fmt.Fprintln(o.ErrOut, none(c, o.all))
		return err
	}
	if err := o.table(o.Out, reports); err != nil {
		return err
	}
	return o.tell(o.Out, c.Context, reports)
}

func none(c *Cluster, all bool) string {
	if all {
		return "No budgets found"
	}
	return fmt.Sprintf("No budgets found in %s namespace.", c.Namespace)
}

// reports of the named budgets, of all if none is named.
func (c *Cluster) reports(ctx context.Context, all bool, names []string) ([]hold.Report, error) {
	namespace := c.Namespace
	if all {
		namespace = ""
	}
	reports := []hold.Report{}
	if len(names) > 0 {
		for _, name := range names {
			b, err := c.budget(ctx, namespace, name)
			if err != nil {
				return nil, err
			}
			reports = append(reports, hold.Of(b))
		}
		return reports, nil
	}
	budgets, err := c.budgets(ctx, namespace)
	for i := range budgets {
		reports = append(reports, hold.Of(&budgets[i]))
	}
	return reports, err
}

// table has a row for each budget, and below it one for each cluster.
func (o *statusOptions) table(w io.Writer, reports []hold.Report) error {
	columns := []string{"Name", "Cluster", "Allowed", "Available", "Desired", "Expected", "In Flight", "State"}
	var rows [][]any
	now := o.Now()
	for _, r := range reports {
		allowed := any(r.Allowed)
		if r.Suspended {
			allowed = "any here"
		}
		rows = append(rows, []any{r.Name, "(all)", allowed, atLeast(r, r.Available), r.Desired, r.Expected, atLeast(r, r.InFlight), r.State(now)})
		for _, c := range r.Clusters {
			available, inFlight := any(c.Available), any(c.InFlight)
			if !c.Reachable {
				available, inFlight = "?", "?"
			}
			rows = append(rows, []any{"", c.Name, "", available, "", c.Expected, inFlight, c.State(now)})
		}
	}
	if o.all {
		columns = append([]string{"Namespace"}, columns...)
		i := -1
		for n, row := range rows {
			namespace := ""
			if row[0] != "" {
				i++
				namespace = reports[i].Namespace
			}
			rows[n] = append([]any{namespace}, row...)
		}
	}
	return table(w, o.noHeaders, columns, rows)
}

// atLeast has a + while a cluster cannot be read: there may be more where nobody can look.
func atLeast(r hold.Report, n int32) string {
	if r.Unread() > 0 {
		return fmt.Sprintf("%d+", n)
	}
	return fmt.Sprint(n)
}

// tell says in sentences what the table leaves open, as a context sees it.
func (o *statusOptions) tell(w io.Writer, context string, reports []hold.Report) error {
	say := &sentences{w: w}
	for _, r := range reports {
		if len(r.HeldBackBy) == 0 && r.Enforced && r.WaitingDisruptions == 0 {
			continue
		}
		say.say("")
		o.held(say, context, r)
		if !r.Enforced && !r.Suspended {
			say.say("  It is not enforced in this cluster: %s.", r.NotEnforced)
		}
		o.waiting(say, r)
	}
	return say.err
}

// held says what a budget allows, who holds it back, since when, and what would free it.
func (r *root) held(say *sentences, context string, report hold.Report) {
	if report.Suspended {
		since := ""
		if report.NotEnforcedSince != nil {
			since = ", and not enforced there since " + hold.Ago(*report.NotEnforcedSince, r.Now())
		}
		say.say("Budget %s is suspended in context %s%s: it blocks no disruption there. The other clusters still keep to it.", report.FullName(), context, since)
		say.say("  To enforce it there again: kubectl meshpdb resume %s -n %s%s", report.Name, report.Namespace, r.contextFlag())
		say.say("In the other clusters, %s.", report.Summary(r.Now()))
	} else {
		say.say("%s.", upper(report.Summary(r.Now())))
	}
	r.holders(say, report, "  ")
}

// holders says of each holder since when, and what would free the budget of it.
func (r *root) holders(say *sentences, report hold.Report, indent string) {
	if again := report.AllowsAgain(); again != "" {
		say.say("%s%s.", indent, upper(again))
	}
	for _, h := range report.HeldBackBy {
		say.say("%s%s.", indent, upper(h.Said(r.Now())))
		if len(h.Pods) > 0 {
			say.say("%s  These are: %s.", indent, podNames(h.Pods))
		}
		say.say("%s  What would free it: %s.", indent, h.Frees)
		if h.Elsewhere != "" {
			say.say("%s  %s", indent, upper(h.Elsewhere))
		}
		for _, c := range h.Commands {
			say.say("%s  %s: %s", indent, upper(c.Purpose), r.inContext(c))
		}
	}
}

// inContext has a command go to the context that was asked for, if it does not say to which.
func (r *root) inContext(c hold.Command) string {
	if strings.Contains(c.Run, " --context ") {
		return c.Run
	}
	return c.Run + r.contextFlag()
}

func (o *statusOptions) waiting(say *sentences, r hold.Report) {
	if r.WaitingDisruptions == 0 {
		return
	}
	say.say("  Waiting in this cluster until the budget allows it: %d.", r.WaitingDisruptions)
	for _, w := range r.Waiting {
		say.say("    %s %s since %s: %s", w.Kind, w.Name, hold.Ago(w.Since, o.Now()), w.Message)
	}
}

// upper begins a sentence.
func upper(sentence string) string {
	if sentence == "" {
		return sentence
	}
	return strings.ToUpper(sentence[:1]) + sentence[1:]
}
