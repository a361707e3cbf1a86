package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
)

// Life signs of nodes, quicker than Kubernetes' defaults of 40 s and 50 s, and slow enough for a busy machine.
const (
	nodeLease = 20 * time.Second
	nodeGrace = 30 * time.Second
)

// component is the command of a part of cluster c.
func (c *Cluster) component(name string, args ...string) command {
	return command{
		name: c.Name + " " + name,
		path: c.mesh.Binaries.path(name),
		args: args,
		dir:  filepath.Join(c.dir, name),
		log:  c.logPath(name),
	}
}

func (c *Cluster) logPath(component string) string {
	return filepath.Join(c.mesh.Dir, "logs", c.Name, component+".log")
}

// startEtcd starts the etcd of Kubernetes. It need not survive a crash of the machine, so it never waits for the disk.
func (c *Cluster) startEtcd(ctx context.Context) (address string, err error) {
	err = c.mesh.addresses.retryClash(c.addr, 2, func(ports []string) (err error) {
		address = ports[0]
		c.KubeEtcd, err = c.launch(ctx, c.component("etcd",
			"--data-dir="+filepath.Join(c.dir, "etcd", "data"),
			"--unsafe-no-fsync",
			"--log-level=warn",
			"--listen-client-urls=http://"+ports[0], "--advertise-client-urls=http://"+ports[0],
			"--listen-peer-urls=http://"+ports[1], "--initial-advertise-peer-urls=http://"+ports[1],
			"--initial-cluster=default=http://"+ports[1],
		), getOK(http.DefaultTransport, "http://"+address+"/readyz"))
		return err
	})
	return address, err
}

// startAPIServer starts kube-apiserver and makes the cluster's administrator client.
func (c *Cluster) startAPIServer(ctx context.Context, etcd string) error {
	admin, err := c.ca.issue(subject{name: "admin", groups: []string{"system:masters"}})
	if err != nil {
		return err
	}
	if err := errors.Join(c.writeServerFiles(), c.writeAuditPolicy()); err != nil {
		return err
	}
	return c.mesh.addresses.retryClash(c.addr, 1, func(ports []string) error {
		c.server = ports[0]
		c.Config = c.restConfig(login{keyPair: admin})
		var err error
		if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
			return fmt.Errorf("make client of %s: %w", c.Name, err)
		}
		if err := c.writeKubeconfig(c.Kubeconfig, login{keyPair: admin}); err != nil {
			return err
		}
		c.APIServer, err = c.launch(ctx, c.component("kube-apiserver", c.apiServerArgs(etcd)...), func(ctx context.Context) error {
			return c.Client.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		})
		return err
	})
}

func (c *Cluster) apiServerArgs(etcd string) []string {
	pki := filepath.Join(c.dir, "pki")
	return []string{
		"--etcd-servers=http://" + etcd,
		"--bind-address=" + c.addr, "--secure-port=" + portOf(c.server),
		// Nobody reaches the API by the address of the kubernetes Service, and a loopback one would be refused for it.
		"--advertise-address=" + c.addr, "--endpoint-reconciler-type=none",
		"--tls-cert-file=" + filepath.Join(pki, "server.crt"),
		"--tls-private-key-file=" + filepath.Join(pki, "server.key"),
		"--client-ca-file=" + filepath.Join(pki, "ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + filepath.Join(pki, "sa.pub"),
		"--service-account-signing-key-file=" + filepath.Join(pki, "sa.key"),
		"--authorization-mode=RBAC",
		"--allow-privileged",
		fmt.Sprintf("--service-cluster-ip-range=10.%d.0.0/16", 100+c.ID),
		"--audit-policy-file=" + c.auditPolicyPath(),
		"--audit-log-path=" + c.auditLogPath(), fmt.Sprintf("--audit-log-maxsize=%d", auditLogMegabytes),
	}
}

func (c *Cluster) writeServerFiles() error {
	server, err := c.ca.issue(subject{name: "kube-apiserver", hosts: []string{
		c.addr, "127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
	}})
	if err != nil {
		return err
	}
	private, public, err := newSigningKey()
	if err != nil {
		return err
	}
	return writeFiles(filepath.Join(c.dir, "pki"), map[string][]byte{
		"ca.crt": c.ca.pem, "server.crt": server.cert, "server.key": server.key, "sa.key": private, "sa.pub": public,
	})
}

// startControllerManager runs all of its default controllers, each as its own service account.
func (c *Cluster) startControllerManager(ctx context.Context) error {
	kubeconfig, err := c.kubeconfigFor("kube-controller-manager", subject{name: "system:kube-controller-manager"})
	if err != nil {
		return err
	}
	c.ControllerManager, err = c.launch(ctx, c.component("kube-controller-manager",
		"--kubeconfig="+kubeconfig,
		"--secure-port=0",
		"--leader-elect=false", // there is one, and waiting for the lease costs seconds
		"--use-service-account-credentials=true",
		"--service-account-private-key-file="+filepath.Join(c.dir, "pki", "sa.key"),
		"--root-ca-file="+filepath.Join(c.dir, "pki", "ca.crt"),
		"--node-monitor-period=1s", "--node-monitor-grace-period="+c.mesh.options.NodeGrace.String(),
		fmt.Sprintf("--kube-api-qps=%d", clientQPS), fmt.Sprintf("--kube-api-burst=%d", clientBurst),
	), nil)
	return err
}

func (c *Cluster) startScheduler() error {
	kubeconfig, err := c.kubeconfigFor("kube-scheduler", subject{name: "system:kube-scheduler"})
	if err != nil {
		return err
	}
	config := fmt.Sprintf(`apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
clientConnection: {kubeconfig: %q, qps: %d, burst: %d}
`, kubeconfig, clientQPS, clientBurst)
	dir := filepath.Join(c.dir, "kube-scheduler")
	if err := writeFiles(dir, map[string][]byte{"config.yaml": []byte(config)}); err != nil {
		return err
	}
	_, err = c.mesh.launcher.start(c.component("kube-scheduler",
		"--config="+filepath.Join(dir, "config.yaml"), "--secure-port=0"))
	return err
}

// kwokUser is who the kubelets of a cluster are. All nodes share it; a real kubelet is system:node:<its node>.
const kwokUser = "system:node:kwok"

func (c *Cluster) startKwok() error {
	kubeconfig, err := c.kubeconfigFor("kwok", subject{name: kwokUser, groups: []string{"system:nodes"}})
	if err != nil {
		return err
	}
	config, err := kwokConfig(c.mesh.options)
	if err != nil {
		return err
	}
	dir := filepath.Join(c.dir, "kwok")
	if err := writeFiles(dir, map[string][]byte{"kwok.yaml": config}); err != nil {
		return err
	}
	_, err = c.mesh.launcher.start(c.component("kwok",
		"--kubeconfig="+kubeconfig,
		"--config="+filepath.Join(dir, "kwok.yaml"),
		"--manage-all-nodes=true",
		fmt.Sprintf("--cidr=10.%d.0.0/16", c.ID),
		"--node-ip="+c.addr,
		fmt.Sprintf("--node-lease-duration-seconds=%d", int(nodeLease.Seconds())),
	))
	return err
}

// kubeconfigFor writes the kubeconfig of a component.
func (c *Cluster) kubeconfigFor(component string, s subject) (path string, err error) {
	pair, err := c.ca.issue(s)
	if err != nil {
		return "", err
	}
	path = filepath.Join(c.dir, component, "kubeconfig")
	if err := writeFiles(filepath.Dir(path), nil); err != nil {
		return "", err
	}
	return path, c.writeKubeconfig(path, login{keyPair: pair})
}

// getOK asks an HTTP URL for status 200.
func getOK(transport http.RoundTripper, url string) func(context.Context) error {
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := (&http.Client{Transport: transport}).Do(request)
		if err != nil {
			return err
		}
		if err = response.Body.Close(); response.StatusCode != http.StatusOK {
			err = errors.Join(err, fmt.Errorf("get %s: %s", url, response.Status))
		}
		return err
	}
}
