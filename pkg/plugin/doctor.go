package plugin

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshpdb/meshpdb/pkg/plugin/checkup"
)

type doctorOptions struct {
	*root
	output    *output
	contexts  []string
	namespace string
	quiet     bool
}

func (r *root) doctor() *cobra.Command {
	o := &doctorOptions{root: r}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find what is wrong with the installation, and say how to mend it",
		Long: long(`
			Examine meshpdb in one cluster or in several: its controllers, the peers and
			kvstores that they read and how fast, certificates and when they end, the webhook
			and its configuration, what the controllers may do, budgets and their services.
			Nothing is changed; the webhook is asked by a dry-run eviction.

			Exit code 0: nothing is wrong. 1: warnings, or something could not be examined. 2: errors.`),
		Example: examples(`
			# The current cluster
			kubectl meshpdb doctor

			# The whole mesh, only what is wrong
			kubectl meshpdb doctor --contexts eu-1,eu-2,us-1 --quiet`),
		Args: cobra.NoArgs,
		RunE: run(func(ctx context.Context, _ []string) error {
			err := o.run(ctx)
			if code, told := CodeOf(err); !told {
				// What cannot even be examined is no warning.
				return failure{err, code + 1}
			}
			return err
		}),
	}
	o.output = newOutput(cmd)
	contextsFlag(cmd, &o.contexts, "Contexts of the clusters to examine. Default: the current one.")
	cmd.Flags().StringVar(&o.namespace, "controller-namespace", "kube-system", "Namespace of the controllers.")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "Print only what is wrong.")
	return cmd
}

// diagnosis is what -o prints.
type diagnosis struct {
	Findings []checkup.Finding `json:"findings"`
	Errors   int               `json:"errors"`
	Warnings int               `json:"warnings"`
	// Unchecked could not be examined, which is no pass.
	Unchecked int `json:"unchecked"`
}

func (o *doctorOptions) run(ctx context.Context) error {
	printer, err := o.output.printer()
	if err != nil {
		return err
	}
	shipped, err := checkup.ReadShipped()
	if err != nil {
		return err
	}
	clusters, err := openAll(o.Clusters, o.contexts)
	if err != nil {
		return err
	}
	var all []checkup.Finding
	var facts []checkup.Facts
	for _, c := range clusters {
		f := o.gather(ctx, c)
		facts = append(facts, f)
		all = append(all, checkup.Examine(f, shipped)...)
	}
	all = append(all, checkup.Compare(facts)...)
	d := diagnosis{Findings: all, Errors: checkup.Count(all, checkup.Error), Warnings: checkup.Count(all, checkup.Warning), Unchecked: checkup.Count(all, checkup.Unchecked)}
	if printer != nil {
		err = o.output.print(o.Out, printer, "Diagnosis", d)
	} else {
		err = o.tell(d)
	}
	if code := checkup.Code(all); err == nil && code > 0 {
		err = ExitCode(code)
	}
	return err
}

func (o *doctorOptions) tell(d diagnosis) error {
	say := &sentences{w: o.Out}
	for _, f := range d.Findings {
		if o.quiet && (f.Level == checkup.OK || f.Level == checkup.Note) {
			continue
		}
		say.say("%-9s %s: %s: %s", mark(f.Level), f.Context, f.Check, f.Message)
		if f.Fix != "" {
			say.say("%-9s fix: %s", "", f.Fix)
		}
	}
	switch {
	case d.Errors+d.Warnings+d.Unchecked > 0:
		say.say("\n%s, %s, %d not examined", count(d.Errors, "error"), count(d.Warnings, "warning"), d.Unchecked)
	case !o.quiet:
		say.say("\nNothing is wrong.")
	}
	return say.err
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func mark(l checkup.Level) string {
	if l == checkup.OK {
		return "ok"
	}
	return strings.ToUpper(fmt.Sprint(l))
}
