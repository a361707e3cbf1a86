package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

type options struct {
	clusterName     string
	clustermesh     string
	kvstore         string
	service         string
	servicePort     int
	namespace       string
	protected       string
	webhook         string
	webhookCerts    string
	metrics         string
	metricsSecure   bool
	probes          string
	pprof           string
	decisionTimeout time.Duration
	preemption      string
	tracingEndpoint string
	tracingRate     int
	hubble          hubbleOptions
}

// What to make of the scheduler's preemptions.
const (
	preemptionAccount = "Account"
	preemptionEnforce = "Enforce"
)

func defaults() options {
	return options{
		clustermesh:     "/var/lib/cilium/clustermesh",
		kvstore:         "/var/lib/meshpdb/kvstore/etcd.yaml",
		servicePort:     2379,
		namespace:       "kube-system",
		protected:       "kube-system,cilium",
		webhook:         ":9443",
		webhookCerts:    "/var/lib/meshpdb/webhook",
		metrics:         ":9964",
		metricsSecure:   true,
		probes:          ":9880",
		decisionTimeout: 5 * time.Second,
		preemption:      preemptionAccount,
		hubble:          hubbleDefaults(),
	}
}

func (o *options) flags(f *flag.FlagSet) {
	f.StringVar(&o.clusterName, "cluster-name", o.clusterName, "Name of the cluster, as in Cilium's configuration")
	f.StringVar(&o.clustermesh, "clustermesh-config", o.clustermesh, "Path to the ClusterMesh configuration directory: one etcd client file per peer")
	f.StringVar(&o.kvstore, "kvstore-config", o.kvstore, "Path to the etcd client file of the own ClusterMesh, with the admin certificate; its endpoints are the clustermesh-apiserver instances unless --clustermesh-service is given")
	f.StringVar(&o.service, "clustermesh-service", o.service, "Name of the clustermesh-apiserver Service in --namespace whose endpoints are the instances of the own ClusterMesh")
	f.IntVar(&o.servicePort, "clustermesh-service-port", o.servicePort, "Port of the etcd in each instance behind --clustermesh-service")
	f.StringVar(&o.namespace, "namespace", o.namespace, "Namespace of the controller, which is Cilium's")
	f.StringVar(&o.protected, "protected-namespaces", o.protected, "Namespaces, separated by commas, whose pods are never held up, besides --namespace")
	f.StringVar(&o.webhook, "webhook-bind-address", o.webhook, "Address to serve the admission webhooks on")
	f.StringVar(&o.webhookCerts, "webhook-cert-dir", o.webhookCerts, "Directory of the webhooks' serving certificate: tls.crt and tls.key")
	f.StringVar(&o.metrics, "metrics-bind-address", o.metrics, "Address to serve Prometheus metrics on; 0 serves none")
	f.BoolVar(&o.metricsSecure, "metrics-secure", o.metricsSecure, "Serve metrics by TLS, with the webhooks' certificate, to those whom the API server lets get /metrics; if false, plainly and to everybody: bind them to localhost")
	f.StringVar(&o.probes, "health-probe-bind-address", o.probes, "Address to serve /healthz and /readyz on")
	f.StringVar(&o.pprof, "pprof-bind-address", o.pprof, "Address to serve Go's profiles on, under /debug/pprof/; empty serves none. They show what is in memory: bind it to localhost")
	f.StringVar(&o.preemption, "preemption", o.preemption, "What budgets make of pods that the scheduler preempts: Account lets them go, as native budgets do in the end; Enforce refuses what would break the budget")
	f.StringVar(&o.tracingEndpoint, "tracing-endpoint", o.tracingEndpoint, "host:port of an OpenTelemetry receiver (OTLP by gRPC, without TLS) of traces; empty traces nothing, unless OTEL_EXPORTER_OTLP_ENDPOINT is set in the environment")
	f.IntVar(&o.tracingRate, "tracing-sampling-rate-per-million", o.tracingRate, "How many of a million requests are traced that come without a trace context; those that come with one, as from a kube-apiserver that traces, follow its sampling")
	f.DurationVar(&o.decisionTimeout, "decision-timeout", o.decisionTimeout, "Deadline of a decision; it must stay below the webhooks' timeoutSeconds")
	o.hubble.flags(f)
}

func (o *options) validate() error {
	if o.clusterName == "" {
		return errors.New("--cluster-name is required: the cluster's name in Cilium's configuration")
	}
	if o.decisionTimeout < 500*time.Millisecond || o.decisionTimeout > 6*time.Second {
		return fmt.Errorf("--decision-timeout %s: must lie between 500ms and 6s, so that the answer leaves before the webhooks' 10s have passed", o.decisionTimeout)
	}
	if o.preemption != preemptionAccount && o.preemption != preemptionEnforce {
		return fmt.Errorf("--preemption %q: must be %s or %s", o.preemption, preemptionAccount, preemptionEnforce)
	}
	if o.tracingRate < 0 || o.tracingRate > 1_000_000 {
		return fmt.Errorf("--tracing-sampling-rate-per-million %d: must lie between 0 and 1000000", o.tracingRate)
	}
	if _, _, err := o.webhookAddress(); err != nil {
		return err
	}
	return o.hubble.validate()
}

func (o *options) webhookAddress() (string, int, error) {
	host, text, err := net.SplitHostPort(o.webhook)
	if err != nil {
		return "", 0, fmt.Errorf("--webhook-bind-address %q: %w", o.webhook, err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return "", 0, fmt.Errorf("--webhook-bind-address %q: %w", o.webhook, err)
	}
	return host, port, nil
}

func (o *options) protectedNamespaces() []string {
	all := []string{o.namespace}
	for name := range strings.SplitSeq(o.protected, ",") {
		if name = strings.TrimSpace(name); name != "" {
			all = append(all, name)
		}
	}
	return all
}

// controllerName names this replica to people.
func controllerName() string {
	if name := os.Getenv("POD_NAME"); name != "" {
		return name
	}
	name, err := os.Hostname()
	if err != nil {
		return "meshpdb-controller"
	}
	return name
}
