package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// registerAll registers collectors until one is refused.
func registerAll(registerer prometheus.Registerer, all ...prometheus.Collector) error {
	for _, c := range all {
		if err := registerer.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

// ownMetrics tell of this process: what it is, whether it can decide, and how
// long the certificate lasts that API servers know it by.
func ownMetrics(o options, ready func() error) []prometheus.Collector {
	version, goVersion := versions()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "meshpdb_build_info", Help: "Always 1; labelled with the cluster's name in Cilium, the version of meshpdb and that of Go.",
		ConstLabels: prometheus.Labels{"cluster": o.clusterName, "version": version, "goversion": goVersion},
	})
	build.Set(1)
	decides := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "meshpdb_able_to_decide", Help: "1 if this replica can decide; 0 while its informers are not in step or the own kvstore is not in service, in which it refuses everything.",
	}, func() float64 {
		if ready() != nil {
			return 0
		}
		return 1
	})
	return []prometheus.Collector{build, decides, newCertificate(filepath.Join(o.webhookCerts, "tls.crt"))}
}

// versions returns those of meshpdb and of Go.
func versions() (own, goVersion string) {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version, info.GoVersion
	}
	return "unknown", "unknown"
}

// certificate is a serving certificate, looked at when it is scraped: it is renewed in place.
type certificate struct {
	path    string
	expires *prometheus.Desc
}

func newCertificate(path string) *certificate {
	return &certificate{path: path, expires: prometheus.NewDesc("meshpdb_webhook_certificate_expiration_timestamp_seconds",
		"When the certificate expires by which webhooks and metrics are served.", nil, nil)}
}

// Describe implements prometheus.Collector.
func (c *certificate) Describe(ch chan<- *prometheus.Desc) { ch <- c.expires }

// Collect implements prometheus.Collector. What cannot be read has no sample; serving fails then, which is seen elsewhere.
func (c *certificate) Collect(ch chan<- prometheus.Metric) {
	if at, err := expiry(c.path); err == nil {
		ch <- prometheus.MustNewConstMetric(c.expires, prometheus.GaugeValue, float64(at.Unix()))
	}
}

// expiry returns when the first certificate of a file ends, which is the one that is shown.
func expiry(path string) (time.Time, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return time.Time{}, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return time.Time{}, errors.New("no certificate in it")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, err
	}
	return leaf.NotAfter, nil
}
