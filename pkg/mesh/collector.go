package mesh

import "github.com/prometheus/client_golang/prometheus"

// Collector reads the state of all peers when it is scraped:
//
//	meshpdb_peer_reachable{peer}             1 or 0
//	meshpdb_peer_round_trip_seconds{peer}    of the last probe
//	meshpdb_peer_last_seen_timestamp_seconds{peer}
type Collector struct {
	mesh                       *Mesh
	reachable, roundTrip, seen *prometheus.Desc
}

// NewCollector returns the collector of a mesh.
func NewCollector(m *Mesh) *Collector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("meshpdb_peer_"+name, help, []string{"peer"}, nil)
	}
	return &Collector{
		mesh:      m,
		reachable: desc("reachable", "Whether the peer's kvstore can be read and its meshpdb publishes there."),
		roundTrip: desc("round_trip_seconds", "Round trip of the last probe of the peer's kvstore."),
		seen:      desc("last_seen_timestamp_seconds", "When the peer's kvstore answered last."),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.reachable
	ch <- c.roundTrip
	ch <- c.seen
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	for _, r := range c.mesh.Reachable() {
		up := 1.0
		if r.Err != nil {
			up = 0
		}
		ch <- prometheus.MustNewConstMetric(c.reachable, prometheus.GaugeValue, up, r.Cluster)
		if !r.Seen.IsZero() {
			ch <- prometheus.MustNewConstMetric(c.roundTrip, prometheus.GaugeValue, r.RoundTrip.Seconds(), r.Cluster)
			ch <- prometheus.MustNewConstMetric(c.seen, prometheus.GaugeValue, float64(r.Seen.UnixMilli())/1000, r.Cluster)
		}
	}
}
