package sandbox

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	clientyaml "go.etcd.io/etcd/client/v3/yaml"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"sigs.k8s.io/yaml"
)

// etcdFile is an etcd client file with Cilium's extension, as the Helm chart writes it.
type etcdFile struct {
	Endpoints     []string    `json:"endpoints"`
	TrustedCAFile string      `json:"trusted-ca-file"`
	KeyFile       string      `json:"key-file"`
	CertFile      string      `json:"cert-file"`
	HostAliases   []hostAlias `json:"cilium-host-aliases,omitempty"`
}

type hostAlias struct {
	Hostname string   `json:"hostname"`
	IPs      []string `json:"ips"`
}

// clientFiles are the names of the files in a folder by which a client proves who it is.
type clientFiles struct{ ca, cert, key string }

// peerFiles are their names beside peer files.
func peerFiles() clientFiles {
	return clientFiles{"common-etcd-client-ca.crt", "common-etcd-client.crt", "common-etcd-client.key"}
}

// storeFiles are their names beside the client file of the own kvstore.
func storeFiles() clientFiles { return clientFiles{"ca.crt", "tls.crt", "tls.key"} }

func etcdClientFile(endpoints []string, dir string, files clientFiles, aliases []hostAlias) ([]byte, error) {
	content, err := yaml.Marshal(etcdFile{
		Endpoints:     endpoints,
		TrustedCAFile: filepath.Join(dir, files.ca),
		KeyFile:       filepath.Join(dir, files.key),
		CertFile:      filepath.Join(dir, files.cert),
		HostAliases:   aliases,
	})
	if err != nil {
		return nil, fmt.Errorf("make etcd client file: %w", err)
	}
	return content, nil
}

// joinMesh opens the Service of each cluster's instances and the links to them, and writes what tells of them.
func (m *Mesh) joinMesh() error {
	for _, c := range m.Clusters {
		l, err := m.addresses.listen(c.addr)
		if err != nil {
			return err
		}
		c.store = newBalancer(l, c.readyInstances)
	}
	for _, from := range m.Clusters {
		for _, to := range m.Clusters {
			if from == to {
				continue
			}
			err := m.addresses.retryClash(to.addr, 1, func(ports []string) (err error) {
				from.links[to.Name], err = newLink(from.Name, to.Name, ports[0], to.store.address())
				return err
			})
			if err != nil {
				return err
			}
		}
		if err := from.writePeerDir(from.PeerDir); err != nil {
			return err
		}
		if err := from.writeKVStoreDirs(); err != nil {
			return err
		}
	}
	return m.SetRTT(m.options.RTT)
}

// writePeerDir writes one file per peer, and the certificate that they name.
func (c *Cluster) writePeerDir(dir string) error {
	names := peerFiles()
	if err := c.writeCredentials(dir, names, "remote"); err != nil {
		return err
	}
	files := map[string][]byte{} // last, so that whoever watches finds what they name
	for peer, l := range c.links {
		host, port, err := net.SplitHostPort(l.proxy.Listen)
		if err != nil {
			return fmt.Errorf("write peers of %s: %w", c.Name, err)
		}
		name := peer + ".mesh.cilium.io"
		files[peer], err = etcdClientFile([]string{"https://" + net.JoinHostPort(name, port)}, dir, names,
			[]hostAlias{{Hostname: name, IPs: []string{host}}})
		if err != nil {
			return err
		}
	}
	return writeFiles(dir, files)
}

// writeKVStoreDirs brings the cluster's kvstore directory and its controllers' copies up to date.
func (c *Cluster) writeKVStoreDirs() error {
	c.mu.Lock()
	dirs := []string{c.KVStoreDir}
	for _, controller := range c.Controllers {
		dirs = append(dirs, controller.KVStoreDir)
	}
	c.mu.Unlock()
	for _, dir := range dirs {
		if err := c.writeKVStoreDir(dir); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) writeKVStoreDir(dir string) error {
	names := storeFiles()
	if !exists(filepath.Join(dir, names.cert)) {
		if err := c.writeCredentials(dir, names, c.adminUser()); err != nil {
			return err
		}
	}
	c.mu.Lock()
	endpoints := make([]string, 0, len(c.Instances))
	for _, i := range c.Instances {
		endpoints = append(endpoints, i.Endpoint)
	}
	c.mu.Unlock()
	content, err := etcdClientFile(endpoints, dir, names, nil)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "etcd.yaml"), content)
}

// PeerClient is an etcd client for a peer, made of the peer file as a real reader does: user remote, through the link.
// The caller closes it.
func (c *Cluster) PeerClient(ctx context.Context, peer string) (*clientv3.Client, error) {
	client, err := openEtcdFile(ctx, filepath.Join(c.PeerDir, peer))
	if err != nil {
		return nil, fmt.Errorf("open peer %s of %s: %w", peer, c.Name, err)
	}
	return client, nil
}

// openEtcdFile makes a client of an etcd client file. It does not wait for a connection.
func openEtcdFile(ctx context.Context, path string) (*clientv3.Client, error) {
	config, err := clientyaml.NewConfig(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var file etcdFile
	if err := yaml.Unmarshal(content, &file); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	config.Context, config.Logger, config.DialTimeout = context.WithoutCancel(ctx), zap.NewNop(), etcdDialTimeout
	config.DialOptions = append(config.DialOptions, grpc.WithContextDialer(dialAliases(file.HostAliases)))
	return clientv3.New(*config)
}

// dialAliases dials host names by the addresses that a peer file gives them.
func dialAliases(aliases []hostAlias) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		for _, a := range aliases {
			if a.Hostname == host && len(a.IPs) > 0 {
				host = a.IPs[0]
			}
		}
		return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	}
}

// IssueRemoteCert writes a client certificate of the etcd user remote, valid from notBefore to notAfter, to put in
// the place of a peer directory's: for tests of certificates that expire or rotate.
func (m *Mesh) IssueRemoteCert(dir string, notBefore, notAfter time.Time) (certFile, keyFile string, err error) {
	pair, err := m.ca.issue(subject{name: "remote", notBefore: notBefore, notAfter: notAfter})
	if err != nil {
		return "", "", err
	}
	names := peerFiles()
	err = writeFiles(dir, map[string][]byte{names.cert: pair.cert, names.key: pair.key})
	return filepath.Join(dir, names.cert), filepath.Join(dir, names.key), err
}

// SetRTT changes the round-trip time between all clusters, for open connections too.
func (m *Mesh) SetRTT(rtt time.Duration) error {
	if err := (Options{RTT: rtt}).validateRTT(); err != nil {
		return fmt.Errorf("set round-trip time: %w", err)
	}
	for _, c := range m.Clusters {
		for _, l := range c.links {
			if err := l.setRTT(rtt); err != nil {
				return err
			}
		}
	}
	return nil
}

// Partition cuts the path by which cluster from reads cluster to. The opposite path is another one.
func (m *Mesh) Partition(from, to string) error { return m.setCut(from, to, true) }

// Heal repairs the path by which cluster from reads cluster to.
func (m *Mesh) Heal(from, to string) error { return m.setCut(from, to, false) }

// Isolate cuts all paths to and from a cluster.
func (m *Mesh) Isolate(name string) error { return m.setAllCut(name, true) }

// Rejoin repairs all paths to and from a cluster.
func (m *Mesh) Rejoin(name string) error { return m.setAllCut(name, false) }

func (m *Mesh) setAllCut(name string, cut bool) error {
	c, err := m.Cluster(name)
	if err != nil {
		return err
	}
	for _, peer := range slices.Sorted(maps.Keys(c.links)) {
		if err := m.setCut(name, peer, cut); err != nil {
			return err
		}
		if err := m.setCut(peer, name, cut); err != nil {
			return err
		}
	}
	return nil
}

func (m *Mesh) setCut(from, to string, cut bool) error {
	c, err := m.Cluster(from)
	if err != nil {
		return err
	}
	l, ok := c.links[to]
	if !ok {
		return fmt.Errorf("find link %s->%s: no such peer", from, to)
	}
	return l.setCut(cut)
}
