package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sync/errgroup"
)

// The controller's service account and namespace, and the life of its token.
const (
	controllerNamespace = "kube-system"
	controllerAccount   = "meshpdb-controller"
	tokenLifetime       = 24 * 60 * 60 // seconds; tokens are not renewed
)

// Controller is one meshpdb-controller process.
type Controller struct {
	// Name is meshpdb-controller-1, ... and its POD_NAME.
	Name string
	// PeerDir and KVStoreDir are its own copies of the cluster's, for a test to spoil.
	PeerDir, KVStoreDir string
	// Kubeconfig is its own, with a token of its service account.
	Kubeconfig string
	// MetricsURL is where it serves metrics.
	MetricsURL string
	// Log is the file that it writes to.
	Log string

	cluster                  *Cluster
	command                  command
	flags                    []string // of command, those that the sandbox sets
	webhook, metrics, health string   // host:port
	process                  *process
}

// startDefaultControllers starts what Options asked for.
func (m *Mesh) startDefaultControllers(ctx context.Context) error {
	binary := m.options.ControllerBinary
	if binary == "" {
		var err error
		if binary, err = m.Binaries.Controller(ctx); err != nil {
			return err
		}
	}
	return m.StartControllers(ctx, binary, m.options.Controllers, m.options.ControllerArgs...)
}

// StartControllers applies the checkout's manifests to every cluster and starts controllers of the given program. It
// returns when all of them are ready.
func (m *Mesh) StartControllers(ctx context.Context, binary string, perCluster int, args ...string) error {
	if err := between("controllers", perCluster, maxInstances); err != nil {
		return fmt.Errorf("start controllers: %w", err)
	}
	binary, err := filepath.Abs(binary) // a controller has another working directory
	if err != nil || !exists(binary) {
		return fmt.Errorf("start controllers: no program %s", binary)
	}
	for _, c := range m.Clusters {
		if len(c.Controllers) > 0 {
			return fmt.Errorf("start controllers: %s has some already", c.Name)
		}
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, c := range m.Clusters {
		group.Go(func() error { return c.startControllers(groupCtx, binary, perCluster, args) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("start controllers: %w", errors.Join(err, m.StopControllers(context.WithoutCancel(ctx))))
	}
	m.progressf("%d meshpdb controllers are up", perCluster*len(m.Clusters))
	return nil
}

// StopControllers deletes the webhook configurations and ends all controllers. The rest of the manifests stays.
func (m *Mesh) StopControllers(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, c := range m.Clusters {
		group.Go(func() error {
			err := c.removeWebhooks(ctx)
			for _, p := range c.Controllers {
				p.stop(ctx)
			}
			c.mu.Lock()
			c.Controllers = nil
			c.mu.Unlock()
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("stop controllers: %w", err)
	}
	return nil
}

func (c *Cluster) startControllers(ctx context.Context, binary string, n int, args []string) error {
	if c.webhooks == nil {
		l, err := c.mesh.addresses.listen(c.addr)
		if err != nil {
			return err
		}
		c.webhooks = newBalancer(l, c.liveWebhooks)
	}
	if err := c.applyDeployment(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for i := range n {
		p, err := c.newController(ctx, fmt.Sprintf("%s-%d", controllerAccount, i+1), binary, args)
		if err != nil {
			return errors.Join(err, group.Wait())
		}
		group.Go(func() error { return p.Start(ctx) })
	}
	return group.Wait()
}

// newController writes the files of a controller and appends it to the cluster. It runs nothing yet.
func (c *Cluster) newController(ctx context.Context, name, binary string, args []string) (*Controller, error) {
	ports, err := c.mesh.addresses.free(c.addr, 3)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(c.dir, name)
	p := &Controller{
		Name: name, Log: c.logPath(name),
		PeerDir: filepath.Join(dir, "clustermesh"), KVStoreDir: filepath.Join(dir, "kvstore"),
		Kubeconfig: filepath.Join(dir, "kubeconfig"), MetricsURL: "http://" + ports[1] + "/metrics",
		cluster: c, webhook: ports[0], metrics: ports[1], health: ports[2],
	}
	// Left by a controller of that name before, perhaps spoiled.
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", name, err)
	}
	if err := p.writeFiles(ctx, filepath.Join(dir, "webhook")); err != nil {
		return nil, err
	}
	flags := []string{
		"--kubeconfig=" + p.Kubeconfig,
		"--cluster-name=" + c.Name,
		"--namespace=" + controllerNamespace,
		"--webhook-bind-address=" + p.webhook,
		"--webhook-cert-dir=" + filepath.Join(dir, "webhook"),
		"--metrics-bind-address=" + p.metrics,
		"--metrics-secure=false", // they are on a loopback address, for whoever measures here
		"--health-probe-bind-address=" + p.health,
	}
	if !c.mesh.options.NoMesh {
		flags = append(flags,
			"--clustermesh-config="+p.PeerDir,
			"--kvstore-config="+filepath.Join(p.KVStoreDir, "etcd.yaml"))
	}
	p.flags = flags
	p.command = command{
		name: c.Name + " " + name, path: binary, args: slices.Concat(flags, args),
		env: []string{"POD_NAME=" + name, "POD_NAMESPACE=" + controllerNamespace}, dir: dir, log: p.Log,
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Controllers = append(c.Controllers, p)
	return p, nil
}

// webhookSubject has the address at which the API server calls the webhook here, and the name that deploy/controller.yaml
// asks cert-manager for, which who scrapes the metrics expects.
func (c *Cluster) webhookSubject() subject {
	return subject{name: "meshpdb-webhook", hosts: []string{c.addr, "meshpdb-webhook." + controllerNamespace + ".svc"}}
}

func (p *Controller) writeFiles(ctx context.Context, webhookDir string) error {
	c := p.cluster
	webhook, err := c.ca.issue(c.webhookSubject())
	if err != nil {
		return err
	}
	err = writeFiles(webhookDir, map[string][]byte{"tls.crt": webhook.cert, "tls.key": webhook.key, "ca.crt": c.ca.pem})
	if err != nil {
		return err
	}
	lifetime := int64(tokenLifetime)
	token, err := c.Client.CoreV1().ServiceAccounts(controllerNamespace).CreateToken(ctx, controllerAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &lifetime}},
		metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create token of %s/%s in %s: %w", controllerNamespace, controllerAccount, c.Name, err)
	}
	if err := c.writeKubeconfig(p.Kubeconfig, login{token: token.Status.Token}); err != nil {
		return err
	}
	if c.mesh.options.NoMesh {
		return nil
	}
	return errors.Join(c.writePeerDir(p.PeerDir), c.writeKVStoreDir(p.KVStoreDir))
}

// Start runs a controller that does not run, with the files and ports that it had, and waits until it is ready.
func (p *Controller) Start(ctx context.Context) error {
	if p.Running() {
		return fmt.Errorf("start %s: runs already", p.command.name)
	}
	started, err := p.cluster.mesh.launcher.start(p.command)
	if err != nil {
		return err
	}
	p.cluster.mu.Lock()
	p.process = started
	p.cluster.mu.Unlock()
	return started.awaitReady(ctx, p.Ready)
}

// Restart ends the controller as a kubelet does, and starts it with other arguments beside those that the sandbox sets.
func (p *Controller) Restart(ctx context.Context, args ...string) error {
	p.stop(ctx)
	p.command.args = slices.Concat(p.flags, args)
	return p.Start(ctx)
}

// Kill ends the controller as a crash would.
func (p *Controller) Kill() {
	if running := p.current(); running != nil {
		running.kill()
	}
}

// Stop asks the controller to end, as a kubelet does, and waits until it has.
func (p *Controller) Stop(ctx context.Context) { p.stop(ctx) }

func (p *Controller) stop(ctx context.Context) {
	if running := p.current(); running != nil {
		running.stop(ctx)
	}
}

// Freeze stops the controller in its tracks: its connections stay open and nothing answers, until Thaw.
func (p *Controller) Freeze() error { return p.current().signal(syscall.SIGSTOP) }

// Thaw lets a frozen controller go on.
func (p *Controller) Thaw() error { return p.current().signal(syscall.SIGCONT) }

// Running tells whether the process runs.
func (p *Controller) Running() bool { return p.current().running() }

// PID is the process ID of the controller, 0 if it was never started.
func (p *Controller) PID() int {
	if running := p.current(); running != nil {
		return running.pid()
	}
	return 0
}

// WebhookAddress is the host:port of its webhooks, directly.
func (p *Controller) WebhookAddress() string { return p.webhook }

// Ready is nil when the controller says that it is ready.
func (p *Controller) Ready(ctx context.Context) error {
	return getOK(http.DefaultTransport, "http://"+p.health+"/readyz")(ctx)
}

func (p *Controller) current() *process {
	p.cluster.mu.Lock()
	defer p.cluster.mu.Unlock()
	return p.process
}

// liveWebhooks are the backends of the webhook's Service. A controller that is alive but not ready is dialled too: its
// readiness would reach a real Service only seconds later.
func (c *Cluster) liveWebhooks() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []string
	for _, p := range c.Controllers {
		if p.process.running() {
			found = append(found, p.webhook)
		}
	}
	return found
}
