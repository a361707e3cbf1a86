package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpdb/meshpdb/e2e/scenario"
)

// podMonitor is what the Prometheus operator makes a scrape of.
type podMonitor struct {
	Spec struct {
		Endpoints []struct {
			Port, Scheme  string
			HonorLabels   bool
			Authorization struct{ Credentials corev1.SecretKeySelector }
			TLSConfig     struct {
				ServerName string
				CA         struct{ Secret corev1.SecretKeySelector }
			}
		} `json:"podMetricsEndpoints"`
	}
}

// wantMetrics applies deploy/monitoring beside the Prometheus operator's kinds, and reads the metrics of a controller as
// the PodMonitor says. Who has no token, or is not bound to meshpdb-metrics, may not.
func wantMetrics(t *testing.T, c *scenario.Cluster) {
	t.Helper()
	endpoint := applyMonitoring(t, c).Spec.Endpoints[0]
	if ca := endpoint.TLSConfig.CA.Secret; endpoint.Port != "metrics" || endpoint.Scheme != "https" || !endpoint.HonorLabels || ca.Name != "meshpdb-webhook-cert" || ca.Key != "ca.crt" {
		t.Errorf("the PodMonitor scrapes %+v", endpoint)
	}
	scrape := scraper(t, c, endpoint.TLSConfig.ServerName)
	if code, _ := scrape("nonsense"); code != http.StatusUnauthorized {
		t.Errorf("nobody: %d", code)
	}
	stranger, err := c.Client.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if code, _ := scrape(stranger.Status.Token); code != http.StatusForbidden {
		t.Errorf("a stranger: %d", code)
	}
	credentials := endpoint.Authorization.Credentials
	eventually(t, 20*time.Second, "metrics with the token that the PodMonitor names", func() error {
		secret, err := c.Client.CoreV1().Secrets(metav1.NamespaceSystem).Get(t.Context(), credentials.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if code, body := scrape(string(secret.Data[credentials.Key])); code != http.StatusOK || !strings.Contains(body, "meshpdb_peer_reachable") {
			return fmt.Errorf("%d", code)
		}
		return nil
	})
}

// applyMonitoring applies deploy/monitoring as a user does, and returns what the API server keeps of the PodMonitor.
func applyMonitoring(t *testing.T, c *scenario.Cluster) podMonitor {
	t.Helper()
	cluster := sandboxCluster(t, c.Name)
	kubectl := func(ctx context.Context, args ...string) string {
		out, err := cluster.Kubectl(ctx, args...)
		if err != nil {
			t.Error(err)
		}
		return out
	}
	ctx := context.WithoutCancel(t.Context())
	kinds := []string{"-f", operatorKind(t, "podmonitors"), "-f", operatorKind(t, "prometheusrules")}
	kubectl(ctx, append([]string{"apply", "--server-side"}, kinds...)...)
	t.Cleanup(func() { kubectl(ctx, append([]string{"delete", "--wait=false"}, kinds...)...) })
	kubectl(ctx, "wait", "--for=condition=Established", "--timeout=20s", "crd/podmonitors.monitoring.coreos.com", "crd/prometheusrules.monitoring.coreos.com")
	// Strict: a field that the operator does not know is an error.
	manifests := []string{"-k", filepath.Join("..", "deploy", "monitoring")}
	kubectl(ctx, append([]string{"apply", "--validate=strict"}, manifests...)...)
	t.Cleanup(func() {
		kubectl(ctx, append([]string{"delete", "--wait=false", "--ignore-not-found"}, manifests...)...)
	})
	kubectl(ctx, "get", "prometheusrule", "meshpdb", "-n", "kube-system")
	var monitor podMonitor
	if err := json.Unmarshal([]byte(kubectl(ctx, "get", "podmonitor", "meshpdb-controller", "-n", "kube-system", "-o", "json")), &monitor); err != nil {
		t.Fatal(err)
	}
	if len(monitor.Spec.Endpoints) != 1 {
		t.Fatalf("it scrapes %+v", monitor.Spec.Endpoints)
	}
	return monitor
}

// operatorKind is the file of a kind in the Prometheus operator's own module.
func operatorKind(t *testing.T, plural string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "-C", "../.tools/prometheus-operator", "mod", "download", "-json", "github.com/prometheus-operator/prometheus-operator").Output()
	var module struct{ Dir, Error string }
	if jsonErr := json.Unmarshal(out, &module); err != nil || jsonErr != nil {
		t.Fatalf("fetch the Prometheus operator: %v, %v, %s", err, jsonErr, module.Error)
	}
	return filepath.Join(module.Dir, "example", "prometheus-operator-crd", "monitoring.coreos.com_"+plural+".yaml")
}

// scraper reads the metrics of a cluster's first controller with a token, and verifies its certificate for a name.
func scraper(t *testing.T, c *scenario.Cluster, name string) func(token string) (code int, body string) {
	t.Helper()
	controller := sandboxCluster(t, c.Name).Controllers[0]
	trust := x509.NewCertPool()
	pem, err := os.ReadFile(filepath.Join(filepath.Dir(controller.Kubeconfig), "webhook", "ca.crt"))
	if err != nil || !trust.AppendCertsFromPEM(pem) {
		t.Fatalf("read CA: %v", err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust, ServerName: name, MinVersion: tls.VersionTLS13}}}
	t.Cleanup(client.CloseIdleConnections)
	return func(token string) (int, string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https"+strings.TrimPrefix(controller.MetricsURL, "http"), nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
}
