package hubble

import "github.com/prometheus/client_golang/prometheus"

var (
	flowsDesc  = prometheus.NewDesc("meshpdb_hubble_flows_total", "Decisions that were shown to Hubble; only with --hubble-listen-address or --hubble-export-file-path, as the others of meshpdb_hubble.", nil, nil)
	lostDesc   = prometheus.NewDesc("meshpdb_hubble_lost_events_total", "Decisions that were neither shown nor exported, because the queue was full.", nil, nil)
	exportDesc = prometheus.NewDesc("meshpdb_hubble_export_errors_total", "Decisions that could not be written to the export.", nil, nil)
)

// Describe implements prometheus.Collector.
func (o *Observer) Describe(out chan<- *prometheus.Desc) {
	out <- flowsDesc
	out <- lostDesc
	out <- exportDesc
}

// Collect implements prometheus.Collector.
func (o *Observer) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n))
	}
	shown, lost, _ := o.recent.counts()
	counter(flowsDesc, shown)
	counter(lostDesc, lost)
	if o.export != nil {
		counter(exportDesc, o.export.errors.Load())
	}
}
