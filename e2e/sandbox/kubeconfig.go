package sandbox

import (
	"fmt"
	"os"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Rates of the clients that the sandbox hands out: tests are never slowed down by their own client.
const (
	clientQPS   = 500
	clientBurst = 1000
)

// login is how a client of a cluster proves who it is: a certificate or a token.
type login struct {
	keyPair
	token string
}

// kubeconfig has one context, named after the cluster.
func (c *Cluster) kubeconfig(l login) *clientcmdapi.Config {
	config := clientcmdapi.NewConfig()
	config.Clusters[c.Name] = &clientcmdapi.Cluster{Server: "https://" + c.server, CertificateAuthorityData: c.ca.pem}
	config.AuthInfos[c.Name] = &clientcmdapi.AuthInfo{
		ClientCertificateData: l.cert, ClientKeyData: l.key, Token: l.token,
	}
	config.Contexts[c.Name] = &clientcmdapi.Context{Cluster: c.Name, AuthInfo: c.Name}
	config.CurrentContext = c.Name
	return config
}

func (c *Cluster) writeKubeconfig(path string, l login) error {
	content, err := clientcmd.Write(*c.kubeconfig(l))
	if err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return writeFile(path, content)
}

func (c *Cluster) restConfig(l login) *rest.Config {
	return &rest.Config{
		Host:        "https://" + c.server,
		BearerToken: l.token,
		TLSClientConfig: rest.TLSClientConfig{
			CAData: c.ca.pem, CertData: l.cert, KeyData: l.key,
		},
		QPS:   clientQPS,
		Burst: clientBurst,
	}
}

// ConfigFor is a client configuration of any user, known to the API server by its certificate. Grant it something
// by RBAC, or use the group system:masters.
func (c *Cluster) ConfigFor(user string, groups ...string) (*rest.Config, error) {
	pair, err := c.ca.issue(subject{name: user, groups: groups})
	if err != nil {
		return nil, fmt.Errorf("make configuration for %s: %w", user, err)
	}
	return c.restConfig(login{keyPair: pair}), nil
}

// mergeKubeconfigs is one file with a context for each cluster.
func mergeKubeconfigs(path string, clusters []*Cluster) error {
	merged := clientcmdapi.NewConfig()
	for _, c := range clusters {
		one, err := clientcmd.LoadFromFile(c.Kubeconfig)
		if err != nil {
			return fmt.Errorf("merge kubeconfigs: %w", err)
		}
		merged.Clusters[c.Name], merged.AuthInfos[c.Name] = one.Clusters[c.Name], one.AuthInfos[c.Name]
		merged.Contexts[c.Name] = one.Contexts[c.Name]
		if merged.CurrentContext == "" {
			merged.CurrentContext = c.Name
		}
	}
	content, err := clientcmd.Write(*merged)
	if err != nil {
		return fmt.Errorf("merge kubeconfigs: %w", err)
	}
	return os.WriteFile(path, content, 0o600)
}
