package recorded

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	clientyaml "go.etcd.io/etcd/client/v3/yaml"
)

// meter reads how much an etcd has sent to its clients, from its own metrics.
type meter struct {
	url    string
	client *http.Client
}

func (s *stores) meter(store int) (*meter, error) {
	c := s.sandbox.Clusters[store]
	config, err := clientyaml.NewConfig(c.KVStoreDir + "/etcd.yaml")
	if err != nil {
		return nil, fmt.Errorf("read client file of %s: %w", c.Name, err)
	}
	transport := &http.Transport{TLSClientConfig: config.TLS, DisableKeepAlives: true}
	return &meter{url: c.Instances[0].Endpoint + "/metrics", client: &http.Client{Transport: transport}}, nil
}

// sent returns the bytes sent since the etcd started.
func (m *meter) sent(ctx context.Context) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url, nil)
	if err != nil {
		return 0, fmt.Errorf("read metrics of etcd: %w", err)
	}
	response, err := m.client.Do(request)
	if err != nil {
		return 0, fmt.Errorf("read metrics of etcd: %w", err)
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		return 0, fmt.Errorf("read metrics of etcd: %w", err)
	}
	metrics := families["etcd_network_client_grpc_sent_bytes_total"].GetMetric()
	if len(metrics) == 0 {
		return 0, errors.New("read metrics of etcd: it does not count what it sends")
	}
	return metrics[0].GetCounter().GetValue(), nil
}
