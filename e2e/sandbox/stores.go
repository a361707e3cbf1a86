package sandbox

import (
	"context"
	"fmt"
	"net"
	"path/filepath"

	"golang.org/x/sync/errgroup"
)

// NewStores starts the kvstores of clusters that have nothing else: no Kubernetes, no exporter, no links, and nothing
// in the stores. Readers and writers can then be measured in the caller's own process, on records that the caller
// puts there. Of Options, what concerns the rest of a cluster is ignored.
func NewStores(ctx context.Context, o Options) (*Mesh, error) {
	m, err := prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := m.startStores(ctx); err != nil {
		return nil, m.abort(err)
	}
	m.progressf("%d kvstores are up", len(m.Clusters)*m.options.Instances)
	return m, nil
}

func (m *Mesh) startStores(ctx context.Context) error {
	var instances []*Instance
	for id := range m.options.Clusters {
		c, err := newCluster(m, id+1)
		if err != nil {
			return err
		}
		m.Clusters = append(m.Clusters, c)
		for range m.options.Instances {
			i, err := c.newInstance()
			if err != nil {
				return err
			}
			instances = append(instances, i)
		}
		if err := c.writeKVStoreDirs(); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, i := range instances {
		group.Go(func() error { return i.startStore(ctx) })
	}
	return group.Wait()
}

// WritePeerFile writes the etcd client file of a peer to a folder, and beside it the certificates of the user remote if
// there are none yet. It leads to the instance directly. Several peers may lead to one instance: keys carry the name of
// their cluster.
func (i *Instance) WritePeerFile(dir, peer string) error {
	c, names := i.cluster, peerFiles()
	if !exists(filepath.Join(dir, names.key)) {
		if err := c.writeCredentials(dir, names, "remote"); err != nil {
			return err
		}
	}
	host, port, err := net.SplitHostPort(i.client)
	if err != nil {
		return fmt.Errorf("write peer file %s: %w", peer, err)
	}
	name := peer + ".mesh.cilium.io"
	content, err := etcdClientFile([]string{"https://" + net.JoinHostPort(name, port)}, dir, names,
		[]hostAlias{{Hostname: name, IPs: []string{host}}})
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, peer), content)
}
