package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
)

// controllersPerCluster is what a real installation would run.
const controllersPerCluster = 2

// demo is one run of the command.
type demo struct {
	options
	screen  *screen
	mesh    *sandbox.Mesh
	members []*scenario.Cluster
}

// run returns nil when everything was as it should be, the bound kept above all.
func (d *demo) run(ctx context.Context) error {
	d.introduce()
	temporary := d.dir == ""
	if temporary {
		var err error
		if d.dir, err = os.MkdirTemp("", "meshpdb-demo-"); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	err := d.onMesh(ctx)
	if temporary && (err == nil || ctx.Err() != nil) {
		return errors.Join(err, os.RemoveAll(d.dir))
	}
	d.screen.say("The logs are in %s", filepath.Join(d.dir, "logs", "<cluster>", "<component>.log"))
	return err
}

func (d *demo) introduce() {
	order := "under meshpdb"
	if d.native {
		order = "first under native PodDisruptionBudgets, then under meshpdb"
	}
	d.screen.paragraph(fmt.Sprintf("%d real Kubernetes clusters on this machine, joined as a Cilium ClusterMesh, %s apart. "+
		"The workload db has %s over all of them, and %d may be unavailable at a time. "+
		"Every cluster is maintained at the same time, %s.", d.clusters, d.rtt, count(d.pods(), "pod"), d.maxUnavailable, order))
	d.screen.say("")
}

// onMesh starts the mesh, does both phases on it and stops it.
func (d *demo) onMesh(ctx context.Context) error {
	mesh, err := sandbox.New(ctx, sandbox.Options{
		Clusters: d.clusters, RTT: d.rtt, Nodes: d.nodes,
		PodStart: podStart, PodStop: podStop, Dir: d.dir, Progress: d.screen,
	})
	if err != nil {
		return err
	}
	d.mesh = mesh
	verdict := d.phases(ctx)
	d.screen.say("stopping the clusters")
	return errors.Join(verdict, mesh.Stop())
}

func (d *demo) phases(ctx context.Context) error {
	for _, c := range d.mesh.Clusters {
		cluster, err := scenario.NewCluster(c.Name, c.Config)
		if err != nil {
			return err
		}
		d.members = append(d.members, cluster)
	}
	var native *result
	if d.native {
		r, err := d.nativePhase(ctx)
		if err != nil {
			return err
		}
		native = &r
	}
	mesh, err := d.meshPhase(ctx)
	if err != nil {
		return err
	}
	d.screen.say("")
	d.screen.lines(summary(native, mesh))
	d.screen.say("")
	return verdict(mesh)
}

func (d *demo) nativePhase(ctx context.Context) (result, error) {
	d.screen.title("The problem: a native PodDisruptionBudget in each cluster, maxUnavailable %d", d.maxUnavailable)
	w := d.workload("demo-native")
	if err := w.Apply(ctx); err != nil {
		return result{}, err
	}
	if err := w.NativeBudget(ctx, intstr.FromInt(d.maxUnavailable)); err != nil {
		return result{}, err
	}
	d.screen.say("waiting until the %d pods are ready", d.pods())
	if err := w.AwaitReady(ctx); err != nil {
		return result{}, err
	}
	r, err := d.maintain(ctx, w, "native budgets")
	if err != nil {
		return result{}, err
	}
	d.screen.say("\n%s", r.conclusion())
	if r.worst > r.allowed {
		d.screen.say("Each cluster kept its own budget, and nobody that of the workload.")
	}
	// kubectl's drain selects pods by label in all namespaces, so this one must be gone before the next phase.
	d.screen.say("removing the workload")
	return r, w.Delete(ctx)
}

func (d *demo) meshPhase(ctx context.Context) (result, error) {
	d.screen.title("With meshpdb: a MeshPodDisruptionBudget over all clusters, maxUnavailable %d", d.maxUnavailable)
	binary, err := d.mesh.Binaries.Controller(ctx)
	if err != nil {
		return result{}, err
	}
	w := d.workload("demo-mesh")
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.mesh.StartControllers(groupCtx, binary, controllersPerCluster) })
	group.Go(func() error {
		if err := w.Apply(groupCtx); err != nil {
			return err
		}
		return w.AwaitReady(groupCtx)
	})
	if err := group.Wait(); err != nil {
		return result{}, err
	}
	maxUnavailable := intstr.FromInt(d.maxUnavailable)
	if err := w.Budget(ctx, v1alpha1.MeshPodDisruptionBudgetSpec{MaxUnavailable: &maxUnavailable}); err != nil {
		return result{}, err
	}
	d.screen.say("waiting until every cluster enforces the budget")
	if err := w.AwaitBudget(ctx); err != nil {
		return result{}, err
	}
	r, err := d.maintain(ctx, w, "meshpdb")
	if err != nil {
		return result{}, err
	}
	d.screen.say("\n%s", r.conclusion())
	return r, nil
}

func (d *demo) workload(namespace string) *scenario.Workload {
	return &scenario.Workload{Clusters: d.members, Namespace: namespace, Name: "db", Replicas: int32(d.replicas)}
}

// maintain drains all nodes of all clusters under a witness, shows it, and
// waits for the last pods. That a drain failed is part of the result.
func (d *demo) maintain(ctx context.Context, w *scenario.Workload, name string) (result, error) {
	witness, err := w.Watch(ctx)
	if err != nil {
		return result{}, err
	}
	d.screen.say("all nodes of all clusters are drained at once, with the code of kubectl drain")
	p := &phase{
		workload: w, witness: witness, tally: scenario.NewTally(), allowed: d.maxUnavailable,
		began: time.Now(), nodes: map[string]string{},
	}
	shown := p.show(ctx, d.screen, func() {
		p.drainErr = w.Maintain(ctx, scenario.Maintenance{Timeout: d.drainTimeout(), Tally: p.tally, Progress: p.workOn})
		p.took = time.Since(p.began)
		p.recoverErr = w.AwaitReady(ctx)
	})
	testimony, err := witness.Stop()
	if shown != nil {
		return result{}, shown
	}
	if err := errors.Join(err, p.recoverErr); err != nil {
		return result{}, fmt.Errorf("watch maintenance: %w", err)
	}
	return result{
		name: name, allowed: d.maxUnavailable, worst: testimony.WorstUnavailable, expected: testimony.Expected,
		granted: p.tally.Granted(), refused: p.tally.Refused(), medianGrant: p.tally.MedianGrant(), took: p.took,
		failures: p.tally.Failures(), drainErr: p.drainErr,
	}, nil
}
