package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// KubectlCommand is the real kubectl with the administrator's credentials, not started yet. It reads and writes nothing
// of the user's: neither configuration nor cache.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	home := filepath.Join(c.dir, "kubectl")
	flags := []string{"--kubeconfig=" + c.Kubeconfig, "--cache-dir=" + filepath.Join(home, "cache")}
	cmd := exec.CommandContext(ctx, c.mesh.Binaries.path("kubectl"), append(flags, args...)...)
	cmd.Env = append(childEnvironment(os.Environ()), "HOME="+home)
	return cmd
}

// Kubectl runs the real kubectl and returns its standard output. The error has what it wrote to the other one.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	cmd := c.KubectlCommand(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("run kubectl %s in %s: %w: %s", strings.Join(args, " "), c.Name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
