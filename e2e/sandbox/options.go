package sandbox

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Limits of Options. Pods of cluster i are in 10.i.0.0/16 and Services in 10.(100+i).0.0/16, so 99 clusters is what
// the addresses allow; memory ends much earlier (about 500 MiB for each cluster).
const (
	maxClusters  = 99
	maxInstances = 9
	maxNodes     = 1000
)

// Options says what to start. The zero value is a mesh of three clusters without meshpdb.
type Options struct {
	// Clusters is their number, default 3. They are named c1, c2, ... and their Cilium cluster IDs are 1, 2, ...
	Clusters int
	// Instances is the number of clustermesh-apiserver replicas of each cluster, default 1. Each has an etcd of
	// its own, and readers in other clusters meet any of them.
	Instances int
	// RTT is the round-trip time between any two clusters, default none.
	RTT time.Duration
	// PodStart is the time from a pod's being scheduled to its being Ready, drawn anew for each pod. Default: at
	// once. Where safety is judged this should be seconds, else hardly any two disruptions ever overlap.
	PodStart Range
	// PodStop is the time from a pod's deletionTimestamp to its removal, drawn anew for each pod. Default: at once.
	PodStop Range
	// NodeGrace is how long a node may be silent before it counts as lost, default 30 s. Pods that were on a lost node
	// stay unready here even when it comes back, for nothing plays the kubelet's probes.
	NodeGrace time.Duration
	// Nodes is the number of fake nodes of each cluster, default 3.
	Nodes int
	// Controllers is the number of meshpdb-controller processes of each cluster, default 0.
	Controllers int
	// ControllerBinary is the meshpdb-controller to run; empty builds the one of this checkout.
	ControllerBinary string
	// ControllerArgs are appended to the arguments of every controller.
	ControllerArgs []string
	// Dir holds everything that is written, default a temporary folder that Stop removes. A given folder is kept.
	Dir string
	// Progress receives a line for each step, default none.
	Progress io.Writer
	// NoMesh leaves out the ClusterMesh: no instances, no links. For tests of one cluster's API.
	NoMesh bool
	// Bare leaves out what acts on objects by itself: kube-controller-manager, kube-scheduler and kwok. Objects stay as
	// they are written, and no node is ready. For measuring with many objects.
	Bare bool
}

// withDefaults validates o and fills in what was left out.
func (o Options) withDefaults() (Options, error) {
	if err := o.validate(); err != nil {
		return o, fmt.Errorf("check options: %w", err)
	}
	if o.Clusters == 0 {
		o.Clusters = 3
	}
	if o.Instances == 0 {
		o.Instances = 1
	}
	if o.NoMesh {
		o.Instances = 0
	}
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.NodeGrace == 0 {
		o.NodeGrace = nodeGrace
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	return o, nil
}

func (o Options) validate() error {
	return errors.Join(
		between("clusters", o.Clusters, maxClusters),
		between("instances", o.Instances, maxInstances),
		between("nodes", o.Nodes, maxNodes),
		between("controllers", o.Controllers, maxInstances),
		o.PodStart.validate("pod start"),
		o.PodStop.validate("pod stop"),
		o.validateRTT(),
		o.validateNoMesh(),
	)
}

func (o Options) validateRTT() error {
	if o.RTT < 0 || o.RTT > time.Minute {
		return fmt.Errorf("round-trip time %s: not between 0 and 1m", o.RTT)
	}
	if o.RTT%(2*time.Millisecond) != 0 {
		return fmt.Errorf("round-trip time %s: not an even number of milliseconds", o.RTT)
	}
	return nil
}

func (o Options) validateNoMesh() error {
	if o.NoMesh && (o.Instances > 0 || o.RTT > 0) {
		return errors.New("no mesh: instances and round-trip time mean nothing without one")
	}
	return nil
}

func between(what string, n, limit int) error {
	if n < 0 || n > limit {
		return fmt.Errorf("%s %d: not between 0 and %d", what, n, limit)
	}
	return nil
}

// Range is a span of durations from which one is drawn evenly. It is a flag.Value: "2s-8s", or "3s" for always 3s.
type Range struct{ Min, Max time.Duration }

// ParseRange reads what Range.String writes.
func ParseRange(s string) (Range, error) {
	low, high, isSpan := strings.Cut(s, "-")
	if !isSpan {
		high = low
	}
	var r Range
	var err error
	if r.Min, err = time.ParseDuration(low); err != nil {
		return Range{}, fmt.Errorf("parse range %q: %w", s, err)
	}
	if r.Max, err = time.ParseDuration(high); err != nil {
		return Range{}, fmt.Errorf("parse range %q: %w", s, err)
	}
	if err := r.validate("range"); err != nil {
		return Range{}, fmt.Errorf("parse range %q: %w", s, err)
	}
	return r, nil
}

// String is the form that ParseRange reads.
func (r Range) String() string {
	if r.Min == r.Max {
		return r.Min.String()
	}
	return r.Min.String() + "-" + r.Max.String()
}

// Set makes a Range a flag.Value.
func (r *Range) Set(s string) error {
	parsed, err := ParseRange(s)
	if err != nil {
		return err
	}
	*r = parsed
	return nil
}

func (r Range) validate(what string) error {
	switch {
	case r.Min < 0:
		return fmt.Errorf("%s %s: negative", what, r)
	case r.Max < r.Min:
		return fmt.Errorf("%s %s: ends before it begins", what, r)
	case r.Max > time.Hour:
		return fmt.Errorf("%s %s: longer than 1h", what, r)
	}
	return nil
}
