package plugin

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/completion"
	"k8s.io/kubectl/pkg/util/templates"
)

// Config of the command: everything outside of it.
type Config struct {
	genericiooptions.IOStreams
	// Clusters, if not nil, replaces what kubeconfig says.
	Clusters Clusters
	Now      func() time.Time
	// Version of the plugin.
	Version string
	// Terminal reports whether Out is one.
	Terminal bool
}

// root is what all commands share.
type root struct {
	Config
	flags *genericclioptions.ConfigFlags
	// factory serves kubectl's own completion.
	factory cmdutil.Factory
}

// NewCommand returns `kubectl meshpdb`.
func NewCommand(config Config) *cobra.Command {
	r := &root{Config: config, flags: genericclioptions.NewConfigFlags(true)}
	r.factory = cmdutil.NewFactory(r.flags)
	if r.Clusters == nil {
		r.Clusters = kubeconfig{flags: r.flags, warnings: rest.NewWarningWriter(r.ErrOut, rest.WarningWriterOptions{Deduplicate: true})}
	}
	completion.SetFactoryForCompletion(r.factory)
	cmd := &cobra.Command{
		Use:   "kubectl-meshpdb",
		Short: "Ask and manage disruption budgets that span the clusters of a ClusterMesh",
		Long: templates.LongDesc(`
			A MeshPodDisruptionBudget limits how many pods of a service are disrupted at
			the same time, over all clusters of a Cilium ClusterMesh. These commands tell
			who holds a budget back, whether a pod would go, what drains would do, and what
			is wrong with the installation.`),
		Version:       config.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		// kubectl calls the binary by its file; people call it by kubectl.
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl meshpdb"},
	}
	cmd.SetIn(r.In)
	cmd.SetOut(r.Out)
	cmd.SetErr(r.ErrOut)
	r.flags.AddFlags(cmd.PersistentFlags())
	completeFlag(cmd, "context", completion.ListContextsInConfig)
	completeFlag(cmd, "namespace", func(prefix string) []string { return completion.CompGetResource(r.factory, "namespace", prefix) })
	cmd.AddCommand(r.status(), r.explain(), r.plan(), r.top(), r.history(), r.doctor(), r.suspend(), r.resume(), r.forget())
	return cmd
}

// contextFlag is what a printed command needs to go where this one went.
func (r *root) contextFlag() string {
	if r.flags == nil || *r.flags.Context == "" {
		return ""
	}
	return " --context " + *r.flags.Context
}

// run calls a command's own function with a context.
func run(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error { return f(cmd.Context(), args) }
}

func examples(text string) string { return templates.Examples(text) }
func long(text string) string     { return templates.LongDesc(text) }

type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

func plainly(list func(prefix string) []string) completer {
	return func(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return list(prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFlag completes a flag that was just added; the only error is that there is none.
func completeFlag(cmd *cobra.Command, flag string, list func(prefix string) []string) {
	cmdutil.CheckErr(cmd.RegisterFlagCompletionFunc(flag, plainly(list)))
}

// completeNames completes each argument by the names of a resource.
func (r *root) completeNames(resource string) completer {
	return func(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return completion.CompGetResource(r.factory, resource, prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

// contextsFlag adds --contexts.
func contextsFlag(cmd *cobra.Command, into *[]string, usage string) {
	cmd.Flags().StringSliceVar(into, "contexts", nil, usage)
	completeFlag(cmd, "contexts", func(prefix string) []string {
		done := ""
		if i := strings.LastIndex(prefix, ","); i >= 0 {
			done, prefix = prefix[:i+1], prefix[i+1:]
		}
		var all []string
		for _, name := range completion.ListContextsInConfig(prefix) {
			all = append(all, done+name)
		}
		return all
	})
}
