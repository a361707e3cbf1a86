// Package live measures meshpdb where people meet it: at the eviction API of
// real clusters (package sandbox), from both ends. The callers' clock tells
// what a drain waits for; the controllers' own log and metrics tell what a
// decision takes and where the time goes.
//
// Native PodDisruptionBudgets of the same total are measured in the same run,
// by the same callers, as the baseline.
package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// What runs.
const (
	Clusters    = 3
	Controllers = 2  // in each cluster
	Replicas    = 10 // in each cluster
	Budget      = 10 // pods that may be unavailable in all clusters together
	Callers     = 4  // eager ones in each cluster
	Pause       = 50 * time.Millisecond
)

// Options of a measurement; all are required but the pods' pace.
type Options struct {
	// PodStart and PodStop are how long pods take. Zero: no time, so that budget is
	// always wanted and often free, and decisions are what is waited for.
	PodStart, PodStop sandbox.Range
	// RTTs between any two clusters, measured one after the other.
	RTTs []time.Duration
	// Duration of each race of eager callers.
	Duration time.Duration
	// Polite is the number of evictions that are asked for one by one, at each RTT; 0: none.
	Polite int
	// Progress receives a line for each step.
	Progress io.Writer
}

// Result is what was measured.
type Result struct {
	Native    Race
	Distances []Distance
}

// Distance is what was measured at one round-trip time.
type Distance struct {
	RTT  time.Duration
	Calm Calm
	Race Race
}

// mesh is the running sandbox.
type mesh struct {
	options  Options
	sandbox  *sandbox.Mesh
	clusters []*scenario.Cluster
}

// Measure starts three clusters, measures and stops them.
func Measure(ctx context.Context, o Options) (Result, error) {
	running, err := sandbox.New(ctx, sandbox.Options{
		Clusters: Clusters, Controllers: Controllers, PodStart: o.PodStart, PodStop: o.PodStop, Progress: o.Progress,
	})
	if err != nil {
		return Result{}, err
	}
	m := &mesh{options: o, sandbox: running}
	result, err := m.measure(ctx)
	return result, errors.Join(err, running.Stop())
}

func (m *mesh) measure(ctx context.Context) (Result, error) {
	for _, c := range m.sandbox.Clusters {
		cluster, err := scenario.NewCluster(c.Name, c.Config)
		if err != nil {
			return Result{}, err
		}
		m.clusters = append(m.clusters, cluster)
	}
	native, err := m.native(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("measure native budgets: %w", err)
	}
	result := Result{Native: native}
	for _, rtt := range m.options.RTTs {
		d, err := m.distance(ctx, rtt)
		if err != nil {
			return Result{}, fmt.Errorf("measure at %s: %w", rtt, err)
		}
		result.Distances = append(result.Distances, d)
	}
	return result, nil
}

// native races under native budgets. Those know nothing of other clusters, so
// that the distance does not matter to them.
func (m *mesh) native(ctx context.Context) (Race, error) {
	w := m.workload("bench-native")
	if err := w.Apply(ctx); err != nil {
		return Race{}, err
	}
	if err := w.NativeShares(ctx, Budget); err != nil {
		return Race{}, err
	}
	if err := errors.Join(w.AwaitReady(ctx), w.AwaitNative(ctx)); err != nil {
		return Race{}, err
	}
	m.say("native budgets: %d callers evict eagerly for %s", Callers*Clusters, m.options.Duration)
	race, err := m.race(ctx, w)
	if err != nil {
		return Race{}, err
	}
	// What is left behind an error ends with the clusters.
	return race, w.Delete(ctx)
}

func (m *mesh) distance(ctx context.Context, rtt time.Duration) (Distance, error) {
	if err := m.sandbox.SetRTT(rtt); err != nil {
		return Distance{}, err
	}
	w := m.workload(fmt.Sprintf("bench-%dms", rtt.Milliseconds()))
	if err := w.Apply(ctx); err != nil {
		return Distance{}, err
	}
	if err := w.AwaitReady(ctx); err != nil {
		return Distance{}, err
	}
	maxUnavailable := intstr.FromInt32(Budget)
	if err := w.Budget(ctx, v1alpha1.MeshPodDisruptionBudgetSpec{MaxUnavailable: &maxUnavailable}); err != nil {
		return Distance{}, err
	}
	if err := w.AwaitBudget(ctx); err != nil {
		return Distance{}, err
	}
	var calm Calm
	if m.options.Polite > 0 {
		m.say("meshpdb, %s apart: %d evictions one by one", rtt, m.options.Polite)
		var err error
		if calm, err = m.calm(ctx, w); err != nil {
			return Distance{}, err
		}
	}
	m.say("meshpdb, %s apart: %d callers evict eagerly for %s", rtt, Callers*Clusters, m.options.Duration)
	race, err := m.race(ctx, w)
	if err != nil {
		return Distance{}, err
	}
	return Distance{RTT: rtt, Calm: calm, Race: race}, w.Delete(ctx)
}

func (m *mesh) workload(namespace string) *scenario.Workload {
	return &scenario.Workload{Clusters: m.clusters, Namespace: namespace, Name: "db", Replicas: Replicas}
}

func (m *mesh) controllers() []*sandbox.Controller {
	var all []*sandbox.Controller
	for _, c := range m.sandbox.Clusters {
		all = append(all, c.Controllers...)
	}
	return all
}

func (m *mesh) say(format string, args ...any) { fmt.Fprintf(m.options.Progress, format+"\n", args...) }
