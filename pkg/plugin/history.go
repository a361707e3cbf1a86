package plugin

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubectl/pkg/util/completion"

	"github.com/meshpdb/meshpdb/pkg/plugin/hold"
)

type historyOptions struct {
	*root
	output    *output
	flows     flowSource
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
			Show what was decided about a budget or a pod, and what holds the budget back
			now, since when, and what would free it.

			Decisions are those of this cluster, from the Events that the controllers write.
			Decisions of one kind about a budget are a series: one line with their number
			and the sentence of the first. The API server keeps Events for an hour, unless
			it was told otherwise, and those of a pod are bounded while many are asked for.

			Flows have every decision with its own sentence: read them from a Hubble
			server (Relay has those of all clusters) or from a flow log.`),
		Example: examples(`
			# Decisions about the budget db
			kubectl meshpdb history db -n prod

			# Decisions about a pod, within the last ten minutes
			kubectl meshpdb history pod/db-0 --since 10m

			# Every single one, of all clusters, by Hubble Relay
			kubectl meshpdb history db -n prod --hubble-server localhost:4245

			# Out of a controller's flow log
			kubectl meshpdb history db -n prod --input-file decisions.log`),
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
	o.flows.addFlags(cmd)
	cmd.Flags().BoolVar(&o.noHeaders, "no-headers", false, "When using the default output format, don't print headers.")
	return cmd
}

// decision is one line: one Event or a series, or flows with the same words.
type decision struct {
	First  metav1.Time `json:"first"`
	Last   metav1.Time `json:"last"`
	Count  int32       `json:"count"`
	Type   string      `json:"type"`
	Reason string      `json:"reason"`
	// Object that it is about, as kind/name, and the budget that decided, if it is known.
	Object  string `json:"object"`
	Budget  string `json:"budget,omitempty"`
	Message string `json:"message"`
	// Cluster, Cause in CamelCase and User who asked; flows tell them, Events do not.
	Cluster string `json:"cluster,omitempty"`
	Cause   string `json:"cause,omitempty"`
	User    string `json:"user,omitempty"`
}

// decisions is what -o prints.
type decisions struct {
	Context   string     `json:"context"`
	Namespace string     `json:"namespace"`
	Of        string     `json:"of"`
	Decisions []decision `json:"decisions"`
	// Budgets are those that decided, as they stand now; none if the decisions are out of a file.
	Budgets []hold.Report `json:"budgets,omitempty"`
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
	all := decisions{Context: c.Context, Namespace: c.Namespace, Of: strings.ToLower(kind) + "/" + name, Decisions: []decision{}}
	read := func(ctx context.Context, namespace, kind, name string) ([]decision, error) {
		return c.fromEvents(ctx, namespace, kind, name, o.from())
	}
	if o.flows.given() {
		read = o.fromFlows
	}
	found, err := read(ctx, c.Namespace, kind, name)
	if err != nil {
		return err
	}
	all.Decisions = append(all.Decisions, found...)
	slices.SortFunc(all.Decisions, func(a, b decision) int {
		return cmp.Or(a.Last.Compare(b.Last.Time), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Message, b.Message))
	})
	if o.flows.file == "" {
		// A file is read without any cluster.
		if all.Budgets, err = c.decided(ctx, kind, name, all.Decisions); err != nil {
			return err
		}
	}
	o.namePods(ctx, c, all.Budgets)
	if printer != nil {
		return o.output.print(o.Out, printer, "DecisionList", all)
	}
	return o.tell(all)
}

// from is the time from which on decisions are asked for; zero asks for all.
func (o *historyOptions) from() time.Time {
	if o.since == 0 {
		return time.Time{}
	}
	return o.Now().Add(-o.since)
}

func (o *historyOptions) tell(all decisions) error {
	say := &sentences{w: o.Out}
	if !o.flows.given() && slices.ContainsFunc(all.Decisions, func(d decision) bool { return d.Count > 1 }) {
		say.say("Kubernetes merges repeated Events and keeps the first message only: later refusals may have had another cause. Hubble flows keep each; how to read those is told by: kubectl meshpdb history --help\n")
	}
	if len(all.Decisions) == 0 {
		if _, err := fmt.Fprintf(o.ErrOut, "No decisions about %s found in %s namespace. %s\n", all.Of, all.Namespace, o.noneSaid(all.Of)); err != nil {
			return err
		}
	} else if err := o.table(all.Decisions); err != nil {
		return err
	}
	for _, r := range all.Budgets {
		if !o.flows.given() && all.Of != strings.ToLower(budgetKind)+"/"+r.Name {
			say.say("\nNot every refusal is an Event of its pod; the series of its budget counts all: kubectl meshpdb history %s -n %s%s", r.Name, r.Namespace, o.contextFlag())
		}
	}
	for i, r := range all.Budgets {
		if i > 0 || len(all.Decisions) > 0 {
			say.say("")
		}
		say.say("Now, as context %s sees it:", all.Context)
		o.held(say, all.Context, r)
	}
	if last := len(all.Decisions) - 1; o.flows.file != "" && last >= 0 && all.Decisions[last].Budget != "" {
		say.say("\nA file tells what was. What holds the budget back now, since when, and what would free it: kubectl meshpdb status %s -n %s%s", all.Decisions[last].Budget, all.Namespace, o.contextFlag())
	}
	return say.err
}

// noneSaid says where decisions might be that were not found.
func (o *historyOptions) noneSaid(of string) string {
	var words []string
	switch from := o.from(); {
	case !from.IsZero():
		words = append(words, "Searched since "+hold.Ago(metav1.NewTime(from), o.Now())+".")
	case !o.flows.given():
		words = append(words, "Events are kept for an hour; flow logs (--input-file), metrics and logs of the controllers go back further.")
	}
	if name, isBudget := strings.CutPrefix(of, strings.ToLower(budgetKind)+"/"); isBudget {
		words = append(words, "If "+name+" is a pod, name it pod/"+name+".")
	}
	return strings.Join(words, " ")
}

// decided returns the budgets that decided, as they stand; those that are gone are left out.
func (c *Cluster) decided(ctx context.Context, kind, name string, all []decision) ([]hold.Report, error) {
	names := map[string]bool{}
	if kind == budgetKind {
		names[name] = true
	}
	for _, d := range all {
		if kind == "Pod" && d.Budget != "" {
			names[d.Budget] = true
		}
	}
	var reports []hold.Report
	for _, name := range slices.Sorted(maps.Keys(names)) {
		b, err := c.budget(ctx, c.Namespace, name)
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return nil, err
		default:
			reports = append(reports, hold.Of(b))
		}
	}
	return reports, nil
}

// fromEvents reads what was decided about an object in this cluster.
func (c *Cluster) fromEvents(ctx context.Context, namespace, kind, name string, since time.Time) ([]decision, error) {
	list, err := c.Kube.EventsV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var all []decision
	for i := range list.Items {
		e := &list.Items[i]
		about := e.Regarding.Kind == kind && e.Regarding.Name == name ||
			e.Related != nil && e.Related.Kind == kind && e.Related.Name == name
		if !about || e.ReportingController != controllerName {
			continue
		}
		if d := decisionOf(e); !d.Last.Time.Before(since) {
			all = append(all, d)
		}
	}
	return all, nil
}

// budgetKind is the kind of budgets.
const budgetKind = "MeshPodDisruptionBudget"

func historyOf(arg string) (kind, name string, err error) {
	typed, name, ok := strings.Cut(arg, "/")
	if !ok {
		return budgetKind, arg, nil
	}
	switch strings.TrimSuffix(typed, ".meshpdb.io") {
	case "pod", "pods", "po":
		return "Pod", name, nil
	case "mpdb", "meshpoddisruptionbudget", "meshpoddisruptionbudgets":
		return budgetKind, name, nil
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
	switch {
	case e.Regarding.Kind == budgetKind:
		d.Budget = e.Regarding.Name
	case e.Related != nil && e.Related.Kind == budgetKind:
		d.Budget = e.Related.Name
	}
	return d
}

func (o *historyOptions) table(all []decision) error {
	var rows [][]any
	for _, d := range all {
		last := hold.Ago(d.Last, o.Now())
		if d.Count > 1 {
			last += fmt.Sprintf(", %d times since %s", d.Count, hold.Ago(d.First, o.Now()))
		}
		if d.Count > 1 && !o.flows.given() {
			d.Message = fmt.Sprintf("first, at %s: %s", d.First.UTC().Format("15:04:05Z"), d.Message)
		}
		row := []any{last, d.Type, d.Reason, d.Object, d.Message}
		if o.flows.given() {
			row = []any{last, d.Cluster, d.Type, d.Reason, d.Object, d.Message}
		}
		rows = append(rows, row)
	}
	columns := []string{"Last Seen", "Type", "Reason", "Object", "Message"}
	if o.flows.given() {
		// Not who holds anything back: that is in the message.
		columns = slices.Insert(columns, 1, "Decided In")
	}
	return table(o.Out, o.noHeaders, columns, rows)
}
