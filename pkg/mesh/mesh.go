package mesh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/fsnotify/fsnotify"
	"github.com/go-logr/logr"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshpdb/meshpdb/pkg/claim"
)

// Config of a Mesh.
type Config struct {
	// Cluster is the own cluster's Cilium name.
	Cluster string
	// Peers is the ClusterMesh configuration directory: one etcd client file per
	// peer, named like it. The own cluster's file is ignored.
	Peers string
	// OwnKVStore is the etcd client file of the own ClusterMesh: one endpoint per
	// clustermesh-apiserver instance, with the admin certificate.
	OwnKVStore string
	// Discovered, if not nil, replaces the endpoints of OwnKVStore by those of the
	// instances' pods, each with the given TLS server name.
	Discovered *Discovery
	// Log receives what people should know of peers that come, go or fail.
	Log logr.Logger
	// Changed is told what every change in any view is about: a namespace, one
	// budget of it as "namespace/name", or everything by "". It must not block.
	Changed func(subject string)
}

// Discovery tells the addresses (host:port) of the own kvstore's instances.
type Discovery struct {
	// ServerName that the instances' certificates carry.
	ServerName string

	mu        sync.Mutex
	addresses []string
}

// Set replaces the addresses; they take effect within the next rescan.
func (d *Discovery) Set(addresses []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addresses = slices.Sorted(slices.Values(addresses))
}

func (d *Discovery) get() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.addresses)
}

// rescan is how often the configuration is read again without an event:
// certificates that it names may lie in other folders.
const rescan = 2 * time.Second

// Mesh is all clusters whose kvstores this cluster can be asked about.
type Mesh struct {
	config Config
	own    *Own

	mu      sync.Mutex
	peers   map[string]*peer
	self    *peer
	changed chan struct{}
	ctx     context.Context
	running sync.WaitGroup
}

// peer is one etcd client file and what it led to.
type peer struct {
	file    *clientFile
	members []*Member
	err     error
	stop    func()
}

// renew takes up another certificate of the client. What works goes on working:
// kvstores check certificates at the handshake. What does not may do so with this one.
func (p *peer) renew(file *clientFile) {
	if p.file.pair == file.pair {
		return
	}
	p.file.pair = file.pair
	for _, member := range p.members {
		if member.failing() {
			member.reset()
		}
	}
}

// New checks the configuration; Run does the work.
func New(config Config) (*Mesh, error) {
	if err := cmtypes.ValidateClusterName(config.Cluster); err != nil {
		return nil, fmt.Errorf("cluster name %q: %w", config.Cluster, err)
	}
	if config.Peers == "" || config.OwnKVStore == "" {
		return nil, errors.New("the ClusterMesh configuration directory and the own kvstore's etcd client file must be given")
	}
	if config.Changed == nil {
		config.Changed = func(string) {}
	}
	return &Mesh{
		config: config, own: newOwn(config.Cluster), peers: map[string]*peer{},
		self:    &peer{err: errors.New("the own kvstore is not configured yet"), stop: func() {}},
		changed: make(chan struct{}),
	}, nil
}

// Own returns the own cluster's instances.
func (m *Mesh) Own() *Own { return m.own }

// Run follows the configuration and all members until ctx ends, and then
// closes every connection.
func (m *Mesh) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch ClusterMesh configuration: %w", err)
	}
	defer watcher.Close()
	m.mu.Lock()
	m.ctx = ctx
	m.mu.Unlock()
	defer m.shutdown()
	tick := time.NewTicker(rescan)
	defer tick.Stop()
	for {
		// The directories may appear later than we do; adding them again is harmless.
		_ = watcher.Add(m.config.Peers)
		_ = watcher.Add(filepath.Dir(m.config.OwnKVStore))
		m.scan()
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
		case err := <-watcher.Errors:
			m.config.Log.Error(err, "watch ClusterMesh configuration")
		case <-tick.C:
		}
	}
}

func (m *Mesh) shutdown() {
	m.mu.Lock()
	all := append(slices.Collect(maps.Values(m.peers)), m.self)
	m.mu.Unlock()
	for _, p := range all {
		p.stop()
	}
	m.running.Wait()
	m.own.close()
}

// scan brings peers and the own instances in line with the files.
func (m *Mesh) scan() {
	m.scanOwn()
	entries, err := os.ReadDir(m.config.Peers)
	if err != nil {
		m.config.Log.Error(err, "read ClusterMesh configuration directory", "directory", m.config.Peers)
		return
	}
	present := map[string]bool{}
	for _, e := range entries {
		name := e.Name()
		path := filepath.Join(m.config.Peers, name)
		// Certificates lie beside the client files, under names with a dot.
		if name == m.config.Cluster || cmtypes.ValidateClusterName(name) != nil {
			continue
		}
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			continue
		}
		present[name] = true
		m.scanPeer(name, path)
	}
	for _, name := range m.Peers() {
		if !present[name] {
			m.config.Log.Info("peer removed from the ClusterMesh configuration", "peer", name)
			m.setPeer(name, nil)
		}
	}
}

func (m *Mesh) scanPeer(name, path string) {
	m.mu.Lock()
	old := m.peers[name]
	m.mu.Unlock()
	file, err := readClientFile(path)
	if err == nil && old != nil && old.file != nil && old.file.hash == file.hash {
		old.renew(file)
		return
	}
	if err == nil {
		client, reset, dialErr := file.dial(file.Endpoints, "", "")
		if err = dialErr; err == nil {
			m.config.Log.Info("peer configured", "peer", name, "endpoints", file.Endpoints)
			member := m.newMember(name, client, reset, file)
			m.setPeer(name, m.follow(&peer{file: file, members: []*Member{member}}, func() { client.Close() }))
			return
		}
	}
	if old != nil && old.err != nil && old.err.Error() == err.Error() {
		return
	}
	m.config.Log.Error(err, "peer file cannot be used", "peer", name)
	m.setPeer(name, &peer{err: err, stop: func() {}})
}

func (m *Mesh) scanOwn() {
	file, err := readClientFile(m.config.OwnKVStore)
	m.mu.Lock()
	old := m.self
	m.mu.Unlock()
	serverName := ""
	if err == nil && m.config.Discovered != nil {
		serverName = m.config.Discovered.ServerName
		err = file.replaceEndpoints(m.config.Discovered.get())
	}
	if err == nil && old.file != nil && old.file.hash == file.hash {
		old.renew(file)
		return
	}
	if err == nil {
		err = m.own.configure(file, serverName)
	}
	if err != nil {
		if old.err == nil || old.err.Error() != err.Error() {
			m.config.Log.Error(err, "own kvstore cannot be used")
			m.own.fail(err)
		}
		// Instances that work go on working.
		m.mu.Lock()
		m.self.err = err
		m.mu.Unlock()
		return
	}
	m.config.Log.Info("own kvstore configured", "instances", m.own.Instances())
	m.followOwn(file)
}

// followOwn begins views of the own instances as they are configured now.
func (m *Mesh) followOwn(file *clientFile) {
	fresh := &peer{file: file}
	for _, name := range m.own.Instances() {
		if i, err := m.own.instance(name); err == nil {
			member := m.newMember(m.config.Cluster, i.client, i.reset, file)
			member.instance = name
			fresh.members = append(fresh.members, member)
		}
	}
	m.mu.Lock()
	old := m.self
	m.self = m.follow(fresh, func() {})
	m.mu.Unlock()
	old.stop()
	m.notify("")
}

func (m *Mesh) newMember(cluster string, client *clientv3.Client, reset func(), file *clientFile) *Member {
	member := newMember(cluster, client, m.explain(file), m.notify)
	member.reset = reset
	member.peers = func() int { return 1 + len(m.Peers()) }
	return member
}

// follow starts the standing views of p's members. The returned peer's stop
// ends them and waits.
func (m *Mesh) follow(p *peer, cleanup func()) *peer {
	ctx, cancel := context.WithCancel(m.ctx)
	var members sync.WaitGroup
	for _, member := range p.members {
		m.running.Add(1)
		members.Add(1)
		go func() {
			defer m.running.Done()
			defer members.Done()
			member.follow(ctx)
		}()
	}
	p.stop = sync.OnceFunc(func() {
		cancel()
		members.Wait()
		cleanup()
	})
	return p
}

func (m *Mesh) setPeer(name string, p *peer) {
	m.mu.Lock()
	old := m.peers[name]
	if p == nil {
		delete(m.peers, name)
	} else {
		m.peers[name] = p
	}
	m.mu.Unlock()
	if old != nil {
		old.stop()
	}
	m.notify("")
}

func (m *Mesh) explain(f *clientFile) func(error) error {
	if f == nil {
		return unreachable
	}
	return func(err error) error {
		if problem := f.certificateError(time.Now()); problem != nil {
			return problem
		}
		return unreachable(err)
	}
}

func (m *Mesh) notify(namespace string) {
	m.mu.Lock()
	close(m.changed)
	m.changed = make(chan struct{})
	m.mu.Unlock()
	m.config.Changed(namespace)
}

// Changes returns a channel that is closed at the next change of any view.
func (m *Mesh) Changes() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Peers returns the names of the configured peers, sorted.
func (m *Mesh) Peers() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.peers))
}

func (m *Mesh) members(cluster string) ([]*Member, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch p := m.peerOf(cluster); {
	case p == nil:
		return nil, errors.New("it is not in this cluster's ClusterMesh configuration")
	case len(p.members) == 0 && p.err != nil:
		return nil, p.err
	default:
		return p.members, nil
	}
}

// peerOf returns a peer, or the own cluster; nil if it is not configured. It needs m.mu.
func (m *Mesh) peerOf(cluster string) *peer {
	if cluster == m.config.Cluster {
		return m.self
	}
	return m.peers[cluster]
}

// clusters returns the names of all clusters, the own one first.
func (m *Mesh) clusters() []string { return append([]string{m.config.Cluster}, m.Peers()...) }

// Snapshot reads a cluster afresh (R3): a peer through its Service, the own
// cluster through any instance with a marker.
func (m *Mesh) Snapshot(ctx context.Context, cluster string, q Query) claim.Snapshot {
	return m.first(cluster, func(member *Member) claim.Snapshot { return member.Snapshot(ctx, q) })
}

// Cached returns the standing view of a cluster. Never grant from it.
func (m *Mesh) Cached(cluster string, q Query) claim.Snapshot {
	return m.first(cluster, func(member *Member) claim.Snapshot { return member.Cached(q) })
}

func (m *Mesh) first(cluster string, read func(*Member) claim.Snapshot) claim.Snapshot {
	members, err := m.members(cluster)
	if err != nil {
		return claim.Snapshot{Cluster: cluster, Invalid: err.Error()}
	}
	s := claim.Snapshot{Cluster: cluster, Invalid: "its kvstore has no instance"}
	for _, member := range members {
		if s = read(member); s.Invalid == "" {
			break
		}
	}
	return s
}
