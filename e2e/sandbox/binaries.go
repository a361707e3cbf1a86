package sandbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

const modulePath = "github.com/meshpdb/meshpdb"

// progressInterval is how often a long step says that it still goes on.
const progressInterval = 15 * time.Second

// tool is a program of a tool module.
type tool struct {
	name    string // of the program
	pkg     string // to build
	version string // module that gives the version shown
}

// toolModules are the modules below .tools, which keep what they need out of the product's go.mod.
func toolModules() map[string][]tool {
	return map[string][]tool{
		"kubernetes": {
			{"etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"},
			{"kwok", "sigs.k8s.io/kwok/cmd/kwok", "sigs.k8s.io/kwok"},
			{"kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes"},
			{"kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", "k8s.io/kubernetes"},
			{"kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", "k8s.io/kubernetes"},
			{"kubectl", "k8s.io/kubernetes/cmd/kubectl", "k8s.io/kubernetes"},
		},
		"cilium": {
			{"clustermesh-apiserver", "github.com/cilium/cilium/clustermesh-apiserver", "github.com/cilium/cilium"},
		},
	}
}

// buildFlags are the go command's own except for the size of the programs:
// -trimpath or another CGO_ENABLED would compile every package once more that
// the tests and the demo have compiled already.
func buildFlags() []string { return []string{"-buildvcs=false", "-ldflags=-s -w"} }

// Binaries are the programs that a mesh runs.
type Binaries struct {
	// Root is the folder of the checkout.
	Root     string
	paths    map[string]string
	progress io.Writer
}

// Build builds the programs that the user's cache folder does not hold yet. Processes that want the same at once
// wait for the first of them.
func Build(ctx context.Context, progress io.Writer) (*Binaries, error) {
	root, err := findRoot()
	if err != nil {
		return nil, fmt.Errorf("build programs: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("build programs: %w", err)
	}
	b := &Binaries{Root: root, paths: map[string]string{}, progress: progress}
	modules := toolModules()
	for _, module := range slices.Sorted(maps.Keys(modules)) {
		dir := filepath.Join(root, ".tools", module)
		key, err := cacheKey(ctx, dir)
		if err != nil {
			return nil, fmt.Errorf("build programs: %w", err)
		}
		out := filepath.Join(cache, "meshpdb-sandbox", module+"-"+key)
		if err := b.buildModule(ctx, dir, out, modules[module]); err != nil {
			return nil, fmt.Errorf("build programs: %w", err)
		}
	}
	return b, nil
}

// path of a built program.
func (b *Binaries) path(name string) string { return b.paths[name] }

// Controller builds this checkout's meshpdb-controller with the given build tags and returns its path.
func (b *Binaries) Controller(ctx context.Context, tags ...string) (string, error) {
	return b.command(ctx, "meshpdb-controller", "controller", tags)
}

// Plugin builds this checkout's kubectl-meshpdb and returns its path.
func (b *Binaries) Plugin(ctx context.Context) (string, error) {
	return b.command(ctx, "kubectl-meshpdb", "plugin", nil)
}

// command builds a command of this checkout into a folder that begins with the given name.
func (b *Binaries) command(ctx context.Context, name, folder string, tags []string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	tags = slices.Compact(slices.Sorted(slices.Values(tags)))
	// Each checkout has a folder of its own, so that two of them do not run each other's controller.
	sum := sha256.Sum256([]byte(b.Root + "\x00" + strings.Join(tags, ",")))
	out := filepath.Join(cache, "meshpdb-sandbox", fmt.Sprintf("%s-%x", folder, sum[:6]), name)
	args := []string{"build", "-o", out}
	if len(tags) > 0 {
		args = append(args, "-tags="+strings.Join(tags, ","))
	}
	unlock, err := b.lock(ctx, filepath.Dir(out))
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	defer unlock()
	text := strings.TrimSpace("building " + name + " " + strings.Join(tags, ","))
	err = b.report(text, func() error { return goBuild(ctx, b.Root, append(args, "./cmd/"+name)) })
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return out, nil
}

// OlderCilium builds the clustermesh-apiserver of the minor version before the usual one and returns its path.
func (b *Binaries) OlderCilium(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("build older Cilium: %w", err)
	}
	dir := filepath.Join(b.Root, ".tools", "cilium-1.19")
	key, err := cacheKey(ctx, dir)
	if err != nil {
		return "", fmt.Errorf("build older Cilium: %w", err)
	}
	older := &Binaries{Root: b.Root, paths: map[string]string{}, progress: b.progress}
	out := filepath.Join(cache, "meshpdb-sandbox", "cilium-1.19-"+key)
	if err := older.buildModule(ctx, dir, out, toolModules()["cilium"]); err != nil {
		return "", fmt.Errorf("build older Cilium: %w", err)
	}
	return older.path("clustermesh-apiserver"), nil
}

func (b *Binaries) buildModule(ctx context.Context, dir, out string, tools []tool) error {
	missing := slices.DeleteFunc(slices.Clone(tools), func(t tool) bool {
		b.paths[t.name] = filepath.Join(out, t.name)
		return exists(b.paths[t.name])
	})
	if len(missing) == 0 {
		return nil
	}
	unlock, err := b.lock(ctx, out)
	if err != nil {
		return err
	}
	defer unlock()
	for _, t := range missing {
		if exists(b.paths[t.name]) {
			continue // whoever held the lock before has built it
		}
		if err := b.buildTool(ctx, dir, t); err != nil {
			return err
		}
	}
	return nil
}

func (b *Binaries) buildTool(ctx context.Context, dir string, t tool) error {
	version, err := goOutput(ctx, dir, "list", "-m", "-f={{.Version}}", t.version)
	if err != nil {
		return fmt.Errorf("build %s: %w", t.name, err)
	}
	path := b.paths[t.name]
	args := append([]string{"build", "-o", path + ".new"}, buildFlags()...)
	text := fmt.Sprintf("building %s %s (first time only, some minutes)", t.name, version)
	err = b.report(text, func() error { return goBuild(ctx, dir, append(args, t.pkg)) })
	if err != nil {
		return fmt.Errorf("build %s %s: %w", t.name, version, err)
	}
	return os.Rename(path+".new", path)
}

// report runs step and says so at its begin, now and then, and at its end.
func (b *Binaries) report(text string, step func() error) error {
	started := time.Now()
	fmt.Fprintf(b.progress, "%s ...\n", text)
	done := make(chan error, 1)
	go func() { done <- step() }()
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			if err == nil {
				fmt.Fprintf(b.progress, "%s ... done, %.0fs\n", text, time.Since(started).Seconds())
			}
			return err
		case <-ticker.C:
			fmt.Fprintf(b.progress, "%s ... %.0fs\n", text, time.Since(started).Seconds())
		}
	}
}

// lock holds a folder against other processes.
func (b *Binaries) lock(ctx context.Context, dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	ticker := time.NewTicker(progressInterval / 60)
	defer ticker.Stop()
	for tries := 0; ; tries++ {
		// Polled rather than waited for, because a blocking flock cannot be called off.
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		} else if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
		}
		if tries%60 == 0 {
			fmt.Fprintf(b.progress, "waiting for another process that builds in %s\n", dir)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, context.Cause(ctx)), f.Close())
		}
	}
}

// cacheKey changes with everything that changes the programs of a tool module.
func cacheKey(ctx context.Context, dir string) (string, error) {
	version, err := goOutput(ctx, dir, "env", "GOVERSION", "GOOS", "GOARCH")
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	fmt.Fprintln(sum, version, buildFlags())
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		sum.Write(content)
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:6]), nil
}

// findRoot walks up from the working directory to the checkout's go.mod.
func findRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find checkout: %w", err)
	}
	module := regexp.MustCompile(`(?m)^module ` + regexp.QuoteMeta(modulePath) + `$`)
	for dir := start; ; dir = filepath.Dir(dir) {
		content, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		switch {
		case err == nil && module.Match(content):
			return dir, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("find checkout: %w", err)
		case dir == filepath.Dir(dir):
			return "", fmt.Errorf("find checkout: no go.mod of %s in %s or above", modulePath, start)
		}
	}
}

func goBuild(ctx context.Context, dir string, args []string) error {
	_, err := goOutput(ctx, dir, args...)
	return err
}

// goOutput runs the go command in a module, and in no workspace around it.
func goOutput(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run go %s: %w\n%s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
