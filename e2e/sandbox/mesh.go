package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// Mesh is a running ClusterMesh.
type Mesh struct {
	Clusters []*Cluster
	// Dir holds all files; the logs are in logs/<cluster>/<component>.log.
	Dir string
	// Kubeconfig has a context for each cluster.
	Kubeconfig string
	// Binaries are the programs that run.
	Binaries *Binaries

	options   Options
	progress  *progress
	launcher  *launcher
	addresses *addresses
	ca        *authority // of the ClusterMesh, shared by all clusters as Cilium recommends
	keep      bool       // leave Dir behind
	stopping  sync.Once
}

// New starts a mesh and returns when all of it is ready. The context bounds the start only; Stop ends the mesh. If
// something cannot be started, everything is stopped, and the error names the component, its last log lines and the folder.
func New(ctx context.Context, o Options) (*Mesh, error) {
	m, err := prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := m.start(ctx); err != nil {
		return nil, m.abort(err)
	}
	m.progressf("the mesh is up")
	return m, nil
}

// prepare builds the programs and makes the folder of a mesh that runs nothing yet.
func prepare(ctx context.Context, o Options) (*Mesh, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Mesh{options: o, progress: &progress{to: o.Progress, started: time.Now()}, Dir: o.Dir, keep: o.Dir != ""}
	if m.Binaries, err = Build(ctx, m.progress); err != nil {
		return nil, err
	}
	if err := m.makeDir(); err != nil {
		return nil, fmt.Errorf("start sandbox: %w", err)
	}
	if m.ca, err = newAuthority("Cilium CA"); err != nil {
		return nil, fmt.Errorf("start sandbox: %w", err)
	}
	m.launcher, m.addresses = newLauncher(), newAddresses()
	return m, nil
}

// abort stops what a start that failed has left running. The files stay.
func (m *Mesh) abort(err error) error {
	m.keep = true
	return fmt.Errorf("start sandbox (logs in %s): %w", filepath.Join(m.Dir, "logs"), errors.Join(err, m.end()))
}

func (m *Mesh) makeDir() (err error) {
	if m.Dir == "" {
		if m.Dir, err = os.MkdirTemp("", "meshpdb-sandbox-"); err != nil {
			return err
		}
	}
	if m.Dir, err = filepath.Abs(m.Dir); err != nil {
		return err
	}
	m.Kubeconfig = filepath.Join(m.Dir, "kubeconfig")
	return claimDir(m.Dir)
}

// claimDir makes dir an empty folder for a sandbox. What an earlier sandbox left there is removed; a folder with
// anything else in it is refused.
func claimDir(dir string) error {
	marker := filepath.Join(dir, ".meshpdb-sandbox")
	left, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("claim folder: %w", err)
	case len(left) > 0 && !exists(marker):
		return fmt.Errorf("claim folder: %s is not empty", dir)
	}
	for _, entry := range left {
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return fmt.Errorf("claim folder: %w", err)
		}
	}
	return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(marker, nil, 0o644))
}

func (m *Mesh) start(ctx context.Context) error {
	for i := range m.options.Clusters {
		c, err := newCluster(m, i+1)
		if err != nil {
			return err
		}
		m.Clusters = append(m.Clusters, c)
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, c := range m.Clusters {
		group.Go(func() error { return c.start(groupCtx) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := mergeKubeconfigs(m.Kubeconfig, m.Clusters); err != nil {
		return err
	}
	if !m.options.NoMesh {
		if err := m.joinMesh(); err != nil {
			return err
		}
	}
	if m.options.Controllers == 0 {
		return nil
	}
	return m.startDefaultControllers(ctx)
}

// Cluster finds a cluster by its name.
func (m *Mesh) Cluster(name string) (*Cluster, error) {
	i := slices.IndexFunc(m.Clusters, func(c *Cluster) bool { return c.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("find cluster %s: no such cluster", name)
	}
	return m.Clusters[i], nil
}

// Stop ends all processes and removes the files, unless Options.Dir said where they go. Its error names the processes
// that had ended before without being asked to.
func (m *Mesh) Stop() error {
	var err error
	m.stopping.Do(func() { err = m.end() })
	return err
}

func (m *Mesh) end() error {
	err := m.launcher.failures()
	// Controllers are asked, so that one built with -cover can write its coverage; the rest has nothing to lose.
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	var controllers sync.WaitGroup
	for _, c := range m.Clusters {
		for _, p := range c.Controllers {
			controllers.Go(func() { p.stop(ctx) })
		}
	}
	controllers.Wait()
	m.launcher.close()
	for _, c := range m.Clusters {
		c.close()
	}
	if !m.keep {
		err = errors.Join(err, os.RemoveAll(m.Dir))
	}
	return err
}

func (m *Mesh) progressf(format string, args ...any) {
	fmt.Fprintf(m.progress, format+"\n", args...)
}

// progress writes lines of several goroutines, each with the time since the start.
type progress struct {
	mu      sync.Mutex
	to      io.Writer
	started time.Time
}

func (p *progress) Write(line []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := fmt.Fprintf(p.to, "%6.1fs %s", time.Since(p.started).Seconds(), line); err != nil {
		return 0, err
	}
	return len(line), nil
}

// Start starts a mesh for a test and stops it with the test. If the test fails, the files are kept and their folder
// is logged; a component that ended by itself fails the test.
func Start(t testing.TB, o Options) *Mesh {
	t.Helper()
	if o.Progress == nil {
		o.Progress = os.Stderr
	}
	m, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.launcher.failures(); err != nil {
			t.Errorf("check components: %v", err)
		}
		if m.keep = m.keep || t.Failed(); t.Failed() {
			t.Logf("the logs are in %s", filepath.Join(m.Dir, "logs"))
		}
		_ = m.Stop() // its failures are reported above
	})
	return m
}
