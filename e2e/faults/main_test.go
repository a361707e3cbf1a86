package faults

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/e2e/scenario"
)

var (
	report   = flag.String("report", "", "write the measured rows into this Markdown file")
	long     = flag.Bool("long", false, "run the tests that take minutes, too")
	tags     = flag.String("controller-tags", "", "build tags of the controllers; with meshpdb_unsafe_noclaims the race must be lost")
	raceFor  = flag.Duration("race-for", 2*time.Minute, "how long the randomized race takes")
	raceSeed = flag.Uint64("race-seed", 0, "seed of the randomized race; 0 draws one")
)

// mesh is the package's mesh; tests run one after the other on it.
var mesh *testMesh

type testMesh struct {
	*sandbox.Mesh
	clusters []*scenario.Cluster
	// absolute and relative are stretched over all clusters, 3 pods in each, for
	// all tests that leave them as they found them.
	absolute, relative *scenario.Workload
	rows               rows
}

func TestMain(m *testing.M) {
	flag.Parse()
	ctrl.SetLogger(logr.Discard())
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir, err := os.MkdirTemp("", "meshpdb-faults-")
	if err == nil {
		mesh, err = startMesh(ctx, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	keepCtx, release := context.WithCancel(ctx)
	var kept sync.WaitGroup
	kept.Go(func() { mesh.KeepControllers(keepCtx) })
	code := m.Run()
	release()
	kept.Wait()
	if err := errors.Join(mesh.Stop(), mesh.rows.write(*report)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if code == 0 {
		os.RemoveAll(dir)
	} else {
		fmt.Fprintln(os.Stderr, "the logs are in", filepath.Join(dir, "logs"))
	}
	return code
}

func startMesh(ctx context.Context, dir string) (*testMesh, error) {
	running, err := sandbox.New(ctx, sandbox.Options{
		Clusters: 3,
		PodStart: sandbox.Range{Min: time.Second, Max: 2 * time.Second},
		// Longer than a start: a replacement has another address then, as in most real clusters.
		PodStop: sandbox.Range{Min: 2500 * time.Millisecond, Max: 3 * time.Second},
		// API servers are lost for long, and no node is meant to be.
		NodeGrace: 10 * time.Minute,
		Dir:       dir,
		Progress:  os.Stderr,
	})
	if err != nil {
		return nil, err
	}
	binary, err := running.Binaries.Controller(ctx, strings.Fields(*tags)...)
	if err == nil {
		err = running.StartControllers(ctx, binary, 2)
	}
	if err != nil {
		return nil, errors.Join(err, running.Stop())
	}
	t := &testMesh{Mesh: running}
	for _, c := range running.Clusters {
		cluster, err := scenario.NewCluster(c.Name, c.Config)
		if err != nil {
			return nil, errors.Join(err, running.Stop())
		}
		t.clusters = append(t.clusters, cluster)
	}
	t.absolute = &scenario.Workload{Clusters: t.clusters, Namespace: "absolute", Name: "db", Replicas: replicas}
	t.relative = &scenario.Workload{Clusters: t.clusters, Namespace: "relative", Name: "db", Replicas: replicas}
	for w, spec := range t.standing() {
		if err := errors.Join(w.Apply(ctx), w.Budget(ctx, spec)); err != nil {
			return nil, errors.Join(err, running.Stop())
		}
	}
	return t, nil
}
