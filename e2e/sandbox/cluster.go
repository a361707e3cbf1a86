package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"golang.org/x/sync/errgroup"
)

// Cluster is one Kubernetes cluster of a mesh.
type Cluster struct {
	// Name is c1, c2, ..., also the name of its kubectl context.
	Name string
	// ID is Cilium's cluster ID.
	ID int
	// Kubeconfig is the path of the administrator's kubeconfig.
	Kubeconfig string
	// Etcd is the host:port of the etcd of Kubernetes, which asks nobody who he is.
	Etcd string
	// APIServer is kube-apiserver, and KubeEtcd the etcd behind it, which keeps what it was given when it is killed.
	APIServer, KubeEtcd *Part
	// ControllerManager is kube-controller-manager, nil in a Bare sandbox. Nothing tells when it is ready: it counts as
	// started as soon as it runs.
	ControllerManager *Part
	// Client and Config are the administrator's.
	Client kubernetes.Interface
	Config *rest.Config
	// Instances are the clustermesh-apiserver replicas.
	Instances []*Instance
	// Controllers are the meshpdb-controller processes.
	Controllers []*Controller
	// PeerDir holds one etcd client file per peer, as the Secret cilium-kvstoremesh does. The controllers have copies.
	PeerDir string
	// KVStoreDir holds etcd.yaml, with the endpoints of all own instances and the administrator's certificate. The
	// controllers have copies.
	KVStoreDir string

	mesh     *Mesh
	dir      string
	addr     string // loopback address of everything of this cluster
	server   string // host:port of kube-apiserver
	ca       *authority
	store    *balancer        // in front of the instances
	links    map[string]*link // by peer
	webhooks *balancer        // in front of the controllers' webhooks

	mu            sync.Mutex // guards the lists above against the balancers
	nextInstance  int
	webhookConfig []applied // webhook configurations to remove with the controllers
}

func newCluster(m *Mesh, id int) (*Cluster, error) {
	name := fmt.Sprintf("c%d", id)
	dir := filepath.Join(m.Dir, name)
	ca, err := newAuthority("kubernetes " + name)
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		Name: name, ID: id,
		Kubeconfig: filepath.Join(dir, "kubeconfig"),
		PeerDir:    filepath.Join(dir, "clustermesh"),
		KVStoreDir: filepath.Join(dir, "kvstore"),
		mesh:       m, dir: dir, addr: m.addresses.host(id), ca: ca, links: map[string]*link{},
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make cluster %s: %w", name, err)
	}
	return c, nil
}

// start brings the cluster and its instances up.
func (c *Cluster) start(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	bootstrapped := make(chan struct{})
	group.Go(func() error {
		if err := c.startControlPlane(ctx, bootstrapped); err != nil {
			return err
		}
		c.mesh.progressf("%s: Kubernetes is up", c.Name)
		return nil
	})
	for range c.mesh.options.Instances {
		i, err := c.newInstance()
		if err != nil {
			return errors.Join(err, group.Wait())
		}
		group.Go(func() error {
			// etcd can begin before there is a Kubernetes to export.
			if err := i.startStore(ctx); err != nil {
				return err
			}
			select {
			case <-bootstrapped:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if err := i.startExporter(ctx); err != nil {
				return err
			}
			c.mesh.progressf("%s: %s is up", c.Name, i.Name)
			return nil
		})
	}
	return group.Wait()
}

// startControlPlane closes bootstrapped once the API has what clustermesh-apiserver waits for.
func (c *Cluster) startControlPlane(ctx context.Context, bootstrapped chan<- struct{}) error {
	var err error
	if c.Etcd, err = c.startEtcd(ctx); err != nil {
		return err
	}
	if err := c.startAPIServer(ctx, c.Etcd); err != nil {
		return err
	}
	if !c.mesh.options.Bare {
		if err := c.startControllerManager(ctx); err != nil {
			return err
		}
	}
	if !c.mesh.options.NoMesh {
		if err := c.applyCiliumDefinitions(ctx); err != nil {
			return err
		}
	}
	close(bootstrapped)
	if err := c.createNodes(ctx); err != nil {
		return err
	}
	if c.mesh.options.Bare {
		return nil
	}
	if err := errors.Join(c.startScheduler(), c.startKwok()); err != nil {
		return err
	}
	return c.awaitUsable(ctx)
}

func (c *Cluster) createNodes(ctx context.Context) error {
	kubelets := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "sandbox-kwok"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: kwokUser}},
	}
	if _, err := c.Client.RbacV1().ClusterRoleBindings().Create(ctx, kubelets, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("prepare nodes of %s: %w", c.Name, err)
	}
	for i := range c.mesh.options.Nodes {
		name := fmt.Sprintf("%s-node-%d", c.Name, i+1)
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname:       name,
			corev1.LabelOSStable:       "linux",
			corev1.LabelArchStable:     "amd64",
			corev1.LabelTopologyZone:   fmt.Sprintf("%s-zone-%d", c.Name, i%3+1),
			corev1.LabelTopologyRegion: c.Name,
		}}}
		if _, err := c.Client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create node %s: %w", name, err)
		}
	}
	return nil
}

// awaitUsable waits until a pod can be created and scheduled: the nodes are ready and free of the taint that new ones
// have, and the default service account exists.
func (c *Cluster) awaitUsable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return poll(ctx, nil, func(ctx context.Context) error {
		if err := c.mesh.launcher.failures(); err != nil {
			return stopPolling{err}
		}
		_, err := c.Client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("await %s: %w", c.Name, err)
		}
		nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return fmt.Errorf("await %s: %w", c.Name, err)
		}
		for _, n := range nodes.Items {
			if !nodeUsable(n) {
				return fmt.Errorf("await %s: node %s is not ready", c.Name, n.Name)
			}
		}
		if len(nodes.Items) < c.mesh.options.Nodes {
			return fmt.Errorf("await %s: %d of %d nodes", c.Name, len(nodes.Items), c.mesh.options.Nodes)
		}
		return nil
	})
}

func nodeUsable(n corev1.Node) bool {
	return len(n.Spec.Taints) == 0 && slices.ContainsFunc(n.Status.Conditions, func(nc corev1.NodeCondition) bool {
		return nc.Type == corev1.NodeReady && nc.Status == corev1.ConditionTrue
	})
}

// close ends what runs inside this process for the cluster.
func (c *Cluster) close() {
	for _, l := range c.links {
		l.close()
	}
	if c.store != nil {
		c.store.close()
	}
	if c.webhooks != nil {
		c.webhooks.close()
	}
}
