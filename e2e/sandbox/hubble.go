package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// Hubble builds Cilium's own hubble and hubble-relay, and this checkout's meshpdb-hubble-peers, and returns their paths.
func (b *Binaries) Hubble(ctx context.Context) (cli, relay, peers string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", "", "", fmt.Errorf("build hubble: %w", err)
	}
	dir := filepath.Join(b.Root, ".tools", "cilium")
	key, err := cacheKey(ctx, dir)
	if err != nil {
		return "", "", "", fmt.Errorf("build hubble: %w", err)
	}
	const cilium = "github.com/cilium/cilium"
	built := &Binaries{Root: b.Root, paths: map[string]string{}, progress: b.progress}
	err = built.buildModule(ctx, dir, filepath.Join(cache, "meshpdb-sandbox", "cilium-"+key), []tool{
		{"hubble", cilium + "/hubble", cilium}, {"hubble-relay", cilium + "/hubble-relay", cilium},
	})
	if err != nil {
		return "", "", "", fmt.Errorf("build hubble: %w", err)
	}
	out, err := os.MkdirTemp("", "meshpdb-hubble-peers-")
	if err != nil {
		return "", "", "", fmt.Errorf("build hubble: %w", err)
	}
	peers = filepath.Join(out, "meshpdb-hubble-peers")
	if err := goBuild(ctx, b.Root, []string{"build", "-o", peers, "./cmd/meshpdb-hubble-peers"}); err != nil {
		return "", "", "", errors.Join(fmt.Errorf("build meshpdb-hubble-peers: %w", err), os.RemoveAll(out))
	}
	return built.path("hubble"), built.path("hubble-relay"), peers, nil
}

// HubbleCertificate writes tls.crt, tls.key and ca.crt to a folder, as Cilium's chart issues them to Hubble's servers and to Relay.
func (c *Cluster) HubbleCertificate(dir string) error {
	name := "*." + c.Name + ".hubble-grpc.cilium.io"
	pair, err := c.mesh.ca.issue(subject{name: name, hosts: []string{name}})
	if err != nil {
		return err
	}
	return writeFiles(dir, map[string][]byte{"tls.crt": pair.cert, "tls.key": pair.key, "ca.crt": c.mesh.ca.pem})
}

// FreeAddresses returns host:port pairs of the cluster that nobody listens on.
func (c *Cluster) FreeAddresses(n int) ([]string, error) { return c.mesh.addresses.free(c.addr, n) }

// Program is a program to run beside a cluster.
type Program struct {
	Name, Path string
	Args, Env  []string
	// Address that it listens on once it is ready.
	Address string
}

// Run runs a program until the mesh ends, and returns when it listens.
func (c *Cluster) Run(ctx context.Context, p Program) (*Part, error) {
	return c.launch(ctx, command{
		name: c.Name + " " + p.Name, path: p.Path, args: p.Args, env: p.Env, dir: filepath.Join(c.dir, p.Name), log: c.logPath(p.Name),
	}, func(ctx context.Context) error {
		connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.Address)
		if err != nil {
			return err
		}
		return connection.Close()
	})
}
