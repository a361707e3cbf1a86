package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/e2e/scenario"
	"github.com/meshpdb/meshpdb/pkg/api/v1alpha1"
	"github.com/meshpdb/meshpdb/pkg/ledger"
	"github.com/meshpdb/meshpdb/pkg/roster"
)

// What decisions may cost, in requests. Tighten a number when it can be lower.
const (
	// refusals and permissions that are counted. Between two permissions lies the time until a claim is dropped.
	refusals    = 20
	permissions = 10

	// ledgerWrites of one disruption that took effect: append and grant before
	// the answer, drop once the pod's end is shown.
	ledgerWrites = 3
	// podReads before the answer: the validating webhook's.
	podReads = 1
	// podReadsAfter: none, for the informer has seen the pod's end.
	podReadsAfter = 0
	// budgetReads before the answer: the scope.
	budgetReads = 1
	// registryReads before the answer.
	registryReads = 1
	// registryReadsAfter: when the claim is dropped.
	registryReadsAfter = 2
	// statusWrites of one disruption in each cluster: going, gone, and a
	// successor that is ready.
	statusWrites = 3
	// grantEvents: on the pod; those on the budget are one series.
	grantEvents = 1

	// refusalEvents of one pod that is refused again and again: created and
	// turned into a series, on the pod and on the budget.
	refusalEvents = 4

	// claimPuts of one disruption: the claim, and its grant; the claim is deleted once.
	claimPuts = 2
	// ownTxns of one disruption: both of these, the snapshot, and what is published
	// as the pod goes, is gone, and its successor is made, gets an address, is
	// ready; and the word of the store that what shows its end still is what it shows.
	ownTxns = 10
	// peerTxns of one disruption: the snapshot.
	peerTxns = 1
	// noise is by how much two whiles may differ for reasons of their own: six
	// controllers probe every kvstore once a second, ledger and kvstore are
	// compared every 30 s, and on a busy machine a cluster may seem unreachable for
	// a moment. It is far from one request for each decision.
	noise = 8
)

// TestCostOfDecisions counts the requests that decisions cause, in the API
// servers by their audit logs and in the kvstores by their own metrics.
func TestCostOfDecisions(t *testing.T) {
	t.Run("grants", func(t *testing.T) {
		w := budgeted(t, "cost-grants", 6, maxUnavailable(12))
		var grants []grant
		spent := measure(t, func() { grants = grantAll(t, w) })
		if err := w.AwaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.AwaitBudget(t.Context()); err != nil {
			t.Fatal(err)
		}
		idle := measure(t, func() { pass(t, spent.took) })
		wantGrantRequests(t, w, grants, spent.requests["c1"])
		wantBackground(t, w, spent, idle)
		wantGrantStores(t, spent, idle)
	})
	t.Run("refusals", func(t *testing.T) {
		w := budgeted(t, "cost-refusals", 2, maxUnavailable(0))
		pod := firstPod(t, w, mesh.clusters[0])
		spent := measure(t, func() {
			for range refusals {
				start := time.Now()
				wantRefusal(t, mesh.clusters[0].Evict(t.Context(), w.Namespace, pod.Name), time.Since(start), "maxUnavailable 0")
			}
			pass(t, 2*time.Second) // for what comes late
		})
		idle := measure(t, func() { pass(t, spent.took) })
		wantRefusalRequests(t, w, spent, idle)
	})
}

// grant is one eviction that was allowed.
type grant struct {
	pod             string
	asked, answered time.Time
}

// grantAll evicts pods of c1, one after the other; the next one once the
// claim of the one before is dropped, so that each write has its cause.
func grantAll(t *testing.T, w *scenario.Workload) []grant {
	t.Helper()
	var all []grant
	c1 := mesh.clusters[0]
	for range permissions {
		pod := firstPod(t, w, c1)
		g := grant{pod: pod.Name, asked: time.Now()}
		if err := c1.Evict(t.Context(), w.Namespace, pod.Name); err != nil {
			t.Fatal(err)
		}
		g.answered = time.Now()
		all = append(all, g)
		eventually(t, 20*time.Second, "the claim is dropped", func() error {
			var l v1alpha1.DisruptionLedger
			if err := c1.API.Get(t.Context(), types.NamespacedName{Name: w.Namespace}, &l); err != nil {
				return err
			}
			if len(l.Claims) > 0 {
				return fmt.Errorf("%d claims stand", len(l.Claims))
			}
			return nil
		})
	}
	return all
}

// wantGrantRequests checks what each grant cost in the deciding cluster's API server.
func wantGrantRequests(t *testing.T, w *scenario.Workload, grants []grant, requests requests) {
	t.Helper()
	var registryBefore, registryAfter, conflicts int
	for i, g := range grants {
		end := time.Now()
		if i+1 < len(grants) {
			end = grants[i+1].asked
		}
		own := requests.between(g.asked, end)
		writes := own.on("disruptionledgers", w.Namespace).writes()
		done := writes.succeeded()
		if len(done) != ledgerWrites {
			t.Errorf("grant %d: %d writes of the ledger, want %d: %v", i, len(done), ledgerWrites, writes)
			continue
		}
		conflicts += len(writes) - len(done)
		granted := done[1].Done
		if granted.After(g.answered) {
			t.Errorf("grant %d was answered before it was durable", i)
		}
		before, after := own.between(g.asked, granted), own.between(granted, end)
		atMost(t, fmt.Sprintf("grant %d: reads of the pod before the answer", i), len(before.on("pods", g.pod).verb("get")), podReads)
		atMost(t, fmt.Sprintf("grant %d: reads of the pod after it", i), len(after.on("pods", g.pod).verb("get")), podReadsAfter)
		atMost(t, fmt.Sprintf("grant %d: reads of the budget", i), len(own.on("meshpoddisruptionbudgets", w.Name).verb("get")), budgetReads)
		registryBefore += len(before.on("configmaps", ledger.RegistryName).verb("get"))
		registryAfter += len(after.on("configmaps", ledger.RegistryName).verb("get"))
	}
	// The publisher looks at the registry once a second by itself, so the sums are bounded, with room for that.
	took := grants[len(grants)-1].answered.Sub(grants[0].asked)
	ticks := int(took/time.Second) + 2
	atMost(t, "reads of the registry before the answers", registryBefore, len(grants)*registryReads+noise)
	atMost(t, "reads of the registry after the answers", registryAfter, len(grants)*registryReadsAfter+ticks)
	// Each replica catches up with the other by its informer.
	atMost(t, "conflicting writes of the ledger", conflicts, noise)
	atMost(t, "events", len(requests.namespace(w.Namespace).resource("events").writes()), len(grants)*grantEvents+noise)
	t.Logf("%d grants in %s: %s", len(grants), took.Round(time.Millisecond), requests)
	t.Logf("registry: %d reads before the answers, %d after, %d ticks; %d conflicts", registryBefore, registryAfter, ticks, conflicts)
}

// wantBackground checks what grants cost beside the decisions, and that they cost the peers nothing else.
func wantBackground(t *testing.T, w *scenario.Workload, spent, idle cost) {
	t.Helper()
	for name, requests := range spent.requests {
		atMost(t, name+": lists", len(requests.verb("list")), len(idle.requests[name].verb("list"))+noise)
		status := requests.on("meshpoddisruptionbudgets", w.Name).writes()
		atMost(t, name+": writes of the status", len(status), permissions*statusWrites)
		t.Logf("%s: %d writes of the status; idle for as long: %s", name, len(status), idle.requests[name])
		if name == "c1" {
			continue
		}
		others := requests.where(func(e sandbox.AuditEvent) bool {
			return e.Resource != "leases" && e.Verb != "watch" && e.Verb != "list" && e.Name != ledger.RegistryName && e.Name != roster.ConfigMap &&
				!(e.Resource == "meshpoddisruptionbudgets" && e.Subresource == "status")
		})
		atMost(t, name+": requests of another cluster's grants: "+others.String(), len(others), noise)
		registry := len(requests.on("configmaps", ledger.RegistryName))
		atMost(t, name+": reads of the registry", registry, len(idle.requests[name].on("configmaps", ledger.RegistryName))+noise)
	}
}

// wantGrantStores checks what grants cost the kvstores, beyond what they cost when idle.
func wantGrantStores(t *testing.T, spent, idle cost) {
	t.Helper()
	for name := range spent.stores {
		t.Logf("kvstore of %s: %s; idle %s; changes %s", name, counts(spent.stores[name]), counts(idle.stores[name]), counts(spent.changes[name]))
		// Cilium exports the pods that come and go.
		puts, txns := spent.over(idle, name, "Put")-spent.changes[name]["PUT of Cilium"], spent.over(idle, name, "Txn")
		wantTxns := permissions * peerTxns
		if name == "c1" {
			wantTxns = permissions * ownTxns
			if made, deleted := spent.changes[name]["PUT claims"], spent.changes[name]["DELETE claims"]; made < permissions*claimPuts || made > permissions*claimPuts+noise || deleted < permissions || deleted > permissions+noise {
				t.Errorf("claims were put %d times and deleted %d times, want about %d and %d", made, deleted, permissions*claimPuts, permissions)
			}
		}
		t.Logf("kvstore of %s: by grants %d puts, %d transactions", name, puts, txns)
		atMost(t, "puts to the kvstore of "+name, puts, noise)
		atMost(t, "transactions of the kvstore of "+name, txns, wantTxns+noise)
	}
}

// wantRefusalRequests checks that refusals from the cached view cost nothing.
func wantRefusalRequests(t *testing.T, w *scenario.Workload, spent, idle cost) {
	t.Helper()
	for name, requests := range spent.requests {
		t.Logf("%s: %d refusals: %s; idle for as long: %s", name, refusals, requests, idle.requests[name])
		events := 0
		if name == "c1" {
			events = refusalEvents
		}
		atMost(t, name+": reads of the pod", len(requests.resource("pods").verb("get")), 0)
		atMost(t, name+": events", len(requests.namespace(w.Namespace).resource("events").writes()), events+noise)
		others := requests.where(func(e sandbox.AuditEvent) bool {
			return !slices.Contains([]string{"pods", "events", "leases"}, e.Resource) && e.Verb != "watch" && e.Name != ledger.RegistryName
		})
		atMost(t, name+": other requests: "+others.String(), len(others), noise)
		if ledgers := requests.on("disruptionledgers", w.Namespace); len(ledgers) > 0 {
			t.Errorf("%s: refusals met the ledger: %s", name, ledgers)
		}
		registry := len(requests.on("configmaps", ledger.RegistryName))
		atMost(t, name+": reads of the registry", registry, len(idle.requests[name].on("configmaps", ledger.RegistryName))+noise)
	}
	for name := range spent.stores {
		t.Logf("kvstore of %s: %s, idle %s", name, counts(spent.stores[name]), counts(idle.stores[name]))
		for _, method := range []string{"Put", "Txn", "Range", "DeleteRange"} {
			atMost(t, fmt.Sprintf("%s requests to the kvstore of %s", method, name), spent.over(idle, name, method), noise)
		}
	}
}

func atMost(t *testing.T, what string, got, limit int) {
	t.Helper()
	if got > limit {
		t.Errorf("%s: got %d, want at most %d", what, got, limit)
	}
}
