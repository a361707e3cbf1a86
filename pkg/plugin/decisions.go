package plugin

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/pkg/flow"
	"github.com/meshpdb/meshpdb/pkg/hubble/reader"
)

// flowSource is where history reads flows from, rather than Events. The flags
// are hubble observe's, with hubble- before their names, for kubectl has a --server and a
// --tls-server-name of its own on every command, which are the API server's.
type flowSource struct {
	server reader.Server
	file   string
}

func (s *flowSource) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&s.file, "input-file", "", "Read decisions from this file, of JSON lines as the controllers' export or hubble observe -o jsonpb has them, and not from Events; - is stdin.")
	flags.StringVar(&s.server.Address, "hubble-server", "", "Read decisions from the Hubble server at this address, Relay or a controller's own, and not from Events.")
	flags.DurationVar(&s.server.Timeout, "hubble-timeout", 30*time.Second, "Time that the Hubble server has to answer.")
	flags.BoolVar(&s.server.TLS, "hubble-tls", false, "Use TLS with the Hubble server. By default, only if its address starts with 'tls://' or a file below is given.")
	flags.BoolVar(&s.server.AllowInsecure, "hubble-tls-allow-insecure", false, "Do not verify the Hubble server's certificate.")
	flags.StringSliceVar(&s.server.CACertFiles, "hubble-tls-ca-cert-files", nil, "Files of the authorities that verify the Hubble server's certificate.")
	flags.StringVar(&s.server.ClientCertFile, "hubble-tls-client-cert-file", "", "File of the certificate to show to the Hubble server.")
	flags.StringVar(&s.server.ClientKeyFile, "hubble-tls-client-key-file", "", "File of that certificate's key.")
	flags.StringVar(&s.server.ServerName, "hubble-tls-server-name", "", "Name that the Hubble server's certificate must have, if not its address.")
	cmd.MarkFlagsMutuallyExclusive("input-file", "hubble-server")
}

func (s *flowSource) given() bool { return s.file != "" || s.server.Address != "" }

// name for people.
func (s *flowSource) name() string {
	switch s.file {
	case "":
		return s.server.Address
	case "-":
		return "stdin"
	}
	return s.file
}

func (s *flowSource) read(ctx context.Context, in io.Reader, since time.Time) (reader.Decisions, error) {
	switch s.file {
	case "":
		return s.server.Decisions(ctx, since)
	case "-":
		return reader.File(in)
	}
	f, err := os.Open(s.file)
	if err != nil {
		return reader.Decisions{}, err
	}
	defer f.Close()
	return reader.File(f)
}

// fromFlows reads what was decided about an object in a namespace, in all clusters that the flows are of. Dry-runs
// decide nothing, and are left out, as Events leave them out.
func (o *historyOptions) fromFlows(ctx context.Context, namespace, kind, name string) ([]decision, error) {
	since := o.from()
	found, err := o.flows.read(ctx, o.In, since)
	if err != nil {
		return nil, err
	}
	if found.Lost > 0 {
		fmt.Fprintf(o.ErrOut, "Warning: %s is not complete: %d decisions or flows were lost before they were written there\n", o.flows.name(), found.Lost)
	}
	slices.SortStableFunc(found.All, func(a, b flow.Decision) int { return a.Time.Compare(b.Time) })
	var all []decision
	for i := range found.All {
		d := &found.All[i]
		if !d.DryRun && !d.Time.Before(since) && concerns(d, namespace, kind, name) {
			all = appendDecision(all, ofFlow(d))
		}
	}
	return all, nil
}

func concerns(d *flow.Decision, namespace, kind, name string) bool {
	if kind == "Pod" {
		return d.Object.Kind == kind && d.Object.Namespace == namespace && d.Object.Name == name
	}
	return slices.ContainsFunc(d.Budgets, func(b flow.Budget) bool { return b.Namespace == namespace && b.Name == name })
}

// ofFlow names things as Events do.
func ofFlow(d *flow.Decision) decision {
	told := decision{
		First: metav1.NewTime(d.Time), Last: metav1.NewTime(d.Time), Count: 1, Type: "Warning", Cluster: d.Cluster, User: d.User, Cause: d.Reason,
		Object: strings.ToLower(d.Object.Kind) + "/" + d.Object.Name, Message: d.Sentence,
	}
	what := "Disruption"
	if d.Path == "intent" {
		what = "Deletion"
	}
	switch {
	case d.Verdict == flow.Allowed:
		told.Type, told.Reason = "Normal", what+"Allowed"
	case d.Verdict == flow.Exempted:
		told.Reason = what + "Warned"
	case d.Admitted:
		told.Reason = what + "Undecided"
	default:
		told.Reason = what + "Refused"
	}
	if len(d.Budgets) > 0 {
		told.Budget = d.Budgets[0].Name
	}
	return told
}

// appendDecision makes one line of the same words that follow each other: who drains asks every few seconds.
func appendDecision(all []decision, d decision) []decision {
	for i := len(all) - 1; i >= 0; i-- {
		last := &all[i]
		if last.Object != d.Object || last.Cluster != d.Cluster {
			continue
		}
		if last.Reason == d.Reason && last.Message == d.Message && last.User == d.User && last.Budget == d.Budget {
			last.Last, last.Count = d.Last, last.Count+1
			return all
		}
		break
	}
	return append(all, d)
}
