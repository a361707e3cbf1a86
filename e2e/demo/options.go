package main

import (
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
)

// The life of a pod in the demo. Starting takes long enough for disruptions to overlap.
var (
	podStart = sandbox.Range{Min: 2 * time.Second, Max: 8 * time.Second}
	podStop  = sandbox.Range{Min: time.Second, Max: 3 * time.Second}
)

// options are the flags.
type options struct {
	rtt            time.Duration
	clusters       int
	replicas       int // in each cluster
	maxUnavailable int // in the whole mesh
	nodes          int // drained in each cluster
	native         bool
	dir            string
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.DurationVar(&o.rtt, "rtt", 20*time.Millisecond, "round-trip `time` between clusters")
	flags.IntVar(&o.clusters, "clusters", 3, "`number` of clusters, each takes about 500 MiB of memory")
	flags.IntVar(&o.replicas, "replicas", 3, "`number` of pods in each cluster")
	flags.IntVar(&o.maxUnavailable, "max-unavailable", 1, "`number` of pods that may be unavailable in all clusters together")
	flags.IntVar(&o.nodes, "nodes", 3, "`number` of nodes of each cluster; all of them are drained, one after the other")
	flags.BoolVar(&o.native, "native", true, "begin with native PodDisruptionBudgets; false goes straight to meshpdb")
	flags.StringVar(&o.dir, "dir", "", "`folder` for files and logs; default: a temporary one, kept only if something went wrong")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("parse arguments: unexpected %q", flags.Arg(0))
	}
	return o, o.validate()
}

// validate refuses what would show nothing; what cannot be started the sandbox refuses.
func (o options) validate() error {
	switch {
	case o.clusters < 2:
		return fmt.Errorf("parse arguments: --clusters %d: the demo needs at least 2", o.clusters)
	case o.nodes < 2:
		return fmt.Errorf("parse arguments: --nodes %d: pods of a drained node need another one", o.nodes)
	case o.replicas < 1:
		return fmt.Errorf("parse arguments: --replicas %d: the demo needs at least 1", o.replicas)
	case o.maxUnavailable < 1 || o.maxUnavailable >= o.pods():
		return fmt.Errorf("parse arguments: --max-unavailable %d: not between 1 and %d", o.maxUnavailable, o.pods()-1)
	}
	return nil
}

// pods of the workload in all clusters.
func (o options) pods() int { return o.clusters * o.replicas }

// drainTimeout is how long the drain of one node may take: as long as if every
// pod of the mesh went first, one after the other, and each was asked for anew
// only when kubectl's pause of 5 s is over; and then twice that for a busy machine.
func (o options) drainTimeout() time.Duration {
	return 2 * time.Duration(o.pods()) * (podStart.Max + podStop.Max + 5*time.Second)
}
