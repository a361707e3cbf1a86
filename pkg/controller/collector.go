package controller

import (
	"context"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/claim"
)

// Collector reads budgets and claims from the informers when it is scraped, on
// the leader only, so that each is told once. A budget's metrics go with it.
type Collector struct {
	budgets client.Reader
	claims  func(context.Context) ([]claim.Claim, error)
	leads   func() bool
	log     logr.Logger

	budget      []budgetGauge
	enforced    *prometheus.Desc
	waiting     *prometheus.Desc
	count, seen *prometheus.Desc

	mu sync.Mutex
	// first is when a claim was scraped first in the state that it has.
	first map[standing]time.Time
}

// standing is one claim in one state.
type standing struct {
	id    string
	state claim.State
}

// budgetGauge is one number of a budget's status.
type budgetGauge struct {
	desc  *prometheus.Desc
	value func(*v1alpha1.MeshPodDisruptionBudget) float64
}

// NewCollector returns a collector of the budgets that a reader lists, and of
// the own cluster's claims, for as long as leads reports true.
func NewCollector(budgets client.Reader, claims func(context.Context) ([]claim.Claim, error), leads func() bool, log logr.Logger) *Collector {
	type budget = v1alpha1.MeshPodDisruptionBudget
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("meshpdb_"+name, help, labels, nil)
	}
	gauge := func(name, help string, value func(*budget) float64) budgetGauge {
		return budgetGauge{desc("budget_"+name, help, "namespace", "budget"), value}
	}
	return &Collector{
		budgets: budgets, claims: claims, leads: leads, log: log, first: map[standing]time.Time{},
		budget: []budgetGauge{
			gauge("disruptions_allowed", "Pods that the budget allows to disrupt now, whichever they are, in the whole mesh; 0 while that cannot be decided.",
				func(b *budget) float64 { return float64(b.Status.DisruptionsAllowed) }),
			gauge("available_pods", "Available pods of the budget in the whole mesh, without those whose disruption was allowed.",
				func(b *budget) float64 { return float64(b.Status.CurrentHealthy) }),
			gauge("desired_pods", "Pods that must stay available in the whole mesh.",
				func(b *budget) float64 { return float64(b.Status.DesiredHealthy) }),
			gauge("expected_pods", "Pods that the owners ask for in the whole mesh.",
				func(b *budget) float64 { return float64(b.Status.ExpectedPods) }),
			gauge("disruptions_in_flight", "Pods in the whole mesh whose disruption was allowed and is not finished, or that terminate.",
				func(b *budget) float64 { return float64(b.Status.DisruptionsInFlight) }),
			gauge("waiting_disruptions", "What Kubernetes itself wants to do to covered pods of this cluster and has put off for want of budget.",
				func(b *budget) float64 { return float64(b.Status.WaitingDisruptions) }),
			gauge("clusters", "Clusters that take part in the budget.",
				func(b *budget) float64 { return float64(len(b.Status.Clusters)) }),
			gauge("clusters_reachable", "Clusters that take part in the budget, can be read and hold it.",
				func(b *budget) float64 { return float64(reachableClusters(b)) }),
		},
		enforced: desc("budget_enforced", "1 if disruptions of the budget's pods in this cluster are admitted by meshpdb, else 0; with the reason of the condition Enforced.", "namespace", "budget", "reason"),
		waiting:  desc("budget_oldest_waiting_timestamp_seconds", "Since when that waits which has waited longest for the budget in this cluster.", "namespace", "budget"),
		count:    desc("claims", "Claims of this cluster that stand, by state: pending until they are decided, granted until the pod's end is shown to all clusters.", "state"),
		seen:     desc("claims_oldest_timestamp_seconds", "Since when, at least, that claim of this cluster has stood in its state which has stood longest.", "state"),
	}
}

func reachableClusters(b *v1alpha1.MeshPodDisruptionBudget) int {
	n := 0
	for _, c := range b.Status.Clusters {
		if c.Reachable {
			n++
		}
	}
	return n
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, g := range c.budget {
		ch <- g.desc
	}
	ch <- c.enforced
	ch <- c.waiting
	ch <- c.count
	ch <- c.seen
}

// collectTimeout bounds a scrape while informers are not in step yet.
const collectTimeout = 2 * time.Second

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	if !c.leads() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	var all v1alpha1.MeshPodDisruptionBudgetList
	if err := c.budgets.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		c.log.Error(err, "list budgets for metrics")
	}
	for i := range all.Items {
		c.collectBudget(ch, &all.Items[i])
	}
	claims, err := c.claims(ctx)
	if err != nil {
		c.log.Error(err, "list claims for metrics")
		return
	}
	c.collectClaims(ch, claims, time.Now())
}

func (c *Collector) collectBudget(ch chan<- prometheus.Metric, b *v1alpha1.MeshPodDisruptionBudget) {
	if b.Status.ObservedGeneration == 0 {
		// Its zeros say nothing before it was looked at.
		return
	}
	gauge := func(d *prometheus.Desc, value float64, more ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, append([]string{b.Namespace, b.Name}, more...)...)
	}
	for _, g := range c.budget {
		gauge(g.desc, g.value(b))
	}
	if e := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionEnforced); e != nil {
		value := 0.0
		if e.Status == metav1.ConditionTrue {
			value = 1
		}
		gauge(c.enforced, value, e.Reason)
	}
	if len(b.Status.Waiting) > 0 {
		// The one that has waited longest comes first.
		gauge(c.waiting, float64(b.Status.Waiting[0].Since.Unix()))
	}
}

// collectClaims remembers since when claims stand: ledgers bear no times, for clocks have no part in the protocol.
func (c *Collector) collectClaims(ch chan<- prometheus.Metric, claims []claim.Claim, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	count, oldest, first := map[claim.State]int{}, map[claim.State]time.Time{}, map[standing]time.Time{}
	for _, one := range claims {
		key := standing{one.ID, one.State}
		since, known := c.first[key]
		if !known {
			since = now
		}
		first[key] = since
		count[one.State]++
		if at, any := oldest[one.State]; !any || since.Before(at) {
			oldest[one.State] = since
		}
	}
	c.first = first
	for state, label := range map[claim.State]string{claim.Pending: "pending", claim.Granted: "granted"} {
		ch <- prometheus.MustNewConstMetric(c.count, prometheus.GaugeValue, float64(count[state]), label)
		if at, any := oldest[state]; any {
			ch <- prometheus.MustNewConstMetric(c.seen, prometheus.GaugeValue, float64(at.UnixMilli())/1000, label)
		}
	}
}
