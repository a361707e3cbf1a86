package plugin

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubectl/pkg/util/completion"

	"github.com/meshpdb/meshpdb/pkg/plugin/hold"
)

type historyOptions struct {
	*root
	output    *output
	since     time.Duration
	noHeaders bool
}

// controllerName is whom Events of controllers name as their reporter.
const controllerName = "meshpdb-controller"

func (r *root) history() *cobra.Command {
	o := &historyOptions{root: r}
	cmd := &cobra.Command{
		Use:   "history BUDGET | pod/NAME",
		Short: "Show the decisions about a budget or a pod",
		Long: long(`
			Show what was decided about a budget or a pod in this cluster, from the Events
			that the controllers write. Decisions of one kind about a budget are a series:
			one line with their number and the sentence of the first. The API server keeps Events for an hour, unless it
			was told otherwise, and those of a pod are bounded while many are asked for.`),
		Example: examples(`
			# Decisions about the budget db
			kubectl meshpdb history db -n prod

			# Decisions about a pod, within the last ten minutes
			kubectl meshpdb history pod/db-0 --since 10m`),
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if strings.HasPrefix(prefix, "pod") {
				return completion.SpecifiedResourceTypeAndNameNoRepeatCompletionFunc(r.factory, []string{"pods"})(cmd, args, prefix)
			}
			return r.completeNames(budgetResource.Resource)(cmd, args, prefix)
		},
		RunE: run(o.run),
	}
	o.output = newOutput(cmd)
	cmd.Flags().DurationVar(&o.since, "since", 0, "Only show what is newer than a relative duration like 5s, 2m, or 3h. Defaults to everything.")
	cmd.Flags().BoolVar(&o.noHeaders, "no-headers", false, "When using the default output format, don't print headers.")
	return cmd
}

// decision is one line: one Event, or a series.
type decision struct {
	First  metav1.Time `json:"first"`
	Last   metav1.Time `json:"last"`
	Count  int32       `json:"count"`
	Type   string      `json:"type"`
	Reason string      `json:"reason"`
	// Object that the Event is about, as kind/name.
	Object  string `json:"object"`
	Message string `json:"message"`
}

// decisions is what -o prints.
type decisions struct {
	Context   string     `json:"context"`
	Namespace string     `json:"namespace"`
	Of        string     `json:"of"`
	Decisions []decision `json:"decisions"`
}

func (o *historyOptions) run(ctx context.Context, args []string) error {
	printer, err := o.output.printer()
	if err != nil {
		return err
	}
	kind, name, err := historyOf(args[0])
	if err != nil {
		return err
	}
	c, err := o.Clusters.Open("")
	if err != nil {
		return err
	}
	list, err := c.Kube.EventsV1().Events(c.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	of := strings.ToLower(kind) + "/" + name
	all := decisions{Context: c.Context, Namespace: c.Namespace, Of: of, Decisions: []decision{}}
	for i := range list.Items {
		e := &list.Items[i]
		about := e.Regarding.Kind == kind && e.Regarding.Name == name ||
			e.Related != nil && e.Related.Kind == kind && e.Related.Name == name
		if !about || e.ReportingController != controllerName {
			continue
		}
		d := decisionOf(e)
		if o.since == 0 || o.Now().Sub(d.Last.Time) <= o.since {
			all.Decisions = append(all.Decisions, d)
		}
	}
	slices.SortFunc(all.Decisions, func(a, b decision) int {
		return cmp.Or(a.Last.Compare(b.Last.Time), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Message, b.Message))
	})
	if printer != nil {
		return o.output.print(o.Out, printer, "DecisionList", all)
	}
	if len(all.Decisions) == 0 {
		_, err := fmt.Fprintf(o.ErrOut, "No decisions about %s found in %s namespace. Events are kept for an hour; metrics and logs of the controllers go back further.\n", of, c.Namespace)
		return err
	}
	return o.table(all.Decisions)
}

func historyOf(arg string) (kind, name string, err error) {
	typed, name, ok := strings.Cut(arg, "/")
	if !ok {
		return "MeshPodDisruptionBudget", arg, nil
	}
	switch strings.TrimSuffix(typed, ".meshpdb.io") {
	case "pod", "pods", "po":
		return "Pod", name, nil
	case "mpdb", "meshpoddisruptionbudget", "meshpoddisruptionbudgets":
		return "MeshPodDisruptionBudget", name, nil
	}
	return "", "", fmt.Errorf("%q: want a budget's name or pod/NAME", arg)
}

func decisionOf(e *eventsv1.Event) decision {
	d := decision{
		First: metav1.NewTime(e.EventTime.Time), Last: metav1.NewTime(e.EventTime.Time), Count: 1, Type: e.Type, Reason: e.Reason,
		Object: strings.ToLower(e.Regarding.Kind) + "/" + e.Regarding.Name, Message: e.Note,
	}
	if e.EventTime.IsZero() {
		d.First, d.Last, d.Count = e.DeprecatedFirstTimestamp, e.DeprecatedLastTimestamp, max(1, e.DeprecatedCount)
	}
	if e.Series != nil {
		d.Last, d.Count = metav1.NewTime(e.Series.LastObservedTime.Time), e.Series.Count
	}
	return d
}

func (o *historyOptions) table(all []decision) error {
	var rows [][]any
	for _, d := range all {
		last := hold.Duration(o.Now().Sub(d.Last.Time))
		if d.Count > 1 {
			last = fmt.Sprintf("%s (x%d over %s)", last, d.Count, hold.Duration(o.Now().Sub(d.First.Time)))
		}
		rows = append(rows, []any{last, d.Type, d.Reason, d.Object, d.Message})
	}
	return table(o.Out, o.noHeaders, []string{"Last Seen", "Type", "Reason", "Object", "Message"}, rows)
}
