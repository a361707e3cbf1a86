package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	etcdinit "github.com/cilium/cilium/pkg/kvstore/etcdinit"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Instance is one clustermesh-apiserver replica: an etcd of its own and the exporter that fills it.
type Instance struct {
	// Name is clustermesh-1, clustermesh-2, ...
	Name string
	// Endpoint is the https URL of its etcd. It stays the same when the instance is killed and started.
	Endpoint string

	cluster *Cluster
	dir     string
	client  string // host:port of etcd for clients
	peer    string // and for other members, of which there are none
	health  string // port of the exporter

	// Guarded by cluster.mu.
	program  string // of the exporter; "" is the usual one
	store    *process
	exporter *process
	ready    bool // the balancer selects it, as a Service selects ready pods
}

// newInstance appends an instance to the cluster. It gets its ports here and runs nothing yet.
func (c *Cluster) newInstance() (*Instance, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ports, err := c.mesh.addresses.free(c.addr, 2)
	if err != nil {
		return nil, err
	}
	// The exporter listens on all addresses, so its port has to be free on all of them.
	health, err := c.mesh.addresses.free("0.0.0.0", 1)
	if err != nil {
		return nil, err
	}
	c.nextInstance++
	name := fmt.Sprintf("clustermesh-%d", c.nextInstance)
	i := &Instance{
		Name: name, Endpoint: "https://" + ports[0],
		cluster: c, dir: filepath.Join(c.dir, name), client: ports[0], peer: ports[1], health: portOf(health[0]),
	}
	if err := i.writeFiles(); err != nil {
		return nil, err
	}
	c.Instances = append(c.Instances, i)
	return i, nil
}

func (i *Instance) writeFiles() error {
	c := i.cluster
	// The names that Cilium's Helm chart issues the certificate for, and the address by which the own cluster dials.
	server, err := c.mesh.ca.issue(subject{name: "clustermesh-apiserver.cilium.io", hosts: []string{
		"clustermesh-apiserver.cilium.io", "*.mesh.cilium.io", "clustermesh-apiserver.kube-system.svc",
		"localhost", "127.0.0.1", c.addr,
	}})
	if err != nil {
		return err
	}
	admin, err := c.mesh.ca.issue(subject{name: c.adminUser()})
	if err != nil {
		return err
	}
	config, err := etcdClientFile([]string{i.Endpoint}, i.dir, clientFiles{"ca.crt", "admin.crt", "admin.key"}, nil)
	if err != nil {
		return err
	}
	return writeFiles(i.dir, map[string][]byte{
		"ca.crt": c.mesh.ca.pem, "server.crt": server.cert, "server.key": server.key,
		"admin.crt": admin.cert, "admin.key": admin.key, "etcd.yaml": config,
	})
}

// adminUser is the etcd user with the root role.
func (c *Cluster) adminUser() string { return "admin-" + c.Name }

// startStore starts a fresh, empty etcd and gives it Cilium's users and roles.
func (i *Instance) startStore(ctx context.Context) error {
	data := filepath.Join(i.dir, "data")
	if err := os.RemoveAll(data); err != nil {
		return fmt.Errorf("empty store of %s: %w", i.Name, err)
	}
	command := i.cluster.component("etcd", // as the Helm chart runs it, but for the addresses
		"--data-dir="+data,
		"--name=clustermesh-apiserver",
		"--client-cert-auth",
		"--trusted-ca-file="+filepath.Join(i.dir, "ca.crt"),
		"--cert-file="+filepath.Join(i.dir, "server.crt"),
		"--key-file="+filepath.Join(i.dir, "server.key"),
		"--listen-client-urls="+i.Endpoint,
		"--advertise-client-urls=https://localhost:2379", // of no use to anyone, and what Cilium advertises
		"--listen-peer-urls=http://"+i.peer, "--initial-advertise-peer-urls=http://"+i.peer,
		"--initial-cluster=clustermesh-apiserver=http://"+i.peer,
		"--auto-compaction-retention=1",
		"--enable-grpc-gateway=false",
	)
	command.name, command.dir = i.cluster.Name+" etcd of "+i.Name, i.dir
	command.log = i.cluster.logPath(i.Name + "-etcd")
	p, err := i.cluster.mesh.launcher.start(command)
	if err != nil {
		return err
	}
	i.update(func() { i.store = p })
	client, err := i.AdminClient(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := p.awaitReady(ctx, func(ctx context.Context) error {
		_, err := client.Status(ctx, i.Endpoint)
		return err
	}); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if err := etcdinit.ClusterMeshEtcdInit(ctx, log, client, i.cluster.Name); err != nil {
		return fmt.Errorf("make users of %s %s: %w", i.cluster.Name, i.Name, err)
	}
	return nil
}

// startExporter starts clustermesh-apiserver and opens the instance to readers once everything is exported.
func (i *Instance) startExporter(ctx context.Context) error {
	c := i.cluster
	kubeconfig, err := c.kubeconfigFor(i.Name, subject{name: "clustermesh-apiserver", groups: []string{"system:masters"}})
	if err != nil {
		return err
	}
	command := c.component("clustermesh-apiserver", "clustermesh",
		"--cluster-name="+c.Name,
		fmt.Sprintf("--cluster-id=%d", c.ID),
		"--k8s-kubeconfig-path="+kubeconfig,
		"--kvstore-opt=etcd.config="+filepath.Join(i.dir, "etcd.yaml"),
		"--kvstore-opt=etcd.bootstrapQps=10000",
		"--health-port="+i.health,
		"--shell-sock-path=shell.sock", // relative: a socket's path has to be short
		"--gops-port=0", "--enable-gops=false",
		"--pprof=false",
		"--prometheus-serve-addr=",
	)
	i.update(func() { command.path = cmp.Or(i.program, command.path) })
	command.name, command.dir = c.Name+" clustermesh-apiserver of "+i.Name, i.dir
	command.log = c.logPath(i.Name + "-apiserver")
	p, err := c.mesh.launcher.start(command)
	if err != nil {
		return err
	}
	i.update(func() { i.exporter = p })
	if err := p.awaitReady(ctx, getOK(http.DefaultTransport, "http://127.0.0.1:"+i.health+"/readyz")); err != nil {
		return err
	}
	i.update(func() { i.ready = true })
	return nil
}

func (i *Instance) update(change func()) {
	i.cluster.mu.Lock()
	defer i.cluster.mu.Unlock()
	change()
}

func (i *Instance) processes() (store, exporter *process) {
	i.cluster.mu.Lock()
	defer i.cluster.mu.Unlock()
	return i.store, i.exporter
}

// Kill ends etcd and exporter as a crash of their node would. All that the etcd held is lost.
func (i *Instance) Kill(context.Context) error {
	i.update(func() { i.ready = false })
	store, exporter := i.processes()
	for _, p := range []*process{exporter, store} {
		if p != nil {
			p.kill()
		}
	}
	return nil
}

// Start brings a killed instance back on the same port: empty, and after that filled again by its exporter. It
// returns when the instance is ready. Between, it is dialled by nobody but its own cluster, as behind a Service.
func (i *Instance) Start(ctx context.Context) error {
	if i.Running() {
		return fmt.Errorf("start %s %s: runs already", i.cluster.Name, i.Name)
	}
	if err := i.startStore(ctx); err != nil {
		return err
	}
	return i.startExporter(ctx)
}

// KillExporter ends only clustermesh-apiserver: the etcd stands, and what it shows of services and endpoints gets old.
// The instance is not ready meanwhile, so no new connection is led to it.
func (i *Instance) KillExporter() {
	i.update(func() { i.ready = false })
	if _, exporter := i.processes(); exporter != nil {
		exporter.kill()
	}
}

// StartExporter brings clustermesh-apiserver back beside an etcd that runs, and returns when the instance is ready.
func (i *Instance) StartExporter(ctx context.Context) error {
	if store, exporter := i.processes(); !store.running() || exporter.running() {
		return fmt.Errorf("start exporter of %s %s: it runs already, or its etcd does not", i.cluster.Name, i.Name)
	}
	return i.startExporter(ctx)
}

// SetExporter makes another program the clustermesh-apiserver that the next start runs; "" is the usual one.
func (i *Instance) SetExporter(program string) { i.update(func() { i.program = program }) }

// FreezeStore stops the etcd in its tracks: it accepts connections and answers nothing, until ThawStore.
func (i *Instance) FreezeStore() error {
	store, _ := i.processes()
	return store.signal(syscall.SIGSTOP)
}

// ThawStore lets a frozen etcd go on.
func (i *Instance) ThawStore() error {
	store, _ := i.processes()
	return store.signal(syscall.SIGCONT)
}

// Running tells whether both processes of the instance run.
func (i *Instance) Running() bool {
	store, exporter := i.processes()
	return store.running() && exporter.running()
}

// AdminClient is an etcd client with the root role, dialling the instance directly. The caller closes it.
func (i *Instance) AdminClient(ctx context.Context) (*clientv3.Client, error) {
	client, err := openEtcdFile(ctx, filepath.Join(i.dir, "etcd.yaml"))
	if err != nil {
		return nil, fmt.Errorf("open %s %s: %w", i.cluster.Name, i.Name, err)
	}
	return client, nil
}

// AddInstance starts one more clustermesh-apiserver replica. The own cluster's controllers learn of it before any
// reader can meet it.
func (c *Cluster) AddInstance(ctx context.Context) (*Instance, error) {
	i, err := c.newInstance()
	if err != nil {
		return nil, err
	}
	if err := i.startStore(ctx); err != nil {
		return nil, errors.Join(err, c.RemoveInstance(ctx, i))
	}
	if err := c.writeKVStoreDirs(); err != nil {
		return nil, errors.Join(err, c.RemoveInstance(ctx, i))
	}
	if err := i.startExporter(ctx); err != nil {
		return nil, errors.Join(err, c.RemoveInstance(ctx, i))
	}
	return i, nil
}

// RemoveInstance ends a replica for good. Readers lose it first, then the own cluster's controllers are told.
func (c *Cluster) RemoveInstance(ctx context.Context, i *Instance) error {
	if err := i.Kill(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	c.Instances = slices.DeleteFunc(slices.Clone(c.Instances), func(other *Instance) bool { return other == i })
	c.mu.Unlock()
	return c.writeKVStoreDirs()
}

// readyInstances are the backends of the clustermesh-apiserver Service.
func (c *Cluster) readyInstances() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []string
	for _, i := range c.Instances {
		if i.ready {
			found = append(found, i.client)
		}
	}
	return found
}

// etcdDialTimeout bounds how long a client that the sandbox makes waits for a connection.
const etcdDialTimeout = 5 * time.Second
