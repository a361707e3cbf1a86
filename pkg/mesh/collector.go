package mesh

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Collector reads the state of the own cluster's and all peers' views when it is scraped:
//
//	meshpdb_peer_reachable{peer}             1 or 0
//	meshpdb_peer_round_trip_seconds{peer}    of the last probe
//	meshpdb_peer_last_seen_timestamp_seconds{peer}
//	meshpdb_peer_certificate_expiration_timestamp_seconds{peer}
type Collector struct {
	mesh                                *Mesh
	reachable, roundTrip, seen, expires *prometheus.Desc
}

// NewCollector returns the collector of a mesh.
func NewCollector(m *Mesh) *Collector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("meshpdb_peer_"+name, help, []string{"peer"}, nil)
	}
	return &Collector{
		mesh:      m,
		reachable: desc("reachable", "1 if the kvstore of the peer, or of the own cluster, can be read and its meshpdb publishes there; else 0."),
		roundTrip: desc("round_trip_seconds", "Round trip of the last probe of the peer's kvstore."),
		seen:      desc("last_seen_timestamp_seconds", "When the peer's kvstore was heard of last. What is cached of it can be older by about five probes, while its watch tells nothing."),
		expires:   desc("certificate_expiration_timestamp_seconds", "When the certificate expires with which this cluster reads the peer's kvstore, or writes its own."),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.reachable, c.roundTrip, c.seen, c.expires} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, cluster string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, cluster)
	}
	for _, r := range c.mesh.Reachable() {
		up := 1.0
		if r.Err != nil {
			up = 0
		}
		gauge(c.reachable, up, r.Cluster)
		if !r.Seen.IsZero() {
			gauge(c.roundTrip, r.RoundTrip.Seconds(), r.Cluster)
			gauge(c.seen, seconds(r.Seen), r.Cluster)
		}
	}
	for _, certificate := range c.mesh.Certificates() {
		// No sample where there is none to read: that the peer is not reachable says enough.
		if certificate.Err == nil {
			gauge(c.expires, seconds(certificate.Expires), certificate.Of)
		}
	}
}

// seconds since 1970, as Prometheus counts.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
