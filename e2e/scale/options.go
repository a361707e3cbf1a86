package scale

import (
	"cmp"
	"fmt"
	"io"
	"time"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
)

// Options of a measurement. The zero value measures 3,000 pods in 300 budgets.
type Options struct {
	// Pods and Budgets in the cluster; the budgets cover all pods evenly.
	Pods, Budgets int
	// Namespaces that they are spread over, default one for each hundred budgets.
	Namespaces int
	// Binary is the meshpdb-controller to measure; empty builds the one of this checkout.
	Binary string
	// Args are appended to the controller's.
	Args []string
	// Profiles is a folder for CPU and heap profiles, which are then taken; empty takes none.
	Profiles string
	// Timeout of each wait for the controller, default five minutes.
	Timeout time.Duration
	// Progress receives a line for each step, default none.
	Progress io.Writer
}

func (o Options) withDefaults() (Options, error) {
	o.Pods = cmp.Or(o.Pods, 3000)
	o.Budgets = cmp.Or(o.Budgets, 300)
	o.Namespaces = cmp.Or(o.Namespaces, max(1, o.Budgets/100))
	o.Timeout = cmp.Or(o.Timeout, 5*time.Minute)
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if o.Pods < o.Budgets || o.Budgets < o.Namespaces || o.Namespaces < 1 {
		return o, fmt.Errorf("check options: %d pods, %d budgets, %d namespaces: each must be at least the next, and that 1", o.Pods, o.Budgets, o.Namespaces)
	}
	return o, nil
}

func (o Options) sandbox() sandbox.Options {
	return sandbox.Options{Clusters: 1, Nodes: 1, Bare: true, Progress: o.Progress}
}

// Result of a measurement.
type Result struct {
	Pods, Budgets, Namespaces int
	// Empty is a controller in a cluster without any of them.
	Empty Usage
	// First is the first start beside them: nothing is published and no status is written yet.
	First Run
	// Again is a start when all of that is there.
	Again Run
}

// Run of one controller, from exec on.
type Run struct {
	// Ready is when /readyz said so.
	Ready time.Duration
	// AtReady is what it used then.
	AtReady Usage
	// Published is when the kvstore held every budget and every pod.
	Published time.Duration
	// Written is when every budget's status said that it is enforced.
	Written time.Duration
	// Settled is what it uses after that, with the highest RSS since its start.
	Settled Usage
}

// Usage of a controller, in bytes but for CPU.
type Usage struct {
	PeakRSS, RSS int64
	// Heap is what lives after a garbage collection.
	Heap int64
	// CPU since its start.
	CPU time.Duration
}

// HeapPerPod is what one more covered pod costs, its share of budgets and owners included.
func (r Result) HeapPerPod() int64 { return (r.Again.Settled.Heap - r.Empty.Heap) / int64(r.Pods) }
