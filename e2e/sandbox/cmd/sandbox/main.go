// Command sandbox starts a mesh of real Kubernetes clusters on this machine and keeps it until Ctrl-C.
//
//	go run ./e2e/sandbox/cmd/sandbox --clusters 3 --pod-start 2s-8s --pod-stop 1s-3s
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		os.Exit(1)
	}
}

// run is main without the process: it returns when ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	options, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	options.Progress = stderr
	mesh, err := sandbox.New(ctx, options)
	if err != nil {
		return err
	}
	explain(stdout, mesh)
	<-ctx.Done()
	fmt.Fprintln(stderr, "stopping")
	return mesh.Stop()
}

func parse(args []string, stderr io.Writer) (sandbox.Options, error) {
	var o sandbox.Options
	flags := flag.NewFlagSet("sandbox", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.Clusters, "clusters", 3, "`number` of clusters")
	flags.IntVar(&o.Instances, "instances", 1, "`number` of clustermesh-apiserver replicas in each cluster")
	flags.IntVar(&o.Nodes, "nodes", 3, "`number` of fake nodes in each cluster")
	flags.IntVar(&o.Controllers, "controllers", 0, "`number` of meshpdb controllers in each cluster")
	flags.StringVar(&o.ControllerBinary, "controller-binary", "", "`path` of the meshpdb controller; default: build it")
	flags.DurationVar(&o.RTT, "rtt", 0, "round-trip `time` between clusters")
	flags.Var(&o.PodStart, "pod-start", "`range` of times until a scheduled pod is ready, such as 2s-8s")
	flags.Var(&o.PodStop, "pod-stop", "`range` of times until a deleted pod is gone")
	flags.StringVar(&o.Dir, "dir", "", "`folder` for files and logs; default: a temporary one, removed at the end")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("parse arguments: unexpected %q", flags.Arg(0))
	}
	return o, nil
}

func explain(w io.Writer, m *sandbox.Mesh) {
	fmt.Fprintf(w, "\nexport KUBECONFIG=%s\n\n", m.Kubeconfig)
	for _, c := range m.Clusters {
		fmt.Fprintf(w, "kubectl --context %s get nodes    # its own file: %s\n", c.Name, c.Kubeconfig)
	}
	fmt.Fprintf(w, "\nLogs: %s\nCtrl-C stops everything.\n", filepath.Join(m.Dir, "logs", "<cluster>", "<component>.log"))
}
