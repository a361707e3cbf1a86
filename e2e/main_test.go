package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"testing"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/go-logr/logr"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/e2e/scenario"
)

// mesh is the package's mesh; tests run one after the other on it, the rows of TestPaths side by side.
var mesh *testMesh

type testMesh struct {
	*sandbox.Mesh
	clusters []*scenario.Cluster
	binary   string
	// plugin builds kubectl's plugin once, when a test asks for it first.
	plugin func() (string, error)
	// dir stays if a test fails.
	dir string
}

// parallel is how many tests that run in parallel do so at once: they wait for
// clusters, far more than they compute.
const parallel = "8"

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", parallel); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctrl.SetLogger(logr.Discard())
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir, err := os.MkdirTemp("", "meshpdb-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	mesh, err = startMesh(ctx, dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if refused, err := mesh.forbidden(); err != nil || len(refused) > 0 {
		fmt.Fprintln(os.Stderr, "requests of controllers that deploy/rbac.yaml does not permit:", refused, err)
		code = max(code, 1)
	}
	if err := mesh.Stop(); err != nil {
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
		PodStart: sandbox.Range{Min: 2 * time.Second, Max: 8 * time.Second},
		PodStop:  sandbox.Range{Min: time.Second, Max: 3 * time.Second},
		Dir:      dir,
		Progress: os.Stderr,
	})
	if err != nil {
		return nil, err
	}
	t := &testMesh{Mesh: running, dir: dir}
	t.plugin = sync.OnceValues(func() (string, error) { return running.Binaries.Plugin(ctx) })
	if t.binary, err = running.Binaries.Controller(ctx); err != nil {
		return nil, err
	}
	for _, c := range running.Clusters {
		cluster, err := scenario.NewCluster(c.Name, c.Config)
		if err != nil {
			return nil, err
		}
		t.clusters = append(t.clusters, cluster)
	}
	return t, running.StartControllers(ctx, t.binary, 2)
}
