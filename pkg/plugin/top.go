package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshpdb/meshpdb/pkg/plugin/hold"
)

type topOptions struct {
	statusOptions
	interval time.Duration
	count    int
}

func (r *root) top() *cobra.Command {
	o := &topOptions{statusOptions: statusOptions{root: r}}
	cmd := &cobra.Command{
		Use:   "top [BUDGET...]",
		Short: "Show budgets live",
		Long: long(`
			Show what kubectl meshpdb status shows and keep it up to date, until Ctrl-C. If
			the output is no terminal, print a line for each budget at first, and then one
			whenever something about it changes, who holds it back since when and what would
			free it included. A number with + is at least so many: some cluster cannot be read.`),
		Example: examples(`
			# Watch the budgets of a namespace while nodes are drained
			kubectl meshpdb top -n prod

			# Keep a record
			kubectl meshpdb top -A > budgets.log`),
		ValidArgsFunction: r.completeNames(budgetResource.Resource),
		RunE:              run(o.run),
	}
	cmd.Flags().BoolVarP(&o.all, "all-namespaces", "A", false, "If present, list the budgets of all namespaces. Namespace in current context is ignored even if specified with --namespace.")
	cmd.Flags().BoolVar(&o.noHeaders, "no-headers", false, "If present, print output without headers.")
	cmd.Flags().DurationVar(&o.interval, "interval", time.Second, "How often to look.")
	cmd.Flags().IntVar(&o.count, "count", 0, "Look so often and end; 0 never ends.")
	return cmd
}

func (o *topOptions) run(ctx context.Context, args []string) error {
	if o.interval < 100*time.Millisecond {
		return fmt.Errorf("--interval %s: must be 100ms or more", o.interval)
	}
	if o.all && len(args) > 0 {
		return errors.New("a budget cannot be named across all namespaces")
	}
	c, err := o.Clusters.Open("")
	if err != nil {
		return err
	}
	tick := time.NewTicker(o.interval)
	defer tick.Stop()
	told := map[string]string{}
	for n := 1; ; n++ {
		reports, err := c.reports(ctx, o.all, args)
		if err == nil {
			o.namePods(ctx, c, reports)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && n == 1:
			return err
		case err != nil:
			// An API server may restart; who watches goes on watching.
			fmt.Fprintf(o.ErrOut, "%s %v\n", o.Now().UTC().Format(time.RFC3339), err)
		case o.Terminal:
			err = o.screen(c, reports)
		default:
			err = o.lines(told, reports)
		}
		if o.count > 0 && n >= o.count {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// home and rest of a terminal: to the upper left, and clear what is below.
const clearScreen = "\x1b[H\x1b[2J"

func (o *topOptions) screen(c *Cluster, reports []hold.Report) error {
	var page bytes.Buffer
	fmt.Fprintf(&page, "%sEvery %s: budgets as context %s sees them   %s\n\n", clearScreen, o.interval, c.Context, o.Now().UTC().Format(time.RFC3339))
	if len(reports) == 0 {
		fmt.Fprintln(&page, none(c, o.all))
	}
	if err := o.table(&page, reports); err != nil {
		return err
	}
	if err := o.tell(&page, c.Context, reports); err != nil {
		return err
	}
	// At once, so that nothing flickers.
	_, err := o.Out.Write(page.Bytes())
	return err
}

// lines tells what has changed since it was told last.
func (o *topOptions) lines(told map[string]string, reports []hold.Report) error {
	say := &sentences{w: o.Out}
	present := map[string]bool{}
	for _, r := range reports {
		present[r.FullName()] = true
		text := fmt.Sprintf("budget=%s allowed=%d available=%s desired=%d expected=%d inFlight=%s state=%q", r.FullName(), r.Allowed, atLeast(r, r.Available), r.Desired, r.Expected, atLeast(r, r.InFlight), r.State(time.Time{}))
		for _, c := range r.Clusters {
			text += fmt.Sprintf(" %s=%s", c.Name, share(c))
		}
		if frees := r.Frees(); frees != "" {
			text += fmt.Sprintf(" frees=%q", frees)
		}
		if see := o.commands(r); see != "" {
			text += fmt.Sprintf(" see=%q", see)
		}
		if told[r.FullName()] != text {
			told[r.FullName()] = text
			say.say("%s %s", o.Now().UTC().Format(time.RFC3339), text)
		}
	}
	for name := range told {
		if !present[name] {
			delete(told, name)
			say.say("%s budget=%s deleted", o.Now().UTC().Format(time.RFC3339), name)
		}
	}
	return say.err
}

// commands that help with what holds a budget back.
func (o *topOptions) commands(r hold.Report) string {
	var all []string
	for _, h := range r.HeldBackBy {
		for _, c := range h.Commands {
			all = append(all, o.inContext(c))
		}
	}
	return strings.Join(all, "; ")
}

func share(c hold.Cluster) string {
	if !c.Reachable {
		return "?/" + fmt.Sprint(c.Expected)
	}
	return fmt.Sprintf("%d/%d", c.Available, c.Expected)
}
