package sandbox

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"

	clientyaml "go.etcd.io/etcd/client/v3/yaml"
)

// Requests returns how many requests the instance's etcd has answered since its start, whoever asked, by gRPC method:
// Range, Put, DeleteRange, Txn, ... A watch counts when it ends.
func (i *Instance) Requests(ctx context.Context) (map[string]int, error) {
	config, err := clientyaml.NewConfig(filepath.Join(i.dir, "etcd.yaml"))
	if err != nil {
		return nil, fmt.Errorf("count requests of %s %s: %w", i.cluster.Name, i.Name, err)
	}
	transport := &http.Transport{TLSClientConfig: config.TLS}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, i.Endpoint+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, fmt.Errorf("count requests of %s %s: %w", i.cluster.Name, i.Name, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("count requests of %s %s: %s", i.cluster.Name, i.Name, response.Status)
	}
	return handled(response.Body)
}

// handled sums etcd's counter over all answers, errors included.
func handled(metrics io.Reader) (map[string]int, error) {
	counter := regexp.MustCompile(`^grpc_server_handled_total\{.*grpc_method="([A-Za-z]+)".*\} (\S+)$`)
	sums := map[string]int{}
	lines := bufio.NewScanner(metrics)
	for lines.Scan() {
		match := counter.FindStringSubmatch(lines.Text())
		if match == nil {
			continue
		}
		value, err := strconv.ParseFloat(match[2], 64)
		if err != nil {
			return nil, fmt.Errorf("read metrics: %w", err)
		}
		sums[match[1]] += int(value)
	}
	return sums, lines.Err()
}
